"""Middleware for every request: an id, security headers, a log line, metrics, and an error that says what is wrong."""

from __future__ import annotations

import asyncio
import logging
import random
import re
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from http import HTTPStatus

from orchard.serving.asgi import AsgiApp, Message, Receive, Scope, Send
from orchard.serving.metrics import ServerMetrics
from orchard.serving.problems import MEDIA_TYPE, Problem, Refusal

log = logging.getLogger(__name__)
access = logging.getLogger("orchard.access")

CLIENT_GONE = 499
"""Status in log and metrics if the client has gone before the answer; nginx uses the same number."""
MAX_LOGGED_PATH = 100

_REQUEST_ID = re.compile(rb"[A-Za-z0-9-]{1,64}")

SECURITY_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; script-src 'self' 'wasm-unsafe-eval'; worker-src 'self'; "
    "img-src 'self' blob: data:; connect-src 'self'; object-src 'none'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Permissions-Policy": "camera=(self)",
}
_SECURITY_HEADERS = [(name.lower().encode(), value.encode()) for name, value in SECURITY_HEADERS.items()]


@dataclass(slots=True)
class Exchange:
    """A request's id, status and figures while it is answered."""

    request_id: str
    images: int = 0
    bytes: int = 0
    status: int = 0
    """Status of the answer; 0: there is none yet."""
    body_pending: bool = False
    """Whether the body was refused before its end."""


class Gone(Exception):
    """The client has gone away."""


def exchange(scope: Scope) -> Exchange:
    """Return the `Exchange` that `RequestMiddleware` keeps for the request."""
    found: Exchange = scope["orchard.exchange"]
    return found


class RequestMiddleware:
    """ASGI middleware.

    Args:
        app: the application that answers.
        metrics: the server's metrics.
        routes: paths that are counted separately; all others are counted together.
        probes: paths that a cluster asks every few seconds. Their good answers are in the log only with ``--debug``.
        draining: returns whether the server is about to stop, so that clients should use another connection.
    """

    def __init__(
        self,
        app: AsgiApp,
        metrics: ServerMetrics,
        routes: Collection[str],
        probes: Collection[str],
        draining: Callable[[], bool],
    ) -> None:
        self._app = app
        self._metrics = metrics
        self._routes = frozenset(routes)
        self._probes = frozenset(probes)
        self._draining = draining

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        state = scope["orchard.exchange"] = Exchange(_request_id(scope))
        method, path = scope["method"], scope["path"]

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                state.status = message["status"]
                own = [(b"x-request-id", state.request_id.encode()), *_SECURITY_HEADERS]
                if self._draining():
                    own.append((b"connection", b"close"))
                message["headers"] = [*message.get("headers", ()), *own]
            await send(message)

        # What can be got answers HEAD, too: probes ask so. What sends the answer leaves out its body.
        asked = {**scope, "method": "GET"} if method == "HEAD" else scope
        try:
            await self._app(asked, receive, answer)
        except Gone as gone:
            state.status = CLIENT_GONE
            _let_go(gone)
        except asyncio.CancelledError:  # the time to shut down is over; another server can answer
            if state.status:
                raise
            stopping = Problem(Refusal.NOT_READY, "The server stops before it can answer; try again.")
            await _refuse(stopping, state, answer)
        except Exception as error:
            if state.status:
                log.exception("request %s failed after its answer had begun", state.request_id)
                raise
            problem = _problem(error)
            if problem.status == HTTPStatus.INTERNAL_SERVER_ERROR:
                log.exception("request %s failed", state.request_id)
            if problem.reason is not None:
                self._metrics.rejected(problem.reason)
            _let_go(error)
            await _refuse(problem, state, answer)
        finally:
            seconds = time.perf_counter() - started
            self._metrics.request(path if path in self._routes else "other", state.status, seconds)
            fields = {
                "request_id": state.request_id,
                "method": method,
                "path": path[:MAX_LOGGED_PATH],
                "status": int(state.status),
                "milliseconds": round(1000 * seconds, 2),
                "images": state.images,
                "bytes": state.bytes,
            }
            level = logging.DEBUG if path in self._probes and state.status == HTTPStatus.OK else logging.INFO
            access.log(level, "%s %s %d", method, fields["path"], state.status, extra={"fields": fields})


def _request_id(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _REQUEST_ID.fullmatch(value):
            given: bytes = value
            return given.decode()
    return f"{random.getrandbits(128):032x}"  # no secret, and the kernel takes 0.04 ms for 16 bytes


def _problem(error: Exception) -> Problem:
    """Return the problem that the client is sent for an error."""
    return error if isinstance(error, Problem) else Problem(None)


def _let_go(error: Exception) -> None:
    """Free the photographs of a request that has failed: they are in the frames that its error has passed.

    An error that one of these frames knows would keep them, uncounted, until Python collects garbage.
    """
    error.__traceback__ = None


async def _refuse(problem: Problem, state: Exchange, send: Send) -> None:
    body = problem.to_json(state.request_id)
    headers = {"Content-Type": MEDIA_TYPE, "Content-Length": str(len(body)), **problem.headers}
    if state.body_pending:  # the server reads and drops the rest
        headers["Connection"] = "close"
    encoded = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": int(problem.status), "headers": encoded})
    await send({"type": "http.response.body", "body": body})
