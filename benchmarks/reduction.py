"""Scaler and PCA: Orchard's reduction against Spark ML's StandardScaler and PCA, on this machine.

    python benchmarks/reduction.py --rows 20000 --features 1280 --repeats 3 --json reduction.json

Both read the same Parquet files, fit on the training rows, transform all rows and write Parquet; Orchard chooses k
by explained variance and also writes gzip CSV, Spark ML is given the k that came out. They take turns, Spark ML first,
after one unmeasured turn each on a few rows, so that neither pays for the start of the JVM and of Python.
"""

import argparse
import json
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
from pyspark.ml.feature import PCA, StandardScaler
from pyspark.ml.functions import array_to_vector, vector_to_array
from pyspark.sql import SparkSession
from pyspark.sql import functions as F  # noqa: N812 - Spark's own convention

from measuring import made
from orchard.datasets import list_column
from orchard.layout import FEATURES, Dataset
from orchard.output import Output
from orchard.reduction.stage import reduce
from orchard.settings import load
from orchard.spark.session import Session
from orchard.workers import Workers


def generate(output: Output, rows: int, n_features: int, rows_per_file: int) -> None:
    """Commit features of a spectrum that falls like a CNN's: a power law, mixed, with an offset and a unit each."""
    rng = np.random.default_rng(0)
    spectrum = np.arange(1, n_features + 1) ** -0.8
    mixing, _ = np.linalg.qr(rng.normal(size=(n_features, n_features)))
    unit, offset = rng.uniform(0.1, 2.0, n_features), rng.uniform(0.0, 3.0, n_features)
    staged = []
    for start in range(0, rows, rows_per_file):
        n = min(rows_per_file, rows - start)
        values = (rng.normal(size=(n, n_features)) * spectrum) @ mixing.T * np.sqrt(n_features)
        names = [f"/images/class {i % 58}/{i}.jpg" for i in range(start, start + n)]
        splits = ["test" if i % 4 == 3 else "train" for i in range(start, start + n)]
        labels = [f"class {i % 58}" for i in range(start, start + n)]
        features = list_column((values * unit + offset).astype(np.float32))
        columns = {"path": names, "label": labels, "split": splits, "features": features}
        staged.append(output.stage(Dataset.FEATURES, made(FEATURES, columns)))
    output.commit({Dataset.FEATURES: staged})


def orchard_way(workers: Workers, output: Output, variance: float) -> tuple[int, float]:
    """Run Orchard's stage; return k and the share of the variance."""
    metrics = reduce(workers, output, variance=variance).metrics
    return metrics["k"], metrics["explained_variance"]


def spark_ml_way(spark: SparkSession, folder: Path, k: int) -> float:
    """Do the same with Spark ML; return the share of the variance."""
    rows = spark.read.parquet(str(folder / "features"))
    rows = rows.select("path", "label", "split", array_to_vector(F.col("features").cast("array<double>")).alias("raw"))
    train = rows.where("split = 'train'")
    scaler = StandardScaler(withMean=True, withStd=True, inputCol="raw", outputCol="scaled").fit(train)
    pca = PCA(k=k, inputCol="scaled", outputCol="pca").fit(scaler.transform(train))
    reduced = pca.transform(scaler.transform(rows))
    reduced = reduced.select("path", "label", "split", vector_to_array("pca", "float32").alias("pca_features"))
    reduced.write.mode("overwrite").parquet(str(folder / "spark_ml"))
    return float(sum(pca.explainedVariance.toArray()))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--features", type=int, default=1280)
    parser.add_argument("--file-rows", type=int, default=1000, help="rows of each file of features")
    parser.add_argument("--variance", type=float, default=0.95)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--master", default="local[2]")
    parser.add_argument("--json", type=Path, help="also write the result to this file")
    arguments = parser.parse_args()

    session = Session(load({"master": arguments.master, "driver_memory": "3g"}))
    folder = Path(tempfile.mkdtemp(prefix="orchard-benchmark-"))
    try:
        for name, rows in (("warm-up", 400), ("measured", arguments.rows)):
            output = Output(str(folder / name))
            turns = []
            with output.writing():
                generate(output, rows, arguments.features, arguments.file_rows)
                k, _ = orchard_way(session.workers, output, arguments.variance)
                for _ in range(arguments.repeats if name == "measured" else 1):
                    start = time.perf_counter()
                    spark_variance = spark_ml_way(session.spark, folder / name, k)
                    middle = time.perf_counter()
                    k, variance = orchard_way(session.workers, output, arguments.variance)
                    turns.append((middle - start, time.perf_counter() - middle))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        session.stop()

    ratios = [spark_ml / orchard for spark_ml, orchard in turns]
    print(f"{arguments.rows} x {arguments.features}, k = {k}, {arguments.master}")
    print(f"{'turn':>6} {'Spark ML, s':>12} {'Orchard, s':>12} {'ratio':>8}")
    for turn, ((spark_ml, orchard), ratio) in enumerate(zip(turns, ratios, strict=True), 1):
        print(f"{turn:>6} {spark_ml:>12.2f} {orchard:>12.2f} {ratio:>8.1f}")
    print(f"median ratio {statistics.median(ratios):.1f}")
    print(f"explained variance: Spark ML {spark_variance:.6f}, Orchard {variance:.6f}")
    result = {
        "rows": arguments.rows,
        "features": arguments.features,
        "k": k,
        "spark_ml_seconds": [spark_ml for spark_ml, _ in turns],
        "orchard_seconds": [orchard for _, orchard in turns],
        "median_ratio": statistics.median(ratios),
        "explained_variance": {"spark_ml": spark_variance, "orchard": variance},
    }
    print(json.dumps(result))
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
