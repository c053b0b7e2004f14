"""The page: collects what the report shows, bounded for runs of any size, and renders one HTML file.

Names of classes and files are untrusted. Jinja escapes every name, also within SVG and the data block. The page's
content security policy allows only its own script, and loads nothing.
"""

import base64
import hashlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from markupsafe import Markup

from orchard.classification.intervals import FEW
from orchard.classification.training import classifier_title
from orchard.headline import MEASURES
from orchard.layout import CalibrationMetrics, ClassifierMetrics, ClassMetrics, Metrics, Planned, Run, StagePlan
from orchard.redaction import redacted
from orchard.report import alerts, figures, formatting, reproduce
from orchard.report.advice import advise, answered_at, broken_promise
from orchard.report.drawings import draw
from orchard.report.looks import Look, looks
from orchard.report.rendering import environment, source
from orchard.report.review import ReviewData, collect_review, fault_views, pixel_bars
from orchard.report.samples import (
    MAX_MISTAKES,
    MAX_MISTAKES_OF_A_PAIR,
    Mistake,
    Pairs,
    Point,
    RejectedImage,
    sample_points,
    sample_rejections,
    worst_mistakes,
)
from orchard.report.thumbnails import CELL_PIXELS, GALLERY_PIXELS, ICON_PIXELS, POINT_PIXELS, thumbnails
from orchard.vocabulary import Split

if TYPE_CHECKING:
    from orchard.inference.model import Model
    from orchard.output import Output

MAX_PICTURES = 600  # points with a thumbnail
MAX_ICONS = 120
MAX_CLASSIFIERS = 4  # with a matrix and a table; the comparison names all
MAX_CLASS_ROWS = 1_000  # of all per-class tables together
MAX_LABEL_ROWS = 600
MAX_SHEETS = 50, 12  # cells of the matrix that open their images: of the classifier that answers, of each other one
MAX_WITHOUT_CARD = 300
STAGES = ("list", "tune", "start", "extract", "reduce", "neighbours", "classify", "review", "report")
NO_IMAGES = ("tune", "start", "report")
"""Stages that do not process each image once, so that images per second would mean nothing."""
SIZES = {
    "worker_memory": "Memory of a worker",
    "driver_python": "Memory of the driver's Python",
    "driver_jvm": "Memory of the driver's JVM",
    "disk": "Output on disk",
    "tuning_disk": "Cache while tuning",
}
"""What is expected beside the time, see `orchard.layout.Sizes`."""
MAX_VALUES = 100, 24  # of all further label columns together: rows of values, and the most confused

_PATH = 64  # characters of a path in the data block


@dataclass(frozen=True)
class ReportData:
    """Everything that the page shows. A picture is base64 WebP, or None if there is none."""

    metrics: Metrics
    run: Run
    points: Sequence[Point] = ()
    pictures: Sequence[str | None] = ()  # of the first points
    mistakes: Mapping[str, Sequence[Mistake]] = field(default_factory=dict)  # of each classifier, the surest first
    shots: Mapping[str, str] = field(default_factory=dict)  # path -> picture: of mistakes and what is near to them
    rejections: Sequence[RejectedImage] = ()
    icons: Mapping[str, str] = field(default_factory=dict)  # label -> picture
    review: ReviewData = field(default_factory=ReviewData)
    looks: Mapping[str, Look] = field(default_factory=dict)  # path -> where the network looked, of some mistakes


@dataclass(frozen=True)
class LabelBar:
    """Images of a label: their counts in each split, and the widths of the bars as shares of the longest."""

    label: str
    counts: list[int]
    widths: list[float]
    total: int


@dataclass(frozen=True)
class Sheet:
    """The images that a click on a cell of a confusion matrix shows."""

    id: str
    label: str  # or the kind
    predicted: str
    count: int  # test images in the cell
    mistakes: list[Mistake]


Sheets = dict[tuple[str, str], Sheet]


@dataclass(frozen=True)
class ClassifierView:
    """A classifier's part of the page."""

    name: str
    title: str
    metrics: ClassifierMetrics
    matrix: figures.Matrix
    confusions: list[figures.Confusion]
    sheets: Sheets
    folded: figures.Matrix | None  # by kind; None where there are no kinds
    folded_confusions: list[figures.Confusion]
    folded_sheets: Sheets
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
    expected: StagePlan | None  # of the run that did it, if it could tell


def collect(
    output: "Output",
    metrics: Metrics,
    run: Run,
    read_image: Callable[[str], bytes],
    load_model: Callable[[], "Model"] | None = None,
) -> ReportData:
    """Sample an output's datasets and make the pictures, in bounded memory.

    Args:
        output: the output; one file of one dataset is in memory at a time.
        metrics: content of ``metrics.json``.
        run: content of ``run.json``.
        read_image: returns the bytes of the image with a given ``path``; called from several threads. An image
            that cannot be read or decoded has no picture.
        load_model: returns the output's model, which shows where it looked; None: that is not shown.
    """
    counts = {label: sum(splits.values()) for label, splits in metrics["labels"].items()}
    points = sample_points(output, counts)
    mistakes = worst_mistakes(output, _wanted(metrics))
    examples: dict[str, str] = {}
    for point in points:
        if len(examples) < MAX_ICONS:
            examples.setdefault(point.label, point.path)
    # In this order, what matters most gets its share of the budget first.
    answering = alerts.answering(metrics) or ""
    gallery = mistakes.get(answering, [])[:MAX_MISTAKES]
    shots = {mistake.path: GALLERY_PIXELS for mistake in gallery}
    for mistake in gallery:
        shots |= {near.path: CELL_PIXELS for near in mistake.neighbours if near.path not in shots}
    for mistake in (mistake for found in mistakes.values() for mistake in found):
        shots.setdefault(mistake.path, CELL_PIXELS)
    requests = list(shots.items())
    requests += [(path, ICON_PIXELS) for path in examples.values()]
    requests += [(point.path, POINT_PIXELS) for point in points[:MAX_PICTURES]]
    made = thumbnails(requests, read_image)
    icons = made[len(shots) : len(shots) + len(examples)]
    return ReportData(
        metrics,
        run,
        points,
        made[len(shots) + len(examples) :],
        mistakes,
        {path: shot for path, shot in zip(shots, made[: len(shots)], strict=True) if shot is not None},
        sample_rejections(output),
        {label: icon for label, icon in zip(examples, icons, strict=True) if icon is not None},
        collect_review(metrics, points, read_image),
        looks(gallery, answering, load_model, read_image) if load_model is not None else {},
    )


def _wanted(metrics: Metrics) -> dict[str, Pairs]:
    """The classifiers that are shown, with the confusions of each whose images the page is to hold."""
    shown, answering = list(alerts.measured(metrics).items())[:MAX_CLASSIFIERS], alerts.answering(metrics)
    most, others = MAX_SHEETS
    return {
        name: frozenset(
            (confusion.label, confusion.predicted)
            for confusion in figures.top_confusions(classifier, most if name == answering else others)
        )
        for name, classifier in shown
    }


def layout_of(data: ReportData) -> tuple[list[ClassifierView], figures.Scatter | None, dict[str, Markup]]:
    """The layout that page and slides share: classifiers, the map, and all figures by name."""
    pca = data.metrics.get("pca")
    ratios = pca["explained_variance_ratio"] if pca is not None else []
    views = _classifier_views(data)
    scatter = figures.scatter(data.points, ratios) if data.points else None
    return views, scatter, draw(data.metrics, scatter, data.pictures, views, data.run.get("sharing"))


def render(data: ReportData) -> str:
    """Render the report as one self-contained HTML document of less than 5 MB."""
    metrics, pca = data.metrics, data.metrics.get("pca")
    measured, calibration, near = alerts.measured(metrics), alerts.calibration(metrics), metrics.get("neighbours")
    views, scatter, drawn = layout_of(data)
    labels, splits = _label_bars(metrics)
    script, style = source("report.js"), source("figures.css") + source("report.css")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    answering = alerts.answering(metrics)
    columns = metrics.get("columns", {})
    most_values, most_confused = (-(-most // max(1, len(columns))) for most in MAX_VALUES)
    page = (
        environment()
        .get_template("report.html.j2")
        .render(
            data=data,
            metrics=metrics,
            run=data.run,
            pca=pca,
            title=_title(redacted(data.run["source"])),
            source=redacted(data.run["source"]),
            alerts=alerts.alerts(metrics),
            reasons=_reasons(metrics),
            advice=advise(metrics, data.run),
            answering=answering,
            selection=metrics.get("selection"),
            unknown=metrics.get("unknown"),
            cards=metrics.get("cards"),
            most_without_card=MAX_WITHOUT_CARD,
            broken=broken_promise(calibration) if calibration is not None else None,
            trades=_trades(calibration) if calibration is not None else [],
            gallery_of=list(data.mistakes.get(answering or "", ()))[:MAX_MISTAKES],
            sheet_of=_sheet_of(views, answering),
            columns=columns,
            sources=metrics.get("sources", {}),
            confused={
                name: figures.top_confusions(column["test"], most_confused)
                for name, column in columns.items()
                if "test" in column
            },
            most_values=most_values,
            has_kinds=any(view.folded is not None for view in views),
            shots={path: number for number, path in enumerate(data.shots)},
            looks={path: look for path, look in data.looks.items() if path in data.shots},
            drawn=drawn,
            headline=metrics.get("headline"),
            all_images=alerts.all_images(metrics),
            measured_on=MEASURES,
            near=near,
            apart=metrics.get("without_near_twins", {}),
            least=FEW,
            measured=measured,
            labels=labels[:MAX_LABEL_ROWS],
            labels_left_out=labels[MAX_LABEL_ROWS:],
            splits=splits,
            scatter=scatter,
            views=views,
            faults=fault_views(metrics, data.review),
            pixel_bars=pixel_bars(metrics["data"]) if "data" in metrics else [],
            calibration=calibration,
            icons=_icons(data),
            stages=_stages(metrics, data.run.get("plan")),
            planned=data.run.get("plan"),
            sharing=data.run.get("sharing"),
            sizes=SIZES,
            command=reproduce.command(data.run),
            block=_data_block(data, scatter, views),
            # Ours, and escaped against nothing: both come from this package.
            script=Markup(script),  # noqa: S704
            style=Markup(style),  # noqa: S704
            script_digest=digest,
        )
    )
    # Names from a file system may hold lone surrogates, which no UTF-8 file can.
    return page.encode("utf-8", "replace").decode("utf-8")


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


def _classifier_views(data: ReportData) -> list[ClassifierView]:
    shown = list(alerts.measured(data.metrics).items())[:MAX_CLASSIFIERS]
    rows = max(50, MAX_CLASS_ROWS // max(1, len(shown)))
    views = []
    for v, (name, classifier) in enumerate(shown):
        classes = sorted(
            classifier["per_class"].items(), key=lambda item: (item[1]["support"] == 0, item[1]["f1"], item[0])
        )
        mistakes, kinds = data.mistakes.get(name, ()), classifier.get("by_kind")
        by_kind = (((m.kind, m.predicted_kind), m) for m in mistakes if m.kind and m.predicted_kind)
        views.append(
            ClassifierView(
                name,
                classifier_title(name),
                classifier,
                figures.confusion_matrix(classifier),
                figures.top_confusions(classifier),
                _sheets(f"pair-{v}", classifier, (((m.label, m.predicted), m) for m in mistakes)),
                figures.confusion_matrix(kinds) if kinds is not None else None,
                figures.top_confusions(kinds) if kinds is not None else [],
                _sheets(f"kinds-{v}", kinds, by_kind) if kinds is not None else {},
                classes[:rows],
                max(0, len(classes) - rows),
                sum(0 < row["support"] < FEW for _, row in classes),
            )
        )
    return views


def _sheets(prefix: str, classifier: ClassifierMetrics, mistakes: Iterable[tuple[tuple[str, str], Mistake]]) -> Sheets:
    """The sheets that cells of a matrix open, for those cells that have images."""
    found: Sheets = {}
    for pair, mistake in mistakes:
        if pair not in found:
            label, predicted = pair
            count = classifier["confusion"].get(label, {}).get(predicted, 0)
            if label == predicted or not count:
                continue
            found[pair] = Sheet(f"{prefix}-{len(found)}", label, predicted, count, [])
        if len(found[pair].mistakes) < MAX_MISTAKES_OF_A_PAIR:
            found[pair].mistakes.append(mistake)
    return found


def _sheet_of(views: Sequence[ClassifierView], answering: str | None) -> Callable[[Mistake], str | None]:
    """The function that finds the sheet which a mistake in the gallery opens."""
    sheets = next((view.sheets for view in views if view.name == answering), {})

    def sheet(mistake: Mistake) -> str | None:
        found = sheets.get((mistake.label, mistake.predicted))
        return found.id if found is not None else None

    return sheet


def _trades(calibration: CalibrationMetrics) -> list[tuple[float, float]]:
    """Pairs of a wanted reliability and the share of test images that can then be answered."""
    wanted = sorted({0.99, 0.98, 0.95, 0.9, 0.8, round(calibration["sure_at"], 4)}, reverse=True)
    points = [(share, answered_at(calibration, share)) for share in wanted]
    return [(share, point["answered"] if point is not None else 0.0) for share, point in points]


def _reasons(metrics: Metrics) -> list[tuple[str, str, int]]:
    """Rejections by reason: the reason, what it means, how many; the most frequent first."""
    found = {reason: n for reason, n in metrics["images"]["rejected_by_reason"].items() if n}
    meaning = {reason.value: text for reason, text in alerts.REASONS.items()}
    return [(reason, meaning.get(reason, ""), found[reason]) for reason in sorted(found, key=lambda r: (-found[r], r))]


def _stages(metrics: Metrics, planned: Planned | None) -> list[StageBar]:
    expected = {stage["stage"]: stage for stage in planned["stages"]} if planned is not None else {}
    seconds = {name: value for name, value in metrics["seconds"].items() if name != "total" and math.isfinite(value)}
    order = [name for name in STAGES if name in seconds] + [name for name in seconds if name not in STAGES]
    total = max(metrics["seconds"].get("total", 0.0), sum(seconds.values())) or 1.0
    images = metrics["images"]
    worked_on = {"list": images["listed"], "extract": images["decoded"]}

    def rate(name: str) -> float | None:
        count = worked_on.get(name, images["featurized"])
        return count / seconds[name] if count and seconds[name] > 0 and name not in NO_IMAGES else None

    def plan_of(name: str) -> StagePlan | None:
        found = expected.get(name)
        is_of_this = (
            found is not None and found["seconds"] is not None and found.get("took", seconds[name]) == seconds[name]
        )
        return found if is_of_this else None

    return [StageBar(name, seconds[name], seconds[name] / total, rate(name), plan_of(name)) for name in order]


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
        _matrix_block(matrix, sheets)
        for view in views
        for matrix, sheets in ((view.matrix, view.sheets), (view.folded, view.folded_sheets))
    ]
    return block


def _matrix_block(matrix: figures.Matrix | None, sheets: Sheets) -> dict[str, object]:
    if matrix is None:
        return {}
    place = {name: i for i, name in enumerate(matrix.names)}
    return {
        "labels": matrix.labels,
        "cells": [[cell.row, cell.column, cell.count] for cell in matrix.cells],
        "totals": matrix.row_totals,
        "left": matrix.frame.left,
        "top": matrix.frame.top,
        "cell": matrix.cell,
        "sheets": [
            [place[label], place[predicted], sheet.id]
            for (label, predicted), sheet in sheets.items()
            if label in place and predicted in place
        ],
    }
