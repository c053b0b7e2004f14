"""Several backbones on the same images, in one table."""

import json
import logging
import re
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchard import pipeline
from orchard.errors import TrainingError, UsageError
from orchard.features.artifact import EngineName
from orchard.features.backbones import DEFAULT_BACKBONE, find
from orchard.features.branches import parameters_in
from orchard.features.conversion import build_artifact
from orchard.features.weights import brought, locate, tuned
from orchard.files import filled
from orchard.headline import common, measured_by
from orchard.images.sources import check_apart, list_selected
from orchard.layout import COMPARISON, COMPARISON_PAGE, Interval, Measure, Metrics
from orchard.output import Output
from orchard.planning.costs import passes
from orchard.planning.probe import measure as time_of
from orchard.redaction import redacted
from orchard.report.comparison import render
from orchard.runlog import RunLog, new_run_id
from orchard.settings import Settings
from orchard.spark.session import Session
from orchard.storage import Storage, open_storage
from orchard.summary import as_json
from orchard.tuning.blocks import last_kept
from orchard.webhook import told

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

log = logging.getLogger(__name__)

TOLERANCE = 0.01
"""How much less accurate than the best a faster backbone may be and still be the best trade-off: one point."""


@dataclass(frozen=True)
class Row:
    """A backbone with its best classifier."""

    backbone: str
    """Name of the backbone, with ``@`` and its input size if one was given."""
    classifier: str
    accuracy: float
    accuracy_interval: Interval
    measure: str
    """The images on which the accuracy was measured, the same for all rows: see `orchard.layout.Measure`."""
    features: int
    k: int
    parameters: int
    size_mb: float
    """Size of the network's float32 weights, in 10^6 bytes."""
    ms_per_image: float
    """Time for decoding and network on one core, after a warm-up: see `orchard.planning.probe.measure`."""
    images_per_second: float
    """Rate of all workers together, with their starts; for an unchanged output, the rate of the run that made it."""
    best_trade_off: bool = False


def compare(
    source: str,
    output: str,
    backbones: list[str],
    settings: Settings,
    spark: "SparkSession | None" = None,
    *,
    tolerance: float = TOLERANCE,
) -> list[dict[str, Any]]:
    """Run the pipeline on `source` once for each backbone, each into a folder of `output` named as it is here.

    The result is also written there, as a page and as JSON.

    Args:
        source: the images.
        output: folder or ``s3a://`` prefix.
        backbones: names, each with an input size in pixels behind ``@`` if that is not to be the setting's, such as
            ``EfficientNetLite0@128``.
        settings: of all runs, but for the backbone.
        spark: a session to use; None: one is started if it is needed.
        tolerance: how much accuracy the best trade-off may cost, 0..1.

    Returns:
        One dictionary for each backbone (see `Row`), the most accurate first; one is marked as the best trade-off: the
        fastest of those within `tolerance` of the best accuracy. Accuracy is measured as the headline of a run is.

    Raises:
        UsageError: a backbone does not exist, is named twice or cannot be tuned, the tolerance is no share, or files of
            others lie where the page and the JSON would; nothing was run.
        WeightsUnavailable: a backbone's weights are not there and cannot be had; nothing was run.
        TrainingError: no classifier could be measured.
    """
    names = [_variant(name) for name in backbones]
    if len(set(names)) < len(names) or not names:
        raise UsageError("Name each backbone to compare once, separated by commas: orchard backbones lists them.")
    if not isinstance(tolerance, int | float) or not 0 <= tolerance < 1:
        raise UsageError(f"--tolerance {tolerance} is no share of accuracy: give one such as 0.01, which is one point.")
    with told(settings.webhook, output) as message:
        message["run"] = new_run_id()
        check_apart(source, output)
        settings.check_regions(source, output)
        storage = open_storage(output, settings.s3_options())
        _refuse_others(storage)
        _check_weights(names, settings)
        with RunLog(storage, message["run"]):
            # The runs of the networks are parts of this one, which tells how it ended.
            alone = settings.model_copy(update={"webhook": None})
            return _compare(source, output, names, alone, spark, tolerance=tolerance)


def _compare(
    source: str, output: str, names: list[str], settings: Settings, spark: "SparkSession | None", *, tolerance: float
) -> list[dict[str, Any]]:
    session = Session(settings, spark)
    try:
        runs = {}
        for number, name in enumerate(names, 1):
            log.info("backbone %d of %d: %s", number, len(names), name)
            runs[name] = _run(source, f"{output}/{name}", name, settings, session.of_cluster)
        measure = common(list(runs.values()))
        rows = []
        for name, metrics in runs.items():
            found = _measured(source, f"{output}/{name}", _of_variant(settings, name), metrics, measure)
            rows.append(replace(found, backbone=name))
    finally:
        session.stop()
    floor = max(row.accuracy for row in rows) - tolerance - 1e-9  # figures are rounded
    best = min((row for row in rows if row.accuracy >= floor), key=lambda row: row.ms_per_image)
    rows.sort(key=lambda row: -row.accuracy)
    result = [asdict(row) | {"best_trade_off": row is best} for row in rows]
    storage = open_storage(output, settings.s3_options())
    table = as_json({"source": redacted(source), "tolerance": tolerance, "backbones": result})
    page = render(source, result, tolerance=tolerance).encode()
    storage.replace_together({COMPARISON: table, COMPARISON_PAGE: page})
    return result


def _refuse_others(storage: Storage) -> None:
    """Raise UsageError for a page or a JSON that no comparison has written; the JSON tells, which comes first."""
    taken = filled(storage, [COMPARISON, COMPARISON_PAGE])
    if COMPARISON in taken:
        try:
            before = json.loads(storage.read(COMPARISON))
        except ValueError:
            before = None
        if isinstance(before, dict) and {"source", "tolerance", "backbones"} <= before.keys():
            return
    if taken:
        raise UsageError(
            f"{storage.url} already holds {', '.join(taken)}, and Orchard did not write them: choose another "
            "--output, or take them away."
        )


def _variant(given: str) -> str:
    """Return a backbone's name as it is written, with its input size behind it if that is given.

    Raises:
        UsageError: there is no such backbone, or it cannot take the size.
    """
    name, at, size = given.partition("@")
    if at and not re.fullmatch("[0-9]{1,5}", size):
        raise UsageError(f"{given!r} is no backbone with its input size: write it as {DEFAULT_BACKBONE}@128.")
    return find(name).with_input_size(int(size) if size else None).name + at + size


def _of_variant(settings: Settings, variant: str) -> Settings:
    name, _, size = variant.partition("@")
    return settings.model_copy(update={"backbone": name} | ({"input_size": int(size)} if size else {}))


def _check_weights(names: list[str], settings: Settings) -> None:
    """Fetch the weights that are not on this machine yet, before the first run costs anything."""
    for name in {name.partition("@")[0]: None for name in names}:
        backbone = find(name).with_alpha(settings.alpha)
        if settings.tune:
            last_kept(backbone)
        here = brought(backbone, settings.weights, settings.s3_options())
        weights = locate(backbone, here, seed=settings.seed)
        if weights.path is None and weights.seed is None:
            log.info("the weights of %s are not on this machine: they are downloaded", name)
            build_artifact(
                find(name),
                weights=here,
                alpha=settings.alpha,
                engine=EngineName(settings.engine),
                seed=settings.seed,
            )


def _run(source: str, output: str, name: str, settings: Settings, spark: "SparkSession | None") -> Metrics:
    metrics = pipeline.run(source, output, _of_variant(settings, name), spark).metrics
    if not metrics.get("classifiers"):
        raise TrainingError(f"{name} cannot be compared: {' '.join(metrics['warnings']) or 'nothing was classified'}")
    return metrics


def _measured(source: str, output: str, settings: Settings, metrics: Metrics, measure: Measure) -> Row:
    made = Output(output, settings.s3_options())
    extraction, tuned_weights = made.recall("extraction"), tuned(made)
    backbone = find(settings.backbone, alpha=settings.alpha, input_size=settings.input_size)
    parameters = parameters_in(Path(tuned_weights)) if tuned_weights else backbone.parameters
    # What is measured is the backbone before it is tuned.
    branches = metrics["pca"]["n_features"] // backbone.n_features
    seconds = passes(branches) * time_of(list_selected(source, output, settings).table, settings).seconds
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
        parameters=parameters,
        size_mb=round(parameters * 4 / 1e6, 1),
        ms_per_image=round(seconds * 1000, 2),
        images_per_second=extraction["images_per_second"],
    )
