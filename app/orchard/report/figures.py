"""The geometry of the report's figures: data in, coordinates of an SVG viewBox out; the templates draw them.

No chart library, on purpose: the page has to work offline, in one file of less than 5 MB, without JavaScript
and for names that nobody vetted. Plotly's script alone is over 4 MB, and Matplotlib's SVG has neither labels that
a screen reader finds nor colours that follow the reader's light or dark theme. What is needed is small: curves,
clouds of points and a heat map. Text is never put into markup here; Jinja escapes it.
"""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from heapq import nsmallest

import numpy as np
from numpy.typing import NDArray

from orchard.classification.intervals import wilson
from orchard.layout import (
    CalibrationMetrics,
    ClassifierMetrics,
    Interval,
    NeighbourMetrics,
    ReliabilityBin,
    Sharing,
    UnknownMetrics,
)
from orchard.report.formatting import label_name, number, percent, shorten
from orchard.report.samples import Point

MAX_MATRIX_LABELS = 60  # more rows than that cannot be read on a screen
LEVELS = (
    0.0,
    0.02,
    0.06,
    0.12,
    0.25,
    0.45,
    0.7,
)  # lower bounds of the heat map's seven shades, shares of 0..1

_MAX_CURVE_POINTS = 400
_MAX_SCREE_BARS = 120
_AXIS_NAME = 22  # characters of a label beside the matrix


@dataclass(frozen=True)
class Frame:
    """A plot area inside a viewBox that starts at 0, 0."""

    width: float
    height: float
    left: float
    top: float
    right: float
    bottom: float

    def x(self, share: float) -> float:
        """The x coordinate for a share, 0..1, of the axis."""
        return round(self.left + share * (self.right - self.left), 2)

    def y(self, share: float) -> float:
        """The y coordinate for a share, 0..1, of the axis; 0 is the bottom."""
        return round(self.bottom - share * (self.bottom - self.top), 2)


@dataclass(frozen=True)
class Tick:
    """A mark on an axis."""

    at: float
    text: str


@dataclass(frozen=True)
class Marker:
    """The chosen number of components, on a curve."""

    x: float
    y: float
    text: str
    anchor: str  # SVG text-anchor: on which side of the line there is room


@dataclass(frozen=True)
class Curve:
    """A line over components, with the chosen ``k`` marked."""

    frame: Frame
    line: str  # SVG path data
    area: str
    bars: list[tuple[float, float, float, float]]  # x, y, width, height; those of the first k come first
    chosen_bars: int
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    marker: Marker | None


@dataclass(frozen=True)
class Reliability:
    """Reliability diagram: accuracy by confidence, before and after calibration, with the ideal diagonal."""

    frame: Frame
    before: list[tuple[float, float, float]]  # x, y, radius: the area is the share of the images
    after: list[tuple[float, float, float]]
    diagonal: str  # SVG path data
    ticks: list[tuple[float, float, str]]  # x, y, text: both axes alike
    marker: Marker  # the threshold


@dataclass(frozen=True)
class Distribution:
    """Shares of test images, as columns, and of other images, as a line, over a similarity."""

    frame: Frame
    columns: list[tuple[float, float, float, float, bool]]  # x, y, width, height, whether it is to stand out
    line: str  # SVG path data
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    marker: Marker | None  # the threshold


@dataclass(frozen=True)
class Coverage:
    """Accuracy, with its interval, if only the most confident answers are given, by the share of answered images."""

    frame: Frame
    line: str  # SVG path data
    band: str
    wanted: float  # y of the accuracy that sure answers were to have
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    marker: Marker  # today's threshold


@dataclass(frozen=True)
class Race:
    """Backbones as points: time for an image across, accuracy with its interval upwards."""

    frame: Frame
    marks: list[tuple[float, float, float, float, bool]]  # x, y, y of the interval's ends, whether the best trade-off
    names: list[Marker]
    x_ticks: list[Tick]
    y_ticks: list[Tick]


@dataclass(frozen=True)
class Mark:
    """A point of the scatter plot; colour, shape and fill together tell 64 labels apart."""

    x: float
    y: float
    label: int  # index into `Scatter.labels`
    index: int  # of the point as sampled


@dataclass(frozen=True)
class Scatter:
    """Images in the plane of the first two components."""

    frame: Frame
    marks: list[Mark]
    labels: list[str]
    counts: list[int]  # points of each label
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    x_title: str
    y_title: str
    one_component: bool


@dataclass(frozen=True)
class Cell:
    """A pair of true and predicted class that occurs."""

    row: int
    column: int
    count: int
    share: float  # of the row: of the test images that truly are of the class


@dataclass(frozen=True)
class Confusion:
    """Two classes that are taken for one another."""

    label: str
    predicted: str
    count: int
    share: float


@dataclass(frozen=True)
class Matrix:
    """A confusion matrix as a heat map; rows are true classes, columns predicted ones."""

    frame: Frame
    cell: float
    font: float
    names: list[str]
    labels: list[str]  # the names as shown
    axis: list[Tick]  # shortened labels, at the middle of their row and column
    cells: list[Cell]
    row_totals: list[int]
    left_out: int  # classes that are confused least
    shades: dict[str, dict[str, str]] = field(default_factory=dict)  # "share"|"count" -> "ok1".."no7" -> path

    @property
    def written(self) -> bool:
        """Whether cells are large enough to hold their count."""
        return self.cell >= 22


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round values (1, 2 or 5 times a power of ten) from ``low`` to ``high``."""
    if not high > low:
        return [low]
    step = 10.0 ** math.floor(math.log10((high - low) / about))
    step *= next(factor for factor in (1, 2, 5, 10) if (high - low) / (step * factor) <= about + 0.5)
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 10) + 0.0 for i in range(first, math.floor(high / step + 1e-9) + 1)]


def scree(ratios: Sequence[float], k: int) -> Curve:
    """The share of the variance that each of the first components holds, ``k`` marked."""
    frame = Frame(560, 310, 58, 22, 544, 256)
    shown = min(len(ratios), max(20, math.ceil(k * 1.25)), _MAX_SCREE_BARS)
    values = [max(0.0, value) for value in np.nan_to_num(ratios[:shown]).tolist()]
    top = max(values, default=0.0) or 1.0
    slot = 1 / max(6, shown)  # few components get columns, not walls
    bars = []
    for i, value in enumerate(values):
        left, right = frame.x((i + 0.1) * slot), frame.x((i + 0.9) * slot)
        bars.append(
            (
                left,
                frame.y(value / top),
                round(right - left, 2),
                round(frame.bottom - frame.y(value / top), 2),
            )
        )
    marker = None
    if 1 <= k <= shown:
        marker = _marker(frame, k * slot, 1.0, f"k = {number(k)}")
    return Curve(
        frame,
        "",
        "",
        bars,
        min(k, shown),
        [Tick(frame.x((i - 0.5) * slot), number(i)) for i in _component_ticks(shown)],
        [Tick(frame.y(value / top), percent(value)) for value in ticks(0, top, 4)],
        marker,
    )


def cumulative(ratios: Sequence[float], k: int) -> Curve:
    """The share of the variance that the first 1, 2, ... components hold together, ``k`` marked."""
    frame = Frame(560, 310, 58, 22, 544, 256)
    total = np.clip(np.cumsum(np.nan_to_num(ratios)), 0.0, 1.0)
    n = len(total)
    chosen = min(max(k, 1), n) if n else 0
    at = {1, chosen, n} | {1 + round(i * (n - 1) / _MAX_CURVE_POINTS) for i in range(_MAX_CURVE_POINTS + 1)}
    span = max(1, n - 1)
    places = [(frame.x((i - 1) / span), frame.y(float(total[i - 1]))) for i in sorted(at) if 1 <= i <= n]
    line = "M" + "L".join(f"{x:g} {y:g}" for x, y in places) if places else ""
    area = f"{line}L{places[-1][0]:g} {frame.bottom:g}L{places[0][0]:g} {frame.bottom:g}Z" if places else ""
    marker = None
    if chosen:
        share = float(total[chosen - 1])
        marker = _marker(frame, (chosen - 1) / span, share, f"k = {number(chosen)}: {percent(share)}")
    return Curve(
        frame,
        line,
        area,
        [],
        0,
        [Tick(frame.x((i - 1) / span), number(i)) for i in _component_ticks(n)],
        [Tick(frame.y(share), f"{share:.0%}") for share in (0, 0.25, 0.5, 0.75, 1)],
        marker,
    )


def reliability(calibration: CalibrationMetrics) -> Reliability:
    """The reliability diagram of `orchard.inference.calibration.reliability`, the threshold marked."""
    frame = Frame(560, 310, 58, 22, 544, 256)

    def dots(bins: Sequence[ReliabilityBin]) -> list[tuple[float, float, float]]:
        return [
            (frame.x(row["confidence"]), frame.y(row["accuracy"]), round(3 + 13 * math.sqrt(row["images"]), 2))
            for row in bins
        ]

    threshold = calibration["threshold"]
    return Reliability(
        frame,
        dots(calibration["reliability_before"]),
        dots(calibration["reliability_after"]),
        f"M{frame.x(0):g} {frame.y(0):g}L{frame.x(1):g} {frame.y(1):g}",
        [(frame.x(share), frame.y(share), f"{share:.0%}") for share in (0, 0.25, 0.5, 0.75, 1)],
        _marker(frame, threshold, 1.0, f"sure from {percent(threshold)}"),
    )


def coverage(calibration: CalibrationMetrics) -> Coverage:
    """Draw ``calibration.coverage``, the threshold and the wanted reliability marked."""
    frame = Frame(560, 310, 58, 22, 544, 256)
    points = [
        (
            point["answered"],
            point["right"] / point["images"],
            *wilson(point["right"] / point["images"], point["images"]),
        )
        for point in calibration["coverage"]
    ]
    lowest = min([calibration["sure_at"], *(low for _, _, low, _ in points)], default=0.0)
    floor = max(0.0, math.floor(lowest * 10 - 1e-9) / 10)

    def up(share: float) -> float:
        return frame.y((share - floor) / (1 - floor))

    def path(values: Iterable[tuple[float, float]]) -> str:
        return "L".join(f"{frame.x(answered):g} {up(share):g}" for answered, share in values)

    upper = path((answered, high) for answered, _, _, high in points)
    lower = path((answered, low) for answered, _, low, _ in reversed(points))
    share = calibration["share_sure"]
    accuracy = calibration["accuracy_sure"]
    text = f"today: {percent(share)} answered" + (f", {percent(accuracy)} right" if accuracy is not None else "")
    return Coverage(
        frame,
        "M" + path((answered, right) for answered, right, _, _ in points) if points else "",
        f"M{upper}L{lower}Z" if points else "",
        up(calibration["sure_at"]),
        [Tick(frame.x(answered), f"{answered:.0%}") for answered in (0, 0.25, 0.5, 0.75, 1)],
        [Tick(up(value), f"{value:.0%}") for value in ticks(floor, 1, 5)],
        _marker(frame, share, 1.0, text),
    )


def distribution(found: NeighbourMetrics) -> Distribution:
    """Similarity of test images to training images, and of training images to other labels; near twins are marked."""
    test, other = np.array(found["test"]["images"], float), np.array(found["other_labels"]["images"], float)
    low, high, bins = found["test"]["low"], found["test"]["high"], len(test)
    used = np.flatnonzero(test + other)
    first = max(0, min(int(used.min(initial=bins)) - 1, bins - 10))
    threshold = found["threshold"]
    return _histogram(
        test,
        other,
        low=low,
        high=high,
        first=first,
        above=threshold,
        threshold=threshold,
        says="near twins from",
    )


def familiarity(calibration: CalibrationMetrics, unknown: UnknownMetrics | None) -> Distribution:
    """Familiarity of test images and of images of unknown things; those that are answered "unknown" stand out."""
    test = np.array(calibration["familiarity"], float)
    other = np.array(unknown["familiarity"] if unknown is not None else [0] * len(test), float)
    threshold = calibration["familiarity_threshold"]
    return _histogram(
        test, other, low=0.0, high=1.0, first=0, below=threshold, threshold=threshold, says="unknown below"
    )


def _histogram(
    test: NDArray[np.float64],
    other: NDArray[np.float64],
    *,
    low: float,
    high: float,
    first: int,
    threshold: float | None,
    says: str,
    above: float | None = None,
    below: float | None = None,
) -> Distribution:
    """Draw two histograms of equal bins from `low` to `high`, without the bins before `first`, as shares of each."""
    frame = Frame(560, 310, 58, 22, 544, 256)
    width = (high - low) / len(test)
    test, other = (counts[first:] / max(1.0, counts.sum()) for counts in (test, other))
    top = float(max(test.max(), other.max())) or 1.0
    start = low + first * width

    def across(value: float) -> float:
        return frame.x((value - start) / (high - start))

    columns, steps = [], []
    for i, (share, background) in enumerate(zip(test.tolist(), other.tolist(), strict=True)):
        left, right = across(start + i * width), across(start + (i + 1) * width)
        y = frame.y(share / top)
        stands_out = (above is not None and start + (i + 1) * width > above + 1e-9) or (
            below is not None and start + (i + 1) * width <= below + 1e-9
        )
        columns.append((left, y, round(max(right - left - 1, 1), 2), round(frame.bottom - y, 2), stands_out))
        steps.append(f"V{frame.y(background / top):g}H{right:g}")
    marker = None
    if threshold is not None:
        marker = _marker(frame, (threshold - start) / (high - start), 1.0, f"{says} {threshold:.3f}")
    return Distribution(
        frame,
        columns,
        f"M{frame.left:g} {frame.bottom:g}{''.join(steps)}V{frame.bottom:g}" if other.any() else "",
        [Tick(across(value), number(value)) for value in ticks(start, high)],
        [Tick(frame.y(share / top), percent(share)) for share in ticks(0, top, 4)],
        marker,
    )


def at_work(sharing: Sharing) -> Distribution:
    """Number of running tasks over the time of the extraction.

    Periods with fewer than half of the highest number stand out.
    """
    frame = Frame(560, 310, 58, 22, 544, 256)
    values, width = sharing["at_work"], sharing["bin_seconds"]
    top, length = max(values, default=0.0) or 1.0, width * len(values) or 1.0
    columns = []
    for i, value in enumerate(values):
        left, right = frame.x(i * width / length), frame.x((i + 1) * width / length)
        y = frame.y(value / top)
        size = round(max(right - left - 1, 1), 2), round(frame.bottom - y, 2)
        columns.append((left, y, *size, value < top / 2))
    return Distribution(
        frame,
        columns,
        "",
        [Tick(frame.x(value / length), number(value)) for value in ticks(0, length)],
        [Tick(frame.y(value / top), number(value)) for value in ticks(0, top, 4)],
        None,
    )


def race(rows: Sequence[tuple[str, float, float, Interval, bool]]) -> Race:
    """Lay out backbones; each row is name, milliseconds an image, accuracy, its interval, the best trade-off or not."""
    frame = Frame(720, 360, 58, 22, 704, 306)
    slowest = max((ms for _, ms, *_ in rows), default=1.0) * 1.1
    floor = max(0.0, math.floor(min((low for *_, (low, _), _ in rows), default=0.0) * 20 - 1e-9) / 20)

    def up(share: float) -> float:
        return frame.y((share - floor) / (1 - floor))

    marks, names = [], []
    for name, ms, accuracy, (low, high), is_best in rows:
        marks.append((frame.x(ms / slowest), up(accuracy), up(low), up(high), is_best))
        marker = _marker(frame, ms / slowest, 0.0, name)
        names.append(Marker(marker.x, up(accuracy), marker.text, marker.anchor))
    return Race(
        frame,
        marks,
        names,
        [Tick(frame.x(value / slowest), number(value)) for value in ticks(0, slowest)],
        [Tick(up(value), f"{value:.0%}") for value in ticks(floor, 1, 5)],
    )


def _marker(frame: Frame, x: float, y: float, text: str) -> Marker:
    return Marker(frame.x(x), frame.y(y), text, "end" if x > 0.5 else "start")


def _component_ticks(n: int) -> list[int]:
    """Component numbers to write: always the first, then round ones."""
    round_ones = [int(value) for value in ticks(0, n, 5) if value >= 1 and value == int(value)]
    return [1, *(i for i in round_ones if i > max(1, n * 0.06))] if n else []


def scatter(points: Sequence[Point], ratios: Sequence[float]) -> Scatter:
    """Place points by PC1 and PC2; with one component, PC1 across and an arbitrary height."""
    frame = Frame(720, 512, 50, 20, 704, 448)
    one = any(point.pc2 is None for point in points)
    # Golden-ratio steps spread points of one component evenly over the height, the same way each time.
    heights = [(i * 0.6180339887) % 1.0 if one else (p.pc2 or 0.0) for i, p in enumerate(points)]
    x_low, x_high = _range([point.pc1 for point in points])
    y_low, y_high = _range(heights)
    labels = sorted({point.label for point in points})
    index = {label: i for i, label in enumerate(labels)}
    counts = [0] * len(labels)
    marks = []
    for i, (point, height) in enumerate(zip(points, heights, strict=True)):
        counts[index[point.label]] += 1
        x = frame.x((point.pc1 - x_low) / (x_high - x_low))
        y = frame.y((height - y_low) / (y_high - y_low))
        marks.append(Mark(round(x, 1), round(y, 1), index[point.label], i))
    return Scatter(
        frame,
        marks,
        labels,
        counts,
        [Tick(frame.x((v - x_low) / (x_high - x_low)), number(v)) for v in ticks(x_low, x_high)],
        [] if one else [Tick(frame.y((v - y_low) / (y_high - y_low)), number(v)) for v in ticks(y_low, y_high)],
        _axis_title(1, ratios),
        "spread out to be seen (there is one component)" if one else _axis_title(2, ratios),
        one,
    )


def _range(values: Sequence[float]) -> tuple[float, float]:
    """The lowest and highest value with some air around, never empty."""
    low, high = min(values, default=0.0), max(values, default=1.0)
    air = (high - low) * 0.04 or max(abs(high), 1.0) * 0.5
    return low - air, high + air


def _axis_title(component: int, ratios: Sequence[float]) -> str:
    known = len(ratios) >= component and math.isfinite(ratios[component - 1])
    return f"PC{component} · {percent(ratios[component - 1])} of the variance" if known else f"PC{component}"


def confusion_matrix(measured: ClassifierMetrics, limit: int = MAX_MATRIX_LABELS) -> Matrix:
    """Lay out a classifier's confusion matrix; of many classes, the most confused ones."""
    labels, confusion = measured["per_class"], measured["confusion"]
    errors: Counter[str] = Counter()
    for label, answer, count in _errors(measured):
        errors.update({label: count, answer: count})
    chosen = sorted(nsmallest(limit, labels, key=lambda label: (-errors[label], label)))
    n = len(chosen)
    cell = max(8.0, min(44.0, 620 / max(1, n)))
    font = min(13.0, cell * 0.84)
    names = [shorten(label_name(label), _AXIS_NAME) for label in chosen]
    # 0.56 em: the mean width of a system font's letters.
    margin = round(16 + font * max(2.0, 0.56 * max((len(name) for name in names), default=0)), 1)
    frame = Frame(margin + n * cell + 1, margin + n * cell + 1, margin, margin, margin + n * cell, margin + n * cell)
    cells = [
        Cell(row, column, count, count / labels[label]["support"])
        for row, label in enumerate(chosen)
        for column, answer in enumerate(chosen)
        if (count := confusion.get(label, {}).get(answer, 0))
    ]
    most = max((c.count for c in cells), default=1)
    shades = {
        "share": _shades(cells, [c.share for c in cells]),
        "count": _shades(cells, [c.count / most for c in cells]),
    }
    return Matrix(
        frame,
        cell,
        round(font, 2),
        chosen,
        [label_name(label) for label in chosen],
        [Tick(round(margin + (i + 0.5) * cell, 2), name) for i, name in enumerate(names)],
        cells,
        [labels[label]["support"] for label in chosen],
        len(labels) - n,
        shades,
    )


def cell_at(matrix: Matrix, cell: Cell) -> tuple[float, float]:
    """The upper left corner of a cell."""
    return (
        round(matrix.frame.left + cell.column * matrix.cell, 2),
        round(matrix.frame.top + cell.row * matrix.cell, 2),
    )


def _shades(cells: Sequence[Cell], strengths: Sequence[float]) -> dict[str, str]:
    """One path for each shade, in units of a cell: a tenth of the markup of one element for each cell."""
    paths: dict[str, list[str]] = {}
    for cell, strength in zip(cells, strengths, strict=True):
        level = sum(strength > bound for bound in LEVELS)
        name = f"{'ok' if cell.row == cell.column else 'no'}{level}"
        paths.setdefault(name, []).append(f"M{cell.column} {cell.row}h1v1h-1z")
    return {name: "".join(parts) for name, parts in sorted(paths.items())}


def top_confusions(measured: ClassifierMetrics, limit: int = 12) -> list[Confusion]:
    """The most frequent mistakes, as words: true class, predicted class, how often, of how many."""
    most = nsmallest(limit, _errors(measured), key=lambda error: (-error[2], *error))
    return [
        Confusion(label, answer, count, count / measured["per_class"][label]["support"])
        for label, answer, count in most
    ]


def _errors(measured: ClassifierMetrics) -> Iterator[tuple[str, str, int]]:
    """True label, another that was predicted, how many test images."""
    for label, answers in measured["confusion"].items():
        yield from ((label, answer, count) for answer, count in answers.items() if answer != label)
