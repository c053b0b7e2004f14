"""What peers.py runs beside Orchard: each side as the documents of its engine have it, in a process of its own.

    python benchmarks/peers_sides.py daft FOLDER NETWORK OUTPUT STARTED

FOLDER has images, NETWORK is the file of an artifact, OUTPUT a new folder that takes Parquet with the columns ``path``
and ``features``, and STARTED a folder in which each worker says when it had compiled the network. Every side finds the
files itself, reads them by its engine, and has as many workers as `PROCESSES`, of one thread each. Orchard gives them
its decoder and its compiled network, and nothing else.
"""

import os
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orchard.features.artifact import Artifact
from orchard.features.engines import load_engine
from orchard.images.decoding import Decoded, Limits, decode

PROCESSES = 2
BATCH = 64
"""Images that a worker gets at a time: as many as Orchard's workers hold."""


class Featurizer:
    """The network and the decoder, in a worker."""

    def __init__(self, network: str, started: str) -> None:
        self._engine = load_engine(Artifact.from_bytes(Path(network).read_bytes()))
        self._limits = Limits()
        (Path(started) / f"{os.getpid()}-{time.time_ns()}").write_text(repr(time.time()))

    def __call__(self, contents: Iterable[bytes]) -> NDArray[np.float32]:
        """Return the features (n, n_features) of files; every one must be an image."""
        decoded = [decode(bytes(content), self._engine.decoded_size, self._limits) for content in contents]
        return self._engine([image.pixels for image in decoded if isinstance(image, Decoded)])


def by_daft(folder: str, network: str, output: str, started: str) -> None:
    """Run Daft's native runner: a class of which there are as many processes, called with batches."""
    import daft
    from daft import DataType, col

    @daft.cls(max_concurrency=PROCESSES, use_process=True)  # type: ignore[untyped-decorator, unused-ignore]
    class Features:
        def __init__(self, network: str, started: str) -> None:
            self.featurizer = Featurizer(network, started)

        @daft.method.batch(return_dtype=DataType.list(DataType.float32()), batch_size=BATCH)  # type: ignore[untyped-decorator, unused-ignore]
        def of(self, contents: Any) -> list[Any]:
            return list(self.featurizer(contents.to_pylist()))

    files = daft.from_glob_path(f"{folder}/**/*.jpg").select("path")
    features = files.select(col("path"), Features(network, started).of(col("path").download()).alias("features"))
    features.write_parquet(output)


def by_ray(folder: str, network: str, output: str, started: str) -> None:
    """Run Ray Data: a pool of actors, and one more slot that reads and writes."""
    import ray

    class Features:
        def __init__(self) -> None:
            self.featurizer = Featurizer(network, started)

        def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
            return {"path": batch["path"], "features": self.featurizer(batch["bytes"])}

    ray.init(num_cpus=PROCESSES + 1, include_dashboard=False, configure_logging=False)
    files = ray.data.read_binary_files(folder, include_paths=True)
    pool = ray.data.ActorPoolStrategy(size=PROCESSES)
    files.map_batches(Features, batch_size=BATCH, num_cpus=1, compute=pool).write_parquet(output)


def by_spark(folder: str, network: str, output: str, started: str) -> None:
    """Run Spark: its own source of files and its own function for networks, which makes one in each worker."""
    from pyspark.ml.functions import predict_batch_udf
    from pyspark.sql import SparkSession
    from pyspark.sql.types import ArrayType, FloatType

    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)

    def make() -> Callable[[NDArray[Any]], NDArray[np.float32]]:
        return Featurizer(network, started)

    spark = (
        SparkSession.builder.master(f"local[{PROCESSES}]")
        .config("spark.driver.memory", "2g")
        .config("spark.ui.enabled", "false")
        .config("spark.ui.showConsoleProgress", "false")
        .getOrCreate()
    )
    spark.sparkContext.setLogLevel("ERROR")
    features = predict_batch_udf(make, return_type=ArrayType(FloatType()), batch_size=BATCH)
    files = spark.read.format("binaryFile").option("recursiveFileLookup", "true").load(folder)
    files.select("path", features("content").alias("features")).write.parquet(output)
    spark.stop()


SIDES: dict[str, Callable[[str, str, str, str], None]] = {"daft": by_daft, "ray": by_ray, "spark": by_spark}


if __name__ == "__main__":
    SIDES[sys.argv[1]](*sys.argv[2:])
