"""Sends the result of a run to a webhook when it ends, whether it succeeded or not."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from threading import Thread
from typing import Any
from urllib.error import URLError
from urllib.request import HTTPRedirectHandler, Request, build_opener

from orchard import interruption
from orchard.errors import OrchardError, first_line
from orchard.redaction import redacted, without_secrets

TIMEOUT_SECONDS = 5.0
ATTEMPTS = 2

log = logging.getLogger(__name__)

Told = dict[str, Any]
"""The message's fields; see docs/operations.md."""


class _NoRedirect(HTTPRedirectHandler):
    """A redirected POST would arrive as a GET, and elsewhere than at the address that was given."""

    def redirect_request(self, *_: Any) -> None:
        return None


_opener = build_opener(_NoRedirect)


@contextmanager
def told(url: str | None, output: str) -> Iterator[Told]:
    """POST the result of a ``with`` block as JSON to `url`, if there is one.

    A message must never stop a run: if it cannot be sent, that is a warning.

    Args:
        url: address of the webhook.
        output: the run's output.

    Yields: the message so far; the block may add to it.
    """
    message: Told = {}
    if url is None:
        yield message
        return
    started = time.monotonic()
    with interruption.in_order():
        try:
            yield message
        except BaseException as error:
            _post(url, _ended(error) | message, output, started)
            raise
        _post(url, {"state": "succeeded", "exit_code": 0, "reason": None} | message, output, started)


def _ended(error: BaseException) -> Told:
    if isinstance(error, KeyboardInterrupt):
        return {"state": "interrupted", "exit_code": None, "reason": "interrupted; what was committed is kept"}
    code = error.exit_code if isinstance(error, OrchardError) else 4
    reason = str(error) if isinstance(error, OrchardError) else f"{type(error).__name__}: {first_line(error)}"
    return {"state": "failed", "exit_code": code, "reason": reason}


def _post(url: str, found: Told, output: str, started: float, environment: Mapping[str, str] = os.environ) -> None:
    message = {
        **found,
        "job": environment.get("ORCHARD_APP_ID"),
        "namespace": environment.get("ORCHARD_POD_NAMESPACE"),
        "output": output,
        "seconds": round(time.monotonic() - started, 1),
    }
    reason = f": {found['reason']}" if found["reason"] else "."
    message = {"text": f"Orchard's run to {output} {found['state']}{reason}", **message}
    data = json.dumps(without_secrets(message), ensure_ascii=False).encode()
    request = Request(url, data, {"Content-Type": "application/json", "User-Agent": "orchard"}, method="POST")  # noqa: S310 -- the setting takes http and https alone
    # The limit is of each read, and an answer may come in drops; nor has looking up a name a limit.
    sender = Thread(target=_send, args=(request, url), name="orchard-webhook", daemon=True)
    sender.start()
    sender.join(ATTEMPTS * TIMEOUT_SECONDS + 1)
    if sender.is_alive():
        log.warning("the webhook may not know how the run ended: its answer does not come to an end")


def _send(request: Request, url: str) -> None:
    for attempt in range(ATTEMPTS):
        try:
            _opener.open(request, timeout=TIMEOUT_SECONDS).close()
        except (URLError, OSError, ValueError) as error:
            why = redacted(first_line(error)).replace(url, "its address")
            if attempt + 1 == ATTEMPTS:
                log.warning("the webhook was not told how the run ended: %s", why)
        else:
            return
