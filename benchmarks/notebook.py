"""The notebook's way against Orchard's: the same images, backbone and outputs, each in a fresh process.

    python benchmarks/notebook.py --limit 4000 --json notebook.json

The notebook's way is that of the notebooks on "Fruits!" that Orchard replaces: images by Spark's ``binaryFile``,
``repartition(24)``, Keras' MobileNetV2 with broadcast weights and ``model.predict`` in an iterator pandas UDF, Spark
ML's StandardScaler and PCA, Parquet and CSV; nothing is cached, so each action runs the network again. README.md
says what was chosen where the notebooks leave a choice.

Both start as processes, on ``local[2]`` with the same memory, and count from before their start until the last
output is written. They take turns, Orchard first.
"""

import argparse
import io
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow.csv
import pyarrow.dataset

from measuring import copy_images, images_folder, parser, report, save, use_shared_keras_home
from orchard.features.backbones import find
from orchard.features.weights import locate

if TYPE_CHECKING:
    import keras

BACKBONE = "MobileNetV2"
SIDE = 224  # pixels
ARROW_BATCH = 1024


# --- The notebook's way: runs in a process of its own -------------------------------------------------------


def mobilenet(weights: str | None) -> "keras.Model":
    """Build MobileNetV2 without its classifier, with average pooling: what the notebooks' ``layers[-2]`` gives too."""
    import keras

    return keras.applications.MobileNetV2(
        weights=weights, include_top=False, pooling="avg", input_shape=(SIDE, SIDE, 3)
    )


def featurizer(weights: Any) -> Callable[[Iterator[pd.Series]], Iterator[pd.Series]]:
    """Return the function of the notebooks' UDF: encoded images to features; `weights` are broadcast arrays."""

    def preprocess(content: bytes) -> Any:
        from keras.applications.mobilenet_v2 import preprocess_input
        from keras.utils import img_to_array
        from PIL import Image

        return preprocess_input(img_to_array(Image.open(io.BytesIO(content)).resize((SIDE, SIDE))))

    def featurize(contents: Iterator[pd.Series]) -> Iterator[pd.Series]:
        model = mobilenet(None)
        model.set_weights(weights.value)
        for content in contents:
            predictions = model.predict(np.stack([preprocess(data) for data in content]), verbose=0)
            yield pd.Series([features.flatten() for features in predictions])

    return featurize


def notebook_side(source: str, output: Path, settings: argparse.Namespace) -> dict[str, Any]:
    """Do it the notebook's way; return when what was done, by the monotonic clock."""
    import keras  # noqa: F401 -- the notebooks import it first, and so pay for it
    from pyspark.ml.feature import PCA, StandardScaler
    from pyspark.ml.functions import array_to_vector, vector_to_array
    from pyspark.sql import SparkSession
    from pyspark.sql import functions as F  # noqa: N812 -- Spark's own convention

    spark = (
        SparkSession.builder.appName("notebook")
        .master(settings.master)
        .config("spark.driver.memory", settings.driver_memory)
        .config("spark.driver.host", "127.0.0.1")
        .config("spark.ui.enabled", "false")
        .config("spark.ui.showConsoleProgress", "false")
        .config("spark.sql.execution.arrow.maxRecordsPerBatch", str(ARROW_BATCH))
        .getOrCreate()
    )
    spark.sparkContext.setLogLevel("ERROR")
    weights = spark.sparkContext.broadcast(mobilenet(settings.notebook_weights).get_weights())
    marks: dict[str, Any] = {"started": time.monotonic()}

    def mark(name: str) -> None:
        marks[name] = time.monotonic()
        print(f"  notebook: {name}", file=sys.stderr, flush=True)

    images = (
        spark.read.format("binaryFile")
        .option("pathGlobFilter", "*.jpg")
        .option("recursiveFileLookup", "true")
        .load(source)
        .withColumn("label", F.element_at(F.split("path", "/"), -2))
    )
    udf = F.pandas_udf(featurizer(weights), "array<float>", F.PandasUDFType.SCALAR_ITER)
    features = images.repartition(settings.partitions).select("path", "label", udf("content").alias("features"))
    vectors = features.withColumn("vector", array_to_vector("features"))
    scaler = StandardScaler(withMean=True, withStd=True, inputCol="vector", outputCol="scaled").fit(vectors)
    mark("scaler fitted")
    scaled = scaler.transform(vectors)
    pca = PCA(k=settings.components, inputCol="scaled", outputCol="pca").fit(scaled)
    mark("PCA fitted")
    reduced = pca.transform(scaled).select("path", "label", "pca")
    reduced.write.mode("overwrite").parquet(str(output / "parquet"))
    mark("Parquet written")
    text = reduced.select("path", "label", F.concat_ws(",", vector_to_array("pca")).alias("pca"))
    text.write.mode("overwrite").csv(str(output / "csv"), header=True)
    mark("CSV written")
    marks["done"] = marks["CSV written"]
    marks["explained_variance_ratio"] = pca.explainedVariance.toArray().tolist()
    spark.stop()
    return marks


# --- Orchard's way: runs in a process of its own ------------------------------------------------------------


def orchard_side(source: str, output: Path, settings: argparse.Namespace) -> dict[str, Any]:
    """Do it with Orchard's pipeline, without classifiers and report, which the notebooks do not have."""
    from orchard.pipeline import Pipeline
    from orchard.settings import load

    given = load(
        {
            "backbone": BACKBONE,
            "weights": settings.weights,
            "precision": settings.precision,
            "components": settings.components,
            "master": settings.master,
            "driver_memory": settings.driver_memory,
        }
    )
    marks: dict[str, Any] = {}
    with Pipeline(str(output / "out"), given) as pipeline:
        pipeline.extract(source)
        pipeline.reduce()
        metrics = pipeline.finish().metrics
        marks["done"] = time.monotonic()
        # As ExtractionResult counts: from the first task, in which the workers start, to the last commit.
        extraction_seconds = metrics["images"]["decoded"] / metrics["images_per_second"]
        marks["started"] = marks["done"] - extraction_seconds - metrics["seconds"]["reduce"]
    marks["explained_variance_ratio"] = metrics["pca"]["explained_variance_ratio"][: metrics["pca"]["k"]]
    return marks


# --- Both, in turns -----------------------------------------------------------------------------------------


def run_side(name: str, source: Path, output: Path, settings: argparse.Namespace) -> dict[str, Any]:
    """Run one side as a process; return the seconds of each part, and the explained variance."""
    output.mkdir()
    print(f"  {name}: start", file=sys.stderr, flush=True)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("ORCHARD_")} | {
        "KERAS_BACKEND": "tensorflow",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "CUDA_VISIBLE_DEVICES": "-1",
        "PYSPARK_PYTHON": sys.executable,
        "ORCHARD_CACHE": str(output / "cache"),  # empty: Orchard builds the network anew, as the notebook does
    }
    command = [sys.executable, __file__, "--side", name, str(source), str(output), json.dumps(vars(settings))]
    begun = time.monotonic()
    subprocess.run(command, env=environment, cwd=output, check=True)
    marks: dict[str, Any] = json.loads((output / "marks.json").read_text())
    # One clock for all processes of a machine.
    seconds = {key: round(marks[key] - begun, 3) for key in ("started", "done")}
    return marks | {"total": seconds["done"], "once_started": seconds["done"] - seconds["started"]}


def check_rows(output: Path, images: int) -> None:
    """Make sure that both sides wrote every image, to Parquet and to CSV."""

    def names(paths: Any) -> set[str]:
        return {path.removeprefix("file:") for path in paths.to_pylist()}

    theirs, ours = output / "notebook", output / "orchard" / "out"
    tables = [
        pyarrow.dataset.dataset(theirs / "parquet").to_table(columns=["path"]),
        pyarrow.dataset.dataset(ours / "reduced").to_table(columns=["path"]),
        *(
            pyarrow.concat_tables(
                [pyarrow.csv.read_csv(file).select(["path"]) for file in sorted(folder.glob("part-*"))]
            )
            for folder in (theirs / "csv", ours / "reduced_csv")
        ),
    ]
    if {table.num_rows for table in tables} != {images} or len({frozenset(names(t["path"])) for t in tables}) != 1:
        raise SystemExit(f"The sides disagree: {images} images, {[table.num_rows for table in tables]} rows.")


def measure(settings: argparse.Namespace, source: Path, images: int, output: Path) -> dict[str, Any]:
    """Run both sides once; return their seconds and ratios."""
    output.mkdir()
    orchard = run_side("orchard", source, output / "orchard", settings)
    notebook = run_side("notebook", source, output / "notebook", settings)
    check_rows(output, images)
    shutil.rmtree(output)
    parts = ("total", "once_started")
    variances = [sum(side["explained_variance_ratio"]) for side in (notebook, orchard)]
    return {
        "notebook": {part: notebook[part] for part in parts} | {"explained_variance": variances[0]},
        "orchard": {part: orchard[part] for part in parts} | {"explained_variance": variances[1]},
        "ratios": {part: notebook[part] / orchard[part] for part in parts},
    }


def child(name: str, source: str, output: str, settings: str) -> None:
    """Be the process of one side."""
    side = {"notebook": notebook_side, "orchard": orchard_side}[name]
    marks = side(source, Path(output), argparse.Namespace(**json.loads(settings)))
    (Path(output) / "marks.json").write_text(json.dumps(marks))


def main() -> None:
    """Measure and print."""
    if sys.argv[1:2] == ["--side"]:
        child(*sys.argv[2:])
        return
    arguments = parser(__doc__)
    arguments.set_defaults(limit=4000, repeat=1)
    arguments.add_argument("--components", type=int, default=200, help="of the PCA, on both sides [%(default)s]")
    arguments.add_argument("--weights", default="imagenet", help="imagenet, random, or a file [%(default)s]")
    arguments.add_argument("--precision", default="auto", help="of Orchard: auto, float32 or bfloat16 [%(default)s]")
    arguments.add_argument("--master", default="local[2]", help="of both [%(default)s]")
    arguments.add_argument("--driver-memory", default="2g", help="of both [%(default)s]")
    arguments.add_argument("--partitions", type=int, default=24, help="of the notebook [%(default)s]")
    given = arguments.parse_args()

    use_shared_keras_home()
    weights = None
    if given.weights != "random":
        # Keras passes over a KERAS_HOME that it cannot write to; the file itself it takes.
        path = locate(find(BACKBONE), given.weights).path
        weights = "imagenet" if path is None else str(path)
    settings = argparse.Namespace(
        components=given.components,
        weights=given.weights,
        notebook_weights=weights,
        precision=given.precision,
        master=given.master,
        driver_memory=given.driver_memory,
        partitions=given.partitions,
    )
    scratch = Path(tempfile.mkdtemp(prefix="orchard-benchmark-", dir=given.scratch)).resolve()
    turns = []
    try:
        source = images_folder(given.images, scratch, at_least=given.limit)
        images = copy_images(source, scratch / "images", limit=given.limit, all_for_training=True)
        for n in range(1, given.repeat + 1):
            turns.append(measure(settings, scratch / "images", images, scratch / f"turn-{n}"))
            ratios = ", ".join(f"{part} {ratio:.1f}x" for part, ratio in turns[-1]["ratios"].items())
            print(f"turn {n} of {given.repeat}: {ratios}", flush=True)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)

    rows = [
        (
            str(number),
            side,
            f"{turn[side]['total']:.1f}",
            f"{images / turn[side]['once_started']:,.0f}",
            f"{turn[side]['explained_variance']:.4f}",
        )
        for number, turn in enumerate(turns, 1)
        for side in ("notebook", "orchard")
    ]
    medians = {part: statistics.median(turn["ratios"][part] for turn in turns) for part in turns[0]["ratios"]}
    report(
        f"{images:,} images of {source}, {BACKBONE} ({given.weights}), k = {given.components}, {given.master}",
        ("turn", "side", "end to end, s", "outputs, images/s", "variance"),
        rows,
        (
            "outputs: images over the seconds from the network being there to the last output",
            f"end to end           {medians['total']:.1f}x (target: at least 15x)",
            f"outputs, images/s    {medians['once_started']:.1f}x once started (target: at least 40x)",
        ),
    )
    save(given.json, {"images": images, "settings": vars(settings), "turns": turns, "median_ratios": medians})


if __name__ == "__main__":
    main()
