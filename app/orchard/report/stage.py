"""The stage from an output's datasets and metrics to ``report.html``."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

from orchard.files import digest_of
from orchard.layout import REPORT, Metrics, Run
from orchard.output import Output
from orchard.report.page import collect, render


@functools.cache
def version() -> str:
    """Return what tells this version of the page from others: a digest of the files that make it."""
    files = sorted(file for file in Path(__file__).parent.rglob("*") if file.suffix in (".py", ".j2", ".css", ".js"))
    return digest_of(b"".join(file.read_bytes() for file in files))


def write_report(output: Output, metrics: Metrics, run: Run, read_image: Callable[[str], bytes]) -> None:
    """Write the page; see `orchard.report.page.collect`."""
    output.write(REPORT, render(collect(output, metrics, run, read_image)).encode())
