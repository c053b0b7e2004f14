"""The page's sections on faults of the data and on the data itself, bounded for runs of any size."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from orchard.layout import DataMetrics, Fault, Metrics, Suspect
from orchard.report.formatting import number
from orchard.report.samples import Point
from orchard.report.thumbnails import GALLERY_PIXELS, thumbnails

PICTURES = 8
"""Number of pictures for each fault."""
SAMPLES = 72
SAMPLES_OF_A_LABEL = 3
BUDGET = 500_000
"""Size of all these pictures, in base64 characters, at most; see `orchard.report.thumbnails`."""

FAULTS = {
    Fault.SAME_IMAGE: ("The same image under two labels", "Another file has the same bytes and another label."),
    Fault.LABEL: (
        "Wrong label?",
        "A classifier that was fitted without the image takes it for another label; the surest first.",
    ),
    Fault.NEAR_TWIN: ("Near twins under two labels", "An image that hardly differs has another label."),
    Fault.OUTLIER: ("Unlike the others", "Far less like the other images of its label than most images are."),
    Fault.BLURRED: ("Blurred", "Edges are far less sharp than in other images of the label."),
    Fault.DARK: ("Dark", "Far darker than other images of the label, or black."),
}


@dataclass(frozen=True)
class ReviewData:
    """The sampled images of this part. A picture is base64 WebP, or None if there is none."""

    pictures: dict[str, str | None] = field(default_factory=dict)  # of suspects, by path
    samples: Sequence[tuple[Point, str | None]] = ()


@dataclass(frozen=True)
class FaultView:
    """The images of a fault that are shown."""

    title: str
    about: str
    images: int
    pictured: list[tuple[Suspect, str | None]]
    others: list[Suspect]


@dataclass(frozen=True)
class PixelBar:
    """Images of a range of sizes, and the width of the bar as a share of the longest."""

    name: str
    images: int
    width: float


def collect_review(metrics: Metrics, points: Sequence[Point], read_image: Callable[[str], bytes]) -> ReviewData:
    """Choose images, and make their pictures.

    Args:
        metrics: content of ``metrics.json``.
        points: images in an order that takes the labels in turn.
        read_image: as in `orchard.report.page.collect`.
    """
    suspects = [suspect["path"] for view in _by_fault(metrics).values() for suspect in view[:PICTURES]]
    sampled = _samples(points) if "data" in metrics else []
    made = thumbnails([(path, GALLERY_PIXELS) for path in [*suspects, *(p.path for p in sampled)]], read_image, BUDGET)
    pictures = dict(zip(suspects, made, strict=False))
    return ReviewData(pictures, list(zip(sampled, made[len(suspects) :], strict=True)))


def fault_views(metrics: Metrics, data: ReviewData) -> list[FaultView]:
    """Return each fault that was found, the gravest first."""
    return [
        FaultView(
            *FAULTS[fault],
            images=metrics["review"]["faults"].get(fault, len(suspects)),
            pictured=[(suspect, data.pictures.get(suspect["path"])) for suspect in suspects[:PICTURES]],
            others=suspects[PICTURES:],
        )
        for fault, suspects in _by_fault(metrics).items()
    ]


def pixel_bars(data: DataMetrics) -> list[PixelBar]:
    """Return the histogram of width times height, the smallest images first."""
    longest = max(data["pixels"].values(), default=1)
    return [
        PixelBar(f"{number(int(low))} to {number(2 * int(low) - 1)}", images, images / longest)
        for low, images in sorted(data["pixels"].items(), key=lambda item: int(item[0]))
    ]


def _by_fault(metrics: Metrics) -> dict[Fault, list[Suspect]]:
    found: dict[Fault, list[Suspect]] = {}
    for suspect in metrics["review"]["first"] if "review" in metrics else ():
        found.setdefault(Fault(suspect["fault"]), []).append(suspect)
    return {fault: found[fault] for fault in Fault if fault in found}


def _samples(points: Sequence[Point]) -> list[Point]:
    """Return a few points of each label, label by label, of as many labels as there is room for."""
    chosen: dict[str, list[Point]] = {}
    for point in points:
        chosen.setdefault(point.label, []).append(point)
    each = max(1, min(SAMPLES_OF_A_LABEL, SAMPLES // max(1, len(chosen))))
    return [point for label in sorted(list(chosen)[: SAMPLES // each]) for point in chosen[label][:each]]
