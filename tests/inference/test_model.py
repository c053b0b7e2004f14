"""The model of an output answers as the pipeline's own classifier did."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from orchard.errors import InputError, StorageError
from orchard.inference.calibration import softmax
from orchard.inference.model import BACKBONE, LOGISTIC_REGRESSION, Model, collapse
from orchard.inference.predictor import Predictor
from orchard.reduction.moments import Moments
from orchard.reduction.pca import Reduction


def test_one_linear_layer_gives_what_scaler_pca_and_classifier_give_one_after_the_other() -> None:
    random = np.random.default_rng(0)
    features = (random.normal(3, 2, (500, 40)) @ random.normal(0, 1, (40, 40))).astype(np.float32)
    features[:, 7] = 5  # a feature that never varies
    reduction = Reduction.fit(Moments.of(features), variance=0.9)
    coefficients = random.normal(0, 1, (6, reduction.n_components_))
    intercept = random.normal(0, 1, 6)
    weights, bias = collapse(reduction, coefficients, intercept)
    expected = softmax(reduction.transform(features) @ coefficients.T + intercept)
    assert np.abs(softmax(features @ weights.T + bias) - expected).max() < 1e-4


def test_all_test_photographs_get_the_answers_of_the_pipeline(trained: Path) -> None:
    predictor = Predictor(Model.load(str(trained)))
    rows = pq.read_table(trained / "predictions").to_pylist()
    rows = [row for row in rows if row["split"] == "test"]
    assert len(rows) >= 500
    answers = []
    for start in range(0, len(rows), 50):
        images = [predictor.decode(Path(row["path"]).read_bytes()).pixels for row in rows[start : start + 50]]
        answers += predictor.predict(images, top=3)
    same = [answer.top[0][0] == row["predicted"] for answer, row in zip(answers, rows, strict=True)]
    assert np.mean(same) >= 0.995
    differences = [abs(answer.top[0][1] - row["confidence"]) for answer, row in zip(answers, rows, strict=True)]
    assert max(differences) < 1e-2
    assert all(len(answer.top) == 3 and answer.top[0][1] >= answer.top[1][1] for answer in answers)


def test_an_output_without_a_model_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no model .*: make one with orchard run SOURCE --output"):
        Model.load(str(tmp_path))


def test_a_damaged_model_is_refused(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    for file in (trained / "model").iterdir():
        (tmp_path / "model" / file.name).write_bytes(file.read_bytes())
    backbone = tmp_path / BACKBONE
    backbone.write_bytes(backbone.read_bytes()[:-1])
    with pytest.raises(StorageError, match="cannot be used"):
        Model.load(str(tmp_path))


def test_parts_of_different_runs_are_refused(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    for file in (trained / "model").iterdir():
        (tmp_path / "model" / file.name).write_bytes(file.read_bytes())
    with np.load(tmp_path / LOGISTIC_REGRESSION) as arrays:
        values = dict(arrays)
    np.savez(tmp_path / LOGISTIC_REGRESSION, **(values | {"coefficients": values["coefficients"][:, 1:]}))
    with pytest.raises(StorageError, match="cannot be used"):
        Model.load(str(tmp_path))
