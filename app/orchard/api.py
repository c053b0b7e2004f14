"""The pipeline for notebooks and programs: each command as a function that takes the caller's Spark session.

Settings are keyword arguments named as in `orchard.settings.Settings`; what is not given comes from ``ORCHARD_*``
variables, ``orchard.toml`` and the defaults, as on the command line. An address may be a path of `pathlib`, too.
"""

import functools
import inspect
import os
import reprlib
import tempfile
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from enum import StrEnum
from numbers import Integral
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from orchard.errors import UsageError
from orchard.layout import Dataset

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

    from orchard.exports.writing import Exported
    from orchard.pipeline import Outcome

_Choice = TypeVar("_Choice", bound=StrEnum)
_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")

_ADDRESSES = {"source", "images", "output", "file"}
"""Arguments that are addresses, in all functions."""


def _checks_arguments(function: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
    """Let a function take a path of `pathlib` for an address, and where it takes several, whatever holds them.

    So ``Path.glob`` is an answer, too. What is no address, and a session that cannot work, raises UsageError.
    """
    signature = inspect.signature(function)

    def check_session(value: Any) -> None:
        if value is None and "None" in str(signature.parameters["spark"].annotation):
            return
        try:
            context = value.sparkContext
            is_stopped = context._jsc is None or context._jsc.sc().isStopped()
        except AttributeError:  # a session of Spark Connect has no context either
            given = reprlib.repr(value)
            raise UsageError(f"spark cannot be {given}: give a session of orchard.start_spark().") from None
        if is_stopped:
            raise UsageError("The Spark session has been stopped: start another one by orchard.start_spark().")

    def as_address(name: str, value: Any) -> str:
        text = os.fspath(value) if isinstance(value, os.PathLike) else value
        if isinstance(text, str):
            return text
        given = " ".join(reprlib.repr(value).split())  # a table's has lines
        raise UsageError(f"{name} cannot be {given}: give a path or an address.")

    def as_addresses(name: str, value: Any) -> str | list[str]:
        is_one = isinstance(value, str | bytes | os.PathLike) or not isinstance(value, Iterable)
        takes_several = "Sequence" in str(signature.parameters[name].annotation)
        if not takes_several or is_one or hasattr(value, "columns"):  # a table would give the names of these
            return as_address(name, value)
        return [as_address(name, each) for each in value]

    def as_text(value: Any) -> Any:
        if isinstance(value, list | tuple):
            return [as_text(item) for item in value]
        return os.fspath(value) if isinstance(value, os.PathLike) else value

    @functools.wraps(function)
    def called(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result:
        given = signature.bind(*args, **kwargs)
        for name, value in given.arguments.items():
            if name in _ADDRESSES and value is not signature.parameters[name].default:
                given.arguments[name] = as_addresses(name, value)
            elif name == "spark":
                check_session(value)
            elif name == "settings":
                given.arguments[name] = {key: as_text(each) for key, each in value.items()}
        return function(*given.args, **given.kwargs)

    return called


def start_spark(**options: Any) -> "SparkSession":
    """Start a Spark session for the other functions, or return the running one.

    Args:
        options: options of `orchard.spark.session.start`. The settings give the defaults, so ``ORCHARD_MASTER`` and
            ``ORCHARD_SPARK_CONF`` decide where a notebook's work runs; without them it runs on this machine.

    Raises:
        ClusterError: Java is missing, Spark does not start, or no executor comes.
        UsageError: a variable or the settings file is wrong, or the event log cannot be written.
    """
    from orchard.settings import load
    from orchard.spark.session import options_of, start

    return start(**options_of(load()) | options)


@_checks_arguments
def run(spark: "SparkSession | None", source: str | Sequence[str], output: str, **settings: Any) -> "Outcome":
    """Run all stages, as ``orchard run``: features, reduced table, classifiers, report.

    Args:
        spark: the session that does the work; None: what does it is started, as by the command.
        source: images, at one place or several.
        output: folder or ``s3a://`` prefix.
        settings: see the module.

    Returns:
        `Outcome`: the metrics, and where output and report are.

    Raises:
        OrchardError: see `orchard.errors`.
    """
    from orchard import pipeline
    from orchard.settings import load

    return pipeline.run(source, output, load(settings), spark)


@_checks_arguments
def tune(spark: "SparkSession | None", output: str, **settings: Any) -> "Outcome":
    """Train the last blocks of the network of `output` on its training images, as ``orchard tune``.

    Everything else in `output` is made again with it. Arguments are those of `run`.

    Returns:
        As `run`.

    Raises:
        OrchardError: see `orchard.errors`.
    """
    from orchard import pipeline
    from orchard.settings import load

    return pipeline.tune(output, load(settings), spark)


@_checks_arguments
def extract(
    spark: "SparkSession", source: str | Sequence[str], output: str | None = None, **settings: Any
) -> "DataFrame":
    """Featurize the images at `source` that `output` does not have yet, and return all of its features.

    Args:
        spark: the session that does the work.
        source: folder, ``file://`` or ``s3a://`` URL, glob, or manifest; or several of these.
        output: folder or ``s3a://`` prefix; None: a new temporary folder.
        settings: see the module.

    Returns:
        ``path, label, kind, label_columns, split, width, height, features`` (array of float, one length).

    Raises:
        OrchardError: see `orchard.errors`.
    """
    from orchard.images.sources import check_apart
    from orchard.pipeline import Pipeline
    from orchard.settings import load

    output = output or tempfile.mkdtemp(prefix="orchard-")
    check_apart(source, output)
    found = load(settings)
    found.check_regions(source, output)
    with Pipeline(output, found, spark) as pipeline:
        pipeline.extract(source)
        pipeline.finish()
    return read(spark, output, Dataset.FEATURES, **settings)


@_checks_arguments
def reduce(spark: "SparkSession", output: str, **settings: Any) -> "DataFrame":
    """Fit scaler and PCA on the training features of `output`, and return all rows reduced.

    Returns:
        ``path, label, kind, split, pca_features`` (array of float, k values).

    Raises:
        OrchardError: see `orchard.errors`.
    """
    from orchard.pipeline import Pipeline
    from orchard.settings import load

    with Pipeline(output, load(settings), spark, must_exist=True) as pipeline:
        pipeline.reduce()
        pipeline.finish()
    return read(spark, output, Dataset.REDUCED, **settings)


@_checks_arguments
def classify(spark: "SparkSession", output: str, **settings: Any) -> "DataFrame":
    """Train and measure classifiers on the reduced rows of `output`, and return their predictions.

    Returns:
        the columns of `orchard.layout.PREDICTIONS`.

    Raises:
        OrchardError: see `orchard.errors`.
    """
    from orchard.pipeline import Pipeline
    from orchard.settings import load

    with Pipeline(output, load(settings), spark, must_exist=True) as pipeline:
        pipeline.neighbours()
        pipeline.classify()
        pipeline.measure_unknown()
        pipeline.finish()
    return read(spark, output, Dataset.PREDICTIONS, **settings)


@_checks_arguments
def suspects(spark: "SparkSession", output: str, **settings: Any) -> "DataFrame":
    """Find images of `output` with a likely fault, as ``orchard review``.

    Returns:
        the rows of ``review/suspects.csv``, the worst first, with the columns of `orchard.layout.SUSPECTS`.

    Raises:
        OrchardError: see `orchard.errors`.
    """
    from pyspark.sql.pandas.types import from_arrow_schema

    from orchard.layout import SUSPECT_LIST, SUSPECTS
    from orchard.pipeline import Pipeline
    from orchard.review.faults import from_csv
    from orchard.settings import load

    with Pipeline(output, load(settings), spark, must_exist=True) as pipeline:
        pipeline.review()
        pipeline.finish()
        found = from_csv(pipeline.output.storage.read(SUSPECT_LIST))
    return spark.createDataFrame([tuple(row.values()) for row in found.to_pylist()], from_arrow_schema(SUSPECTS))


@_checks_arguments
def read(spark: "SparkSession", output: str, dataset: str | Dataset, **settings: Any) -> "DataFrame":
    """Return the committed rows of a Parquet dataset of `output`: features, rejected, inventory, reduced, predictions.

    Raises:
        OrchardError: see `orchard.errors`.
    """
    from orchard import datasets
    from orchard.output import Output
    from orchard.settings import load

    return datasets.read(spark, Output(output, load(settings).s3_options()), _one_of(Dataset, dataset, "dataset"))


def _one_of(choices: type[_Choice], given: str, what: str) -> _Choice:
    """Return the choice of that name.

    Raises:
        UsageError: there is none.
    """
    try:
        return choices(given)
    except ValueError:
        raise UsageError(f"There is no {what} {given!r}: take one of {', '.join(choices)}.") from None


@_checks_arguments
def results(spark: "SparkSession", output: str, **settings: Any) -> "DataFrame":
    """Return everything that `output` holds of every featurized image as one lazy table.

    Returns:
        ``path, label, kind, label_columns, split, width, height``; ``features`` and ``components`` as vectors of Spark
        ML, the latter null before `reduce`; and ``predictions``, a map from each classifier to its prediction
        (``predicted, confidence, familiarity, answer, predicted_kind, kind_confidence, predicted_columns,
        column_confidences``), null for images without a label or before `classify`.

    Raises:
        OrchardError: see `orchard.errors`.
    """
    from pyspark.ml.functions import array_to_vector
    from pyspark.sql import functions as F  # noqa: N812 - as everybody calls it

    said = ["predicted", "confidence", "familiarity", "answer", "predicted_kind", "kind_confidence"]
    said += ["predicted_columns", "column_confidences"]
    features = read(spark, output, Dataset.FEATURES, **settings)
    reduced = read(spark, output, Dataset.REDUCED, **settings).select(
        "path", array_to_vector(F.col("pca_features").cast("array<double>")).alias("components")
    )
    predictions = read(spark, output, Dataset.PREDICTIONS, **settings)
    each = F.struct(F.col("classifier").alias("key"), F.struct(*said).alias("value"))
    answers = predictions.groupBy("path").agg(F.map_from_entries(F.collect_list(each)).alias("predictions"))
    vectors = array_to_vector(F.col("features").cast("array<double>"))
    return features.withColumn("features", vectors).join(reduced, "path", "left").join(answers, "path", "left")


@_checks_arguments
def predict(
    spark: "SparkSession | None",
    output: str,
    images: str | Sequence[str],
    *,
    top: int = 5,
    regions: bool = False,
    **settings: Any,
) -> list[dict[str, Any]]:
    """Classify images by the model in `output`, as ``orchard predict --format jsonl``.

    Args:
        spark: the session that does the work; None: it is done in this process, without Spark.
        output: folder or ``s3a://`` prefix of a run.
        images: files, folders, ``s3a://`` prefixes, patterns or manifests.
        top: number of likeliest labels to list.
        regions: whether to find regions, too, see `orchard.inference.regions`.
        settings: see the module.

    Returns:
        For each image, in order: ``path, answer, label, kind, confidence, familiarity, top``; ``columns`` if the model
        has further label columns; ``regions, map`` if requested. Or ``path, reason, detail`` if it cannot be read.

    Raises:
        OrchardError: see `orchard.errors`.
    """
    from orchard.inference.model import Model
    from orchard.inference.predict import find_images, predict_here, predict_in_workers
    from orchard.settings import load
    from orchard.tasks import SparkWorkers

    if not isinstance(top, Integral) or top < 1:
        raise UsageError(f"There is no answer of {top!r} labels: give top=1 or more.")
    found = load(settings)
    s3, limits = found.s3_options(), found.limits()
    images = [images] if isinstance(images, str) else images
    found.check_regions(output, images)
    model = Model.load(output, s3)
    listed = find_images(images, s3)
    if spark is None:
        answers = predict_here(model, listed, limits=limits, s3=s3, top=top, regions=regions)
    else:
        workers = SparkWorkers(lambda: spark)
        answers = predict_in_workers(
            workers, model, listed, limits=limits, s3=s3, top=top, regions=regions, progress=lambda _: None
        )
    return [dict(answer) for answer in answers]


@_checks_arguments
def plan(source: str | Sequence[str], output: str | None = None, **settings: Any) -> dict[str, Any]:
    """Estimate a run over `source`, as ``orchard plan``; nothing is written.

    Raises:
        OrchardError: see `orchard.errors`.
    """
    from orchard.planning.plan import make_plan
    from orchard.settings import load

    return make_plan(source, output, load(settings))


@_checks_arguments
def compare(
    spark: "SparkSession | None",
    source: str,
    output: str,
    backbones: str | Sequence[str],
    *,
    tolerance: float = 0.01,
    **settings: Any,
) -> list[dict[str, Any]]:
    """Run the pipeline once for each backbone, as ``orchard compare``, and return a row for each, the best first.

    Args:
        spark: as for `run`.
        source: the images.
        output: folder or ``s3a://`` prefix; each backbone gets a folder in it.
        backbones: names, such as ``EfficientNetLite0`` or, with another input size, ``EfficientNetLite0@128``; in a
            list, or with commas.
        tolerance: how much less accurate than the best the best trade-off may be, 0..1.
        settings: see the module.

    Raises:
        OrchardError: see `orchard.errors`.
    """
    from orchard.comparison import compare as compare_backbones
    from orchard.settings import comma_separated, load

    names = comma_separated(backbones) if isinstance(backbones, str) else list(backbones)
    return compare_backbones(source, output, names, load(settings), spark, tolerance=tolerance)


@_checks_arguments
def erase(
    output: str,
    images: str | Sequence[str] = (),
    *,
    older_than: timedelta | None = None,
    dry_run: bool = False,
    **settings: Any,
) -> dict[str, Any]:
    """Erase all that `output` holds of images, as ``orchard erase``.

    Args:
        output: folder or ``s3a://`` prefix of a run.
        images: paths or addresses; one with a slash at the end stands for everything below it.
        older_than: instead of images, an age: erase the logs of older runs, and all images if the last commit is older.
        dry_run: only report what would be erased.
        settings: see the module.

    Returns:
        The fields of `orchard.erasure.Erasure`.

    Raises:
        OrchardError: see `orchard.errors`.
    """
    from orchard import pipeline
    from orchard.settings import load

    named = [images] if isinstance(images, str) else list(images)
    if older_than is not None and (named or not isinstance(older_than, timedelta) or older_than <= timedelta(0)):
        raise UsageError("Say what to erase: give images alone, or older_than alone, an age such as timedelta(365).")
    return dict(pipeline.erase(output, named, load(settings), older_than=older_than, dry_run=dry_run))


@_checks_arguments
def export(output: str, file: str, *, format: str, precision: str = "float32", **settings: Any) -> "Exported":
    """Write the model in `output` as one file, as ``orchard export``.

    Args:
        output: folder or ``s3a://`` prefix of a run.
        file: local path or ``s3a://bucket/key``, with the suffix of the format.
        format: onnx, openvino, keras or litert.
        precision: number format of the stored weights: float32, float16 or int8.
        settings: see the module.

    Returns:
        `Exported`: the files with their sizes, and the model card.

    Raises:
        OrchardError: see `orchard.errors`.
    """
    from orchard.exports.formats import Format, StoredPrecision
    from orchard.exports.writing import export as write
    from orchard.settings import load

    stored = _one_of(Format, format, "format"), _one_of(StoredPrecision, precision, "precision")
    found = load(settings)
    found.check_regions(output, file)
    return write(output, file, *stored, weights=settings.get("weights"), s3=found.s3_options())
