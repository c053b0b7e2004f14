"""Several backbones on the same images, in one table."""

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from orchard import pipeline, summary
from orchard.errors import TrainingError, UsageError
from orchard.features.backbones import find
from orchard.headline import common, measured_by
from orchard.images.sources import list_selected
from orchard.layout import Interval, Measure, Metrics
from orchard.output import Output
from orchard.plan import measure as time_of
from orchard.session import Session
from orchard.settings import Settings

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

TOLERANCE = 0.01
"""How much accuracy a faster backbone may cost and still be the better trade-off: one point."""


@dataclass(frozen=True)
class Row:
    """One backbone with the classifier that did best on it."""

    backbone: str
    classifier: str
    accuracy: float
    accuracy_interval: Interval
    measure: str
    """What the accuracy was measured on, the same for all rows: see `orchard.layout.Measure`."""
    features: int
    k: int
    parameters: int
    size_mb: float
    """Of the network's float32 weights, in 10^6 bytes."""
    ms_per_image: float
    """On one core, decoding and network, everything warm: see `orchard.plan.measure`."""
    images_per_second: float
    """Of all workers together in the run, their starts included; of an unchanged output, of the run that made it."""
    best_trade_off: bool = False


def compare(
    source: str, output: str, backbones: list[str], settings: Settings, spark: "SparkSession | None" = None
) -> list[dict[str, Any]]:
    """Run the pipeline on `source` once for each backbone, each into a folder of `output` named after it.

    Returns:
        One dictionary for each backbone (see `Row`), the most accurate first; one is marked as the best trade-off: the
        fastest of those within one point of the best accuracy. Accuracy is measured as the headline of a run is.

    Raises:
        UsageError: a backbone does not exist or is named twice.
        TrainingError: no classifier could be measured.
    """
    names = [find(name).name for name in backbones]
    if len(set(names)) < len(names) or not names:
        raise UsageError("Name each backbone to compare once, separated by commas: orchard backbones lists them.")
    session = Session(settings, spark)
    session.start()
    try:
        runs = {name: _run(source, f"{output}/{name}", name, settings, session) for name in names}
        measure = common(list(runs.values()))
        rows = []
        for name, metrics in runs.items():
            chosen = settings.model_copy(update={"backbone": name})
            rows.append(_measured(source, f"{output}/{name}", chosen, metrics, measure))
    finally:
        session.stop()
    floor = max(row.accuracy for row in rows) - TOLERANCE
    best = min((row for row in rows if row.accuracy >= floor), key=lambda row: row.ms_per_image)
    rows.sort(key=lambda row: -row.accuracy)
    return [asdict(row) | {"best_trade_off": row is best} for row in rows]


def _run(source: str, output: str, name: str, settings: Settings, session: Session) -> Metrics:
    settings = settings.model_copy(update={"backbone": name})
    metrics = pipeline.run(source, output, settings, session.spark).metrics
    if not metrics.get("classifiers"):
        raise TrainingError(f"{name} cannot be compared: {' '.join(metrics['warnings']) or 'nothing was classified'}")
    return metrics


def _measured(source: str, output: str, settings: Settings, metrics: Metrics, measure: Measure) -> Row:
    extraction = summary.recall(Output(output, settings.s3_options()), "extraction")
    backbone = find(settings.backbone).with_alpha(settings.alpha)
    seconds = time_of(list_selected(source, output, settings).table, settings).seconds
    best = measured_by(metrics, measure)
    assert best is not None  # `common` saw to it
    return Row(
        backbone=backbone.name,
        classifier=best["classifier"],
        accuracy=round(best["accuracy"], 4),
        accuracy_interval=best["accuracy_interval"],
        measure=measure,
        features=metrics["pca"]["n_features"],
        k=metrics["pca"]["k"],
        parameters=backbone.parameters,
        size_mb=round(backbone.parameters * 4 / 1e6, 1),
        ms_per_image=round(seconds * 1000, 2),
        images_per_second=extraction["images_per_second"],
    )
