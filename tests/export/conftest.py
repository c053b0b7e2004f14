"""The files that an output is exported to, each written once, and the photographs that they are asked about."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from export.runtimes import Answers, Exporter, Photographs, run_tensorflow
from orchard.exports.formats import Format, Precision
from orchard.exports.writing import export
from orchard.images.decoding import Decoded
from orchard.inference.model import Model
from orchard.inference.predictor import Predictor


@pytest.fixture(scope="session")
def model(trained: Path) -> Model:
    return Model.load(str(trained))


@pytest.fixture(scope="session")
def photographs(trained: Path, model: Model) -> Photographs:
    rows = pq.read_table(trained / "predictions").to_pylist()
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
def exported(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Exporter:
    """The model as a file of that format and precision."""
    folder = tmp_path_factory.mktemp("exported")

    def export_once(kind: Format, precision: Precision) -> Path:
        file = folder / f"{precision}{kind.suffix}"
        if not file.exists():
            export(str(trained), str(file), kind, precision)
        return file

    return export_once


@pytest.fixture(scope="session")
def answers_of_tensorflow(
    exported: Exporter, photographs: Photographs, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Answers]:
    """Of the files that TensorFlow runs, by their names, the answers."""
    wanted = [(Format.KERAS, Precision.FLOAT32), (Format.LITERT, Precision.FLOAT32), (Format.LITERT, Precision.INT8)]
    with ThreadPoolExecutor(2) as pool:
        files = list(pool.map(lambda one: exported(*one), wanted))
    return run_tensorflow(files, photographs, tmp_path_factory.mktemp("answers"))
