"""The command that serves: parse, call; nothing else."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable
from typing import Any

import click

from orchard import models
from orchard.commandline import FiniteRange
from orchard.delimited import decoded, read_table
from orchard.errors import InputError, UsageError
from orchard.flags import STORAGE, options, settings_from
from orchard.layout import CURRENT_MODEL
from orchard.progress import configure_logging
from orchard.storage import S3Options, open_storage

log = logging.getLogger(__name__)

MIB = 2**20
_COUNT = click.IntRange(min=1)
_ORIGIN = re.compile(r"\*|null|[a-z][a-z0-9+.-]*://[^/\s?#@A-Z]+")
"""As browsers write one; the server compares texts."""
_NOTICE_BYTES = 64 * 2**10
_LOOK_AGAIN_SECONDS = 10.0


def _limit(flag: str, default: float, text: str, *, min_open: bool = False) -> Callable[[Any], Any]:
    """Return the option of a limit: seconds if the default is a float, else a count of at least 1."""
    is_time = isinstance(default, float)
    kind = FiniteRange(min=0, min_open=min_open) if is_time else _COUNT
    shown = f"{text}  [default: {default:.0f}]"
    return click.option(flag, type=kind, default=default, metavar="S" if is_time else "N", help=shown)


@click.command(short_help="serve the model: an HTTP API and a page for phones")
@click.argument("output")
@click.option(
    "--host", default="127.0.0.1", help="address to listen on; 0.0.0.0: all, ::: all with IPv6  [default: 127.0.0.1]"
)
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8080, metavar="N", help="port to listen on  [default: 8080]"
)
@click.option(
    "--engines",
    type=_COUNT,
    metavar="N",
    help="number of engine processes  [default: one for each core, if memory has room]",
)
@_limit("--queue", 256, "largest number of images that may wait for an engine")
@_limit("--max-bytes", 20 * MIB, "largest file, in bytes")
@_limit("--max-total-bytes", 64 * MIB, "largest request, in bytes; at least --max-bytes")
@_limit("--max-held-bytes", 512 * MIB, "largest total of all requests in memory, in bytes")
@_limit("--max-pixels", 50_000_000, "largest image, in pixels")
@_limit("--max-files", 16, "largest number of files in a request")
@_limit("--max-decode-seconds", 10.0, "CPU time to decode an image, in seconds, at most", min_open=True)
@_limit("--body-seconds", 30.0, "time limit for a request's body to arrive, in seconds")
@_limit("--request-seconds", 30.0, "time limit for an answer, in seconds")
@_limit(
    "--drain-seconds", 0.0, "time after SIGTERM in which requests are still accepted while /readyz says no, in seconds"
)
@_limit("--shutdown-seconds", 30.0, "time after that for requests in progress to finish, in seconds")
@click.option(
    "--cors-origin",
    "cors_origins",
    multiple=True,
    metavar="URL",
    help="origin of a web page that may call the API; can be repeated",
)
@click.option(
    "--root-path", default="", metavar="PATH", help="path under which a proxy publishes the server, such as /fruits"
)
@click.option(
    "--privacy-notice",
    metavar="FILE|URL",
    help="privacy notice that the page shows: a file of plain text (in a bucket too), or an https:// address",
)
@click.option("--await-model", is_flag=True, help="wait until OUTPUT holds a model, and end: for an init container")
@options(*STORAGE)
def serve(  # noqa: PLR0917 -- click passes each flag by name
    output: str,
    host: str,
    port: int,
    engines: int | None,
    queue: int,
    max_bytes: int,
    max_total_bytes: int,
    max_held_bytes: int,
    max_pixels: int,
    max_files: int,
    max_decode_seconds: float,
    body_seconds: float,
    request_seconds: float,
    drain_seconds: float,
    shutdown_seconds: float,
    cors_origins: tuple[str, ...],
    privacy_notice: str | None,
    root_path: str,
    await_model: bool,
    as_json: bool,
    **flags: Any,
) -> int:
    """Serve the model of OUTPUT: an API at /v1/predict, a page for phones at /.

    Photographs are neither stored nor logged. On SIGTERM the server finishes the requests in progress and ends. With
    --json the log is JSON lines on a terminal too.

    \b
    Example:
      orchard serve out
      orchard serve s3a://bucket/results --host 0.0.0.0 --engines 4
    """
    debug = flags["debug"]
    settings = settings_from(flags)
    if as_json:
        configure_logging(debug=debug, for_people=False)
    root_path = root_path.rstrip("/")
    if root_path and not re.fullmatch(r"(/[A-Za-z0-9._~-]+)+", root_path):
        raise UsageError(f"--root-path {root_path} is no path such as /fruits: take letters, digits, -, _, . and ~.")
    for origin in cors_origins:
        if not _ORIGIN.fullmatch(origin):
            raise UsageError(
                f"--cors-origin {origin} is no origin such as https://shop.example: without path or slash."
            )
    if await_model:
        settings.check_regions(output)
        _await_model(output, settings.s3_options())
        return 0
    try:
        from orchard.serving import server
    except ModuleNotFoundError as error:
        raise UsageError(f"orchard serve needs {error.name}: `pip install '.[serve]'` in Orchard's checkout.") from None
    from orchard.inference.model import Model
    from orchard.machine import fitting_processes, shortage
    from orchard.serving.app import Serving
    from orchard.serving.uploads import UploadLimits

    if max_files > queue:
        raise UsageError(f"--max-files {max_files}: the queue of {queue} images has no room for them.")
    settings.check_regions(output, privacy_notice)
    notice = _notice(privacy_notice, settings.s3_options()) if privacy_notice else ""
    model = Model.load(output, settings.s3_options())
    engines = engines or fitting_processes(server.ENGINE_BYTES, max_held_bytes)
    if lacking := shortage(engines, server.ENGINE_BYTES, max_held_bytes):
        log.warning(lacking)
    serving = Serving(
        engines=engines,
        queue=queue,
        uploads=UploadLimits(
            max_bytes=max_bytes,
            max_total_bytes=max(max_total_bytes, max_bytes),
            max_files=max_files,
            body_seconds=body_seconds,
            max_held_bytes=max_held_bytes,
        ),
        max_pixels=max_pixels,
        max_decode_seconds=max_decode_seconds,
        request_seconds=request_seconds,
        cors_origins=cors_origins,
        root_path=root_path,
        privacy_notice=notice,
    )
    server.run(model, serving, host=host, port=port, drain_seconds=drain_seconds, shutdown_seconds=shutdown_seconds)
    return 0


def _await_model(output: str, s3: S3Options) -> None:
    """Return once there is a model. Raises AccessDenied or StorageError, as the store does."""
    storage = open_storage(output, s3)
    try:
        if not storage.exists(CURRENT_MODEL):
            log.info("waiting for a model in %s", output)
        while not storage.exists(CURRENT_MODEL):
            time.sleep(_LOOK_AGAIN_SECONDS)
    except OSError as error:
        raise models.explain(storage, error) from error


def _notice(given: str, s3: S3Options) -> str:
    """Return what the page shows. Raises InputError: the file is not there, is no text, or is too long."""
    from orchard.serving.static import is_address

    if is_address(given):
        return given
    data = read_table(given, "privacy-notice", _NOTICE_BYTES, s3)
    if len(data) > _NOTICE_BYTES:
        raise InputError(f"privacy-notice {given} has more than {_NOTICE_BYTES:,} bytes: shorten it, or give a URL.")
    try:
        text = decoded(data).strip()
    except ValueError as error:
        raise InputError(f"privacy-notice {given} is no text in UTF-8: save it so.") from error
    if not text:
        raise InputError(f"privacy-notice {given} is empty: write into it what people are to know.")
    return text


COMMANDS = (serve,)
