"""The stage from an output's datasets and metrics to ``report.html``."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

from orchard.files import digest_of
from orchard.inference.model import Model
from orchard.layout import REPORT, Metrics, Run
from orchard.output import Output
from orchard.report import slides
from orchard.report.page import collect, layout_of, render


@functools.cache
def version() -> str:
    """Return the version of the page: a digest of the source files that make it."""
    files = sorted(file for file in Path(__file__).parent.rglob("*") if file.suffix in (".py", ".j2", ".css", ".js"))
    return digest_of(b"".join(file.read_bytes() for file in files))


def write_report(
    output: Output,
    metrics: Metrics,
    run: Run,
    read_image: Callable[[str], bytes],
    load_model: Callable[[], Model],
    *,
    figures: Path | None = None,
) -> None:
    """Write the page, see `orchard.report.page.collect`, and, if a folder `figures` is given, its figures there.

    Raises:
        UsageError: the figures cannot be written.
    """
    if figures is not None:
        slides.renderer()
    data = collect(output, metrics, run, read_image, load_model)
    output.write(REPORT, render(data).encode())
    if figures is not None:
        _, _, drawn = layout_of(data)
        slides.write_figures(drawn, figures)
