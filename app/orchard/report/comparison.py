"""The page of ``orchard compare``: backbones in one table and one figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from orchard.headline import MEASURES
from orchard.redaction import redacted
from orchard.report import figures
from orchard.report.formatting import percent
from orchard.report.rendering import environment, source


def render(images: str, rows: Sequence[Mapping[str, Any]], *, tolerance: float) -> str:
    """Render the comparison as one self-contained HTML document.

    Args:
        images: address of the source.
        rows: the rows that `orchard.comparison.compare` returns.
        tolerance: how much less accurate than the best the best trade-off may be, 0..1.
    """
    macros: Any = environment().get_template("figures.svg.j2").module
    placed = [
        (row["backbone"], row["ms_per_image"], row["accuracy"], row["accuracy_interval"], row["best_trade_off"])
        for row in rows
    ]
    best = next(row for row in rows if row["best_trade_off"])
    text = f"{best['backbone']} is the best trade-off, with {percent(best['accuracy'])}."
    page = (
        environment()
        .get_template("compare.html.j2")
        .render(
            source=redacted(images),
            rows=rows,
            best=best,
            tolerance=tolerance,
            measured_on=MEASURES[rows[0]["measure"]],
            race=macros.race(figures.race(placed), text),
            # Ours, and escaped against nothing: both come from this package.
            style=Markup(source("figures.css") + source("report.css")),  # noqa: S704
        )
    )
    return page.encode("utf-8", "replace").decode("utf-8")
