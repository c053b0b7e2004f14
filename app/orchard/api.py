"""The pipeline for notebooks and programs: the commands as functions over a Spark session of the caller's.

Settings are keyword arguments named as in `orchard.settings.Settings`; what is not given comes from ``ORCHARD_*``
variables, ``orchard.toml`` and the defaults, as on the command line.
"""

import tempfile
from typing import TYPE_CHECKING, Any

from orchard.layout import Dataset

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

    from orchard.pipeline import Outcome


def start_spark(**options: Any) -> "SparkSession":
    """Start a local Spark session fit for the other functions; see `orchard.session.start` for the options."""
    from orchard.session import start

    return start(**options)


def run(spark: "SparkSession", source: str, output: str, **settings: Any) -> "Outcome":
    """Do everything, as ``orchard run``: features, reduced table, classifiers, report.

    Returns:
        `Outcome`: the metrics, and where output and report are.

    Raises:
        OrchardError: see `orchard.errors`.
    """
    from orchard import pipeline
    from orchard.settings import load

    return pipeline.run(source, output, load(settings), spark)


def extract(spark: "SparkSession", source: str, output: str | None = None, **settings: Any) -> "DataFrame":
    """Featurize the images at `source` that `output` does not have yet, and return all of its features.

    Args:
        spark: the session that does the work.
        source: folder, ``file://`` or ``s3a://`` URL, glob, or manifest.
        output: folder or ``s3a://`` prefix; None: a new temporary folder.
        settings: see the module.

    Returns:
        ``path, label, kind, split, width, height, features`` (array of float, one length).

    Raises:
        OrchardError: see `orchard.errors`.
    """
    from orchard.images.sources import check_apart
    from orchard.pipeline import Pipeline
    from orchard.settings import load

    output = output or tempfile.mkdtemp(prefix="orchard-")
    check_apart(source, output)
    with Pipeline(output, load(settings), spark) as pipeline:
        pipeline.extract(source)
        pipeline.finish()
    return read(spark, output, Dataset.FEATURES, **settings)


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
        pipeline.classify()
        pipeline.measure_unknown()
        pipeline.finish()
    return read(spark, output, Dataset.PREDICTIONS, **settings)


def read(spark: "SparkSession", output: str, dataset: str | Dataset, **settings: Any) -> "DataFrame":
    """Return the committed rows of a Parquet dataset of `output`: features, rejected, inventory, reduced, predictions.

    Raises:
        OrchardError: see `orchard.errors`.
    """
    from orchard import datasets
    from orchard.output import Output
    from orchard.settings import load

    return datasets.read(spark, Output(output, load(settings).s3_options()), Dataset(dataset))
