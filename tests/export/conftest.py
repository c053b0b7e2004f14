"""The files that an output is exported to, each written once, and the photographs that they are asked about."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

import orchard.api
from export.runtimes import Answers, Exporter, Photographs, run_tensorflow
from orchard.exports.formats import Format, StoredPrecision
from orchard.exports.writing import export
from orchard.images.decoding import Decoded
from orchard.inference.model import Model
from orchard.inference.predictor import Predictor


@pytest.fixture(scope="session")
def model(trained: Path) -> Model:
    return Model.load(str(trained))


@pytest.fixture(scope="session")
def photographs(trained: Path, model: Model) -> Photographs:
    # The rows are in the order in which tasks ended: `looked_at` would take others of them each time.
    rows = pq.read_table(trained / "predictions").sort_by("path").to_pylist()
    rows = [row for row in rows if row["split"] == "test" and row["classifier"] == model.classifier]
    assert len(rows) >= 500
    predictor = Predictor(model)
    decoded = [predictor.decode(Path(row["path"]).read_bytes()) for row in rows]
    return Photographs(
        np.stack([image.pixels for image in decoded if isinstance(image, Decoded)]),
        [row["label"] for row in rows],
        [row["predicted"] for row in rows],
        np.array([row["confidence"] for row in rows], np.float32),
        np.array([row["familiarity"] for row in rows], np.float32),
        [json.loads(row["predicted_columns"])["colour"] for row in rows],
    )


@pytest.fixture(scope="session")
def looking(spark: SparkSession, trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of the same labels that looks at three views, and takes the square root of features; read only."""
    output = tmp_path_factory.mktemp("looking") / "out"
    orchard.api.run(
        spark,
        str(trained.parent / "fruits.csv"),
        str(output),
        label_columns=["colour"],
        precision="float32",
        classifiers=["linear_discriminant"],
        test_views="3",
        transform="square_root",
        limit=660,
    )
    return output


@pytest.fixture(scope="session")
def looked_at(looking: Path, photographs: Photographs) -> Photographs:
    """Some of the photographs, with what the model of three views answers."""
    model, few = Model.load(str(looking)), slice(None, None, 10)
    features = Predictor(model).features(list(photographs.pixels[few]))
    probabilities, (column,) = model.probabilities(features), model.columns
    return Photographs(
        photographs.pixels[few],
        photographs.label[few],
        [model.labels[index] for index in probabilities.argmax(axis=1)],
        probabilities.max(axis=1),
        model.familiarities(features),
        [column.values[index] for index in column.probabilities(features).argmax(axis=1)],
    )


def exporter(output: Path, folder: Path) -> Exporter:
    """Return what writes the model of an output as a file of a format and precision, once."""

    def export_once(kind: Format, precision: StoredPrecision) -> Path:
        file = folder / f"{precision}{kind.suffix}"
        if not file.exists():
            export(str(output), str(file), kind, precision)
        return file

    return export_once


@pytest.fixture(scope="session")
def exported(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Exporter:
    """The model as a file of that format and precision."""
    return exporter(trained, tmp_path_factory.mktemp("exported"))


@pytest.fixture(scope="session")
def exported_views(looking: Path, tmp_path_factory: pytest.TempPathFactory) -> Exporter:
    """The model of three views as a file of that format and precision."""
    return exporter(looking, tmp_path_factory.mktemp("exported-views"))


@pytest.fixture(scope="session")
def answers_of_tensorflow(
    exported: Exporter, photographs: Photographs, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Answers]:
    """Of the files that TensorFlow runs, by their names, the answers."""
    wanted = [
        (Format.KERAS, StoredPrecision.FLOAT32),
        (Format.LITERT, StoredPrecision.FLOAT32),
        (Format.LITERT, StoredPrecision.INT8),
    ]
    with ThreadPoolExecutor(2) as pool:
        files = list(pool.map(lambda one: exported(*one), wanted))
    return run_tensorflow(files, photographs, tmp_path_factory.mktemp("answers"))
