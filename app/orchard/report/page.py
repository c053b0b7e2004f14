"""The page: gathers what the report shows, bounded whatever the run's size, and renders it as one HTML file.

What a class or a file is called is untrusted. Jinja escapes every name, also within SVG and the data block, and
the page's content security policy runs no script but its own and loads nothing from anywhere.
"""

import base64
import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from orchard.classification.intervals import FEW
from orchard.headline import MEASURES
from orchard.layout import ClassifierMetrics, ClassMetrics, Metrics, Run, Split
from orchard.redaction import redacted
from orchard.report import alerts, figures, formatting, reproduce
from orchard.report.review import ReviewData, collect_review, fault_views, pixel_bars
from orchard.report.samples import (
    Mistake,
    Point,
    Rejection,
    sample_points,
    sample_rejections,
    worst_mistakes,
)
from orchard.report.thumbnails import GALLERY_PIXELS, ICON_PIXELS, POINT_PIXELS, thumbnails

if TYPE_CHECKING:
    from orchard.output import Output

MAX_PICTURES = 600  # points with a thumbnail
MAX_ICONS = 120
MAX_CLASSIFIERS = 4  # with a matrix and a table; the comparison names all
MAX_CLASS_ROWS = 1_000  # of all per-class tables together
MAX_LABEL_ROWS = 600
STAGES = ("list", "extract", "reduce", "neighbours", "classify", "review", "report")

_PATH = 64  # characters of a path in the data block


@dataclass(frozen=True)
class ReportData:
    """Everything that the page shows. Pictures are base64 WebP, None where there is none."""

    metrics: Metrics
    run: Run
    points: Sequence[Point] = ()
    pictures: Sequence[str | None] = ()  # of the first points
    mistakes: Sequence[Mistake] = ()
    mistake_pictures: Sequence[str | None] = ()
    rejections: Sequence[Rejection] = ()
    icons: Mapping[str, str] = field(default_factory=dict)  # label -> picture
    review: ReviewData = field(default_factory=ReviewData)


@dataclass(frozen=True)
class LabelBar:
    """Images of a label: their counts in each split, and the widths of the bars as shares of the longest."""

    label: str
    counts: list[int]
    widths: list[float]
    total: int


@dataclass(frozen=True)
class ClassifierView:
    """A classifier's part of the page."""

    name: str
    title: str
    metrics: ClassifierMetrics
    matrix: figures.Matrix
    confusions: list[figures.Confusion]
    classes: list[tuple[str, ClassMetrics]]  # the hardest first
    classes_left_out: int
    few: int  # classes that are measured on few test images


@dataclass(frozen=True)
class StageBar:
    """The time of a stage."""

    name: str
    seconds: float
    share: float  # of the total, 0..1
    images_per_second: float | None


def collect(output: "Output", metrics: Metrics, run: Run, read_image: Callable[[str], bytes]) -> ReportData:
    """Sample an output's datasets and make the pictures, in bounded memory.

    Args:
        output: where the committed datasets are; one file of one dataset is in memory at a time.
        metrics: what ``metrics.json`` holds.
        run: what ``run.json`` holds.
        read_image: returns the bytes of the image with a given ``path``; called from several threads. An image
            that cannot be read or decoded has no picture.
    """
    counts = {label: sum(splits.values()) for label, splits in metrics["labels"].items()}
    points = sample_points(output, counts)
    best = next(iter(alerts.measured(metrics)), None)
    mistakes = worst_mistakes(output, best) if best is not None else []
    examples: dict[str, str] = {}
    for point in points:
        if len(examples) < MAX_ICONS:
            examples.setdefault(point.label, point.path)
    # In this order, what matters most gets its share of the budget first.
    requests = [(mistake.path, GALLERY_PIXELS) for mistake in mistakes]
    requests += [(path, ICON_PIXELS) for path in examples.values()]
    requests += [(point.path, POINT_PIXELS) for point in points[:MAX_PICTURES]]
    made = thumbnails(requests, read_image)
    icons = made[len(mistakes) : len(mistakes) + len(examples)]
    return ReportData(
        metrics,
        run,
        points,
        made[len(mistakes) + len(examples) :],
        mistakes,
        made[: len(mistakes)],
        sample_rejections(output),
        {label: icon for label, icon in zip(examples, icons, strict=True) if icon is not None},
        collect_review(metrics, points, read_image),
    )


def render(data: ReportData) -> str:
    """The report as one HTML document that needs nothing else and is smaller than 5 MB."""
    metrics, pca = data.metrics, data.metrics.get("pca")
    ratios = pca["explained_variance_ratio"] if pca is not None else []
    measured, calibration, near = alerts.measured(metrics), metrics.get("calibration"), metrics.get("neighbours")
    views = _classifier_views(measured)
    scatter = figures.scatter(data.points, ratios) if data.points else None
    labels, splits = _label_bars(metrics)
    environment = _environment()
    script, style = _source(environment, "report.js"), _source(environment, "report.css")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    page = environment.get_template("report.html.j2").render(
        data=data,
        metrics=metrics,
        run=data.run,
        pca=pca,
        title=_title(redacted(data.run["source"])),
        source=redacted(data.run["source"]),
        alerts=alerts.alerts(metrics),
        reasons=_reasons(metrics),
        best=next(iter(measured.items()), None),
        headline=metrics.get("headline"),
        all_images=alerts.all_images(metrics),
        measured_on=MEASURES,
        near=near,
        apart=metrics.get("without_near_twins", {}),
        distribution=figures.distribution(near) if near is not None and near["test_rows"] else None,
        least=FEW,
        measured=measured,
        labels=labels[:MAX_LABEL_ROWS],
        labels_left_out=labels[MAX_LABEL_ROWS:],
        splits=splits,
        scree=figures.scree(ratios, pca["k"]) if pca is not None and ratios else None,
        cumulative=figures.cumulative(ratios, pca["k"]) if pca is not None and ratios else None,
        scatter=scatter,
        views=views,
        faults=fault_views(metrics, data.review),
        pixel_bars=pixel_bars(metrics["data"]) if "data" in metrics else [],
        calibration=calibration,
        reliability=figures.reliability(calibration) if calibration is not None else None,
        icons=_icons(data),
        stages=_stages(metrics),
        command=reproduce.command(data.run),
        block=_data_block(data, scatter, views),
        # Ours, and escaped against nothing: both come from this package.
        script=Markup(script),  # noqa: S704
        style=Markup(style),  # noqa: S704
        script_digest=digest,
    )
    # Names from a file system may hold lone surrogates, which no UTF-8 file can.
    return page.encode("utf-8", "replace").decode("utf-8")


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("orchard.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {"ensure_ascii": False, "separators": (",", ":")}
    environment.filters.update(
        number=formatting.number,
        count=formatting.count,
        percent=formatting.percent,
        interval=formatting.interval,
        duration=formatting.duration,
        filesize=formatting.size,
        date=formatting.date,
        shorten=formatting.shorten,
        tail=formatting.tail,
        label_name=formatting.label_name,
        title=classifier_title,
        shown=reproduce.shown,
        zip_longest=lambda *columns: list(zip_longest(*columns)),
    )
    environment.globals["cell_at"] = figures.cell_at
    return environment


def _source(environment: Environment, name: str) -> str:
    assert environment.loader is not None
    return environment.loader.get_source(environment, name)[0]


def classifier_title(name: str) -> str:
    """``logistic_regression`` as "Logistic regression"."""
    words = name.replace("_", " ").strip()
    return words[:1].upper() + words[1:]


def _title(source: str) -> str:
    """The source's last folder, or the bucket."""
    parts = urlsplit(source)
    name = PurePosixPath(parts.path).name if parts.scheme else PurePosixPath(source.rstrip("/")).name
    return (unquote(name) if parts.scheme else name) or parts.hostname or "Images"


def _label_bars(metrics: Metrics) -> tuple[list[LabelBar], list[str]]:
    """Labels by falling number of images, and the splits that occur, in the order of `Split`."""
    present = {split for counts in metrics["labels"].values() for split, count in counts.items() if count}
    splits = [split.value for split in Split if split in present] + sorted(present - {s.value for s in Split})
    totals = {label: sum(counts.values()) for label, counts in metrics["labels"].items()}
    longest = max(totals.values(), default=1) or 1
    bars = []
    for label in sorted(totals, key=lambda label: (-totals[label], label)):
        counts = [metrics["labels"][label].get(split, 0) for split in splits]
        bars.append(LabelBar(label, counts, [count / longest for count in counts], totals[label]))
    return bars, splits


def _classifier_views(measured: Mapping[str, ClassifierMetrics]) -> list[ClassifierView]:
    shown = list(measured.items())[:MAX_CLASSIFIERS]
    rows = max(50, MAX_CLASS_ROWS // max(1, len(shown)))
    views = []
    for name, classifier in shown:
        classes = sorted(
            classifier["per_class"].items(), key=lambda item: (item[1]["support"] == 0, item[1]["f1"], item[0])
        )
        views.append(
            ClassifierView(
                name,
                classifier_title(name),
                classifier,
                figures.confusion_matrix(classifier),
                figures.top_confusions(classifier),
                classes[:rows],
                max(0, len(classes) - rows),
                sum(0 < row["support"] < FEW for _, row in classes),
            )
        )
    return views


def _reasons(metrics: Metrics) -> list[tuple[str, str, int]]:
    """Rejections by reason: the reason, what it means, how many; the most frequent first."""
    found = {reason: n for reason, n in metrics["images"]["rejected_by_reason"].items() if n}
    meaning = {reason.value: text for reason, text in alerts.REASONS.items()}
    return [(reason, meaning.get(reason, ""), found[reason]) for reason in sorted(found, key=lambda r: (-found[r], r))]


def _stages(metrics: Metrics) -> list[StageBar]:
    seconds = {name: value for name, value in metrics["seconds"].items() if name != "total" and math.isfinite(value)}
    order = [name for name in STAGES if name in seconds] + [name for name in seconds if name not in STAGES]
    total = max(metrics["seconds"].get("total", 0.0), sum(seconds.values())) or 1.0
    images = metrics["images"]
    worked_on = {"list": images["listed"], "extract": images["decoded"]}

    def rate(name: str) -> float | None:
        count = worked_on.get(name, images["featurized"])
        return count / seconds[name] if count and seconds[name] > 0 and name != "report" else None

    return [StageBar(name, seconds[name], seconds[name] / total, rate(name)) for name in order]


def _icons(data: ReportData) -> dict[str, tuple[int, str]]:
    """The number and picture of each label that has one; as a CSS class, each is in the page once."""
    return {label: (i, picture) for i, (label, picture) in enumerate(data.icons.items())}


def _data_block(
    data: ReportData, scatter: figures.Scatter | None, views: Sequence[ClassifierView]
) -> dict[str, object]:
    """What the script needs to answer a pointer; it is escaped as JSON within HTML by Jinja's ``tojson``."""
    block: dict[str, object] = {"points": [], "labels": [], "pictures": [], "matrices": []}
    if scatter is not None:
        pictures = [*data.pictures, *([None] * len(data.points))]
        block["labels"] = [formatting.label_name(label) for label in scatter.labels]
        block["points"] = [
            [mark.x, mark.y, mark.label, formatting.tail(point.path, _PATH), point.split]
            for mark, point in zip(scatter.marks, data.points, strict=True)
        ]
        block["pictures"] = pictures[: len(data.pictures)]
    block["matrices"] = [
        {
            "labels": view.matrix.labels,
            "cells": [[cell.row, cell.column, cell.count] for cell in view.matrix.cells],
            "totals": view.matrix.row_totals,
            "left": view.matrix.frame.left,
            "top": view.matrix.frame.top,
            "cell": view.matrix.cell,
        }
        for view in views
    ]
    return block
