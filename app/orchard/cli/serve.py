"""The command that serves: parse, call; nothing else."""

from __future__ import annotations

import re
from typing import Any

import click

from orchard.delimited import decoded, read_table
from orchard.errors import InputError, UsageError
from orchard.flags import STORAGE, options, settings_from
from orchard.progress import configure_logging
from orchard.storage import S3Options

MIB = 2**20
_COUNT = click.IntRange(min=1)
_SECONDS = click.FloatRange(min=0)
_NOTICE_BYTES = 64 * 2**10


@click.command(short_help="serve the model: an HTTP API and a page for phones")
@click.argument("output")
@click.option(
    "--host", default="127.0.0.1", help="address to listen on; 0.0.0.0: all, ::: all with IPv6  [default: 127.0.0.1]"
)
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8080, metavar="N", help="port to listen on  [default: 8080]"
)
@click.option("--engines", type=_COUNT, metavar="N", help="number of engine processes  [default: one for each core]")
@click.option(
    "--queue",
    type=_COUNT,
    default=256,
    metavar="N",
    help="largest number of images that may wait for an engine  [default: 256]",
)
@click.option(
    "--max-bytes", type=_COUNT, default=20 * MIB, metavar="N", help="largest file, in bytes  [default: 20971520]"
)
@click.option(
    "--max-total-bytes",
    type=_COUNT,
    default=64 * MIB,
    metavar="N",
    help="largest request, in bytes  [default: 67108864]",
)
@click.option(
    "--max-held-bytes",
    type=_COUNT,
    default=512 * MIB,
    metavar="N",
    help="largest total of all requests in memory, in bytes  [default: 536870912]",
)
@click.option(
    "--max-pixels", type=_COUNT, default=50_000_000, metavar="N", help="largest image, in pixels  [default: 50000000]"
)
@click.option(
    "--max-files", type=_COUNT, default=16, metavar="N", help="largest number of files in a request  [default: 16]"
)
@click.option(
    "--max-decode-seconds",
    type=click.FloatRange(min=0, min_open=True),
    default=10.0,
    metavar="S",
    help="CPU time to decode an image, in seconds, at most  [default: 10]",
)
@click.option(
    "--body-seconds",
    type=_SECONDS,
    default=30.0,
    metavar="S",
    help="time limit for a request's body to arrive, in seconds  [default: 30]",
)
@click.option(
    "--request-seconds",
    type=_SECONDS,
    default=30.0,
    metavar="S",
    help="time limit for an answer, in seconds  [default: 30]",
)
@click.option(
    "--drain-seconds",
    type=_SECONDS,
    default=0.0,
    metavar="S",
    help="time after SIGTERM in which requests are still accepted while /readyz says no, in seconds  [default: 0]",
)
@click.option(
    "--shutdown-seconds",
    type=_SECONDS,
    default=30.0,
    metavar="S",
    help="time after that for requests in progress to finish, in seconds  [default: 30]",
)
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
    try:
        from orchard.serving import server
    except ModuleNotFoundError as error:
        raise UsageError(f"orchard serve needs {error.name}: `pip install '.[serve]'` in Orchard's checkout.") from None
    from orchard.inference.model import Model
    from orchard.machine import available_cores
    from orchard.serving.app import Serving
    from orchard.serving.uploads import UploadLimits

    if max_files > queue:
        raise UsageError(f"--max-files {max_files}: the queue of {queue} images has no room for them.")
    settings.check_regions(output, *([privacy_notice] if privacy_notice else []))
    notice = _notice(privacy_notice, settings.s3_options()) if privacy_notice else ""
    model = Model.load(output, settings.s3_options())
    serving = Serving(
        engines=engines or available_cores(),
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
