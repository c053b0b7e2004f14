"""The model of an output answers as the pipeline's own classifier did."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from orchard import models
from orchard.errors import InputError, OutputDamaged
from orchard.files import digest_of
from orchard.inference.calibration import Calibration, softmax
from orchard.inference.model import Model, collapse
from orchard.inference.predictor import Predictor
from orchard.output import Output
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
    with pytest.raises(InputError, match=r"holds no model: make one with orchard run SOURCE --output"):
        Model.load(str(tmp_path))


@pytest.fixture
def copied(trained: Path, tmp_path: Path) -> Output:
    """The model alone, without the rest of the output: enough to predict with."""
    shutil.copytree(trained / "model", tmp_path / "out" / "model")
    assert Model.load(str(tmp_path / "out")).labels == Model.load(str(trained)).labels
    return Output(str(tmp_path / "out"))


def folder_of(output: Output) -> Path:
    return Path(output.url, models.current(output.storage).folder)


@pytest.mark.parametrize(
    "part", ["backbone", "reduction.npz", "labels.json", "calibration.json", "logistic_regression.npz", "manifest.json"]
)
def test_a_part_that_is_not_what_the_model_was_made_with_is_refused(copied: Output, part: str) -> None:
    path = folder_of(copied) / part
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(OutputDamaged, match=f"{part}.*orchard verify"):
        Model.load(copied.url)
    path.unlink()
    with pytest.raises(OutputDamaged, match=r"gone.*orchard verify"):
        Model.load(copied.url)


def test_labels_that_were_edited_by_hand_are_refused(copied: Output) -> None:
    labels = folder_of(copied) / "labels.json"
    labels.write_text(labels.read_text().replace("Mango", "Lemon"))
    with pytest.raises(OutputDamaged, match=r"labels\.json is not what the model was made with"):
        Model.load(copied.url)


def test_parts_of_another_run_are_refused_whatever_the_manifest_says(copied: Output) -> None:
    """A mixture needs another manifest, and another manifest is another folder."""
    folder = folder_of(copied)
    calibration = Calibration(temperature=3, threshold=1).to_bytes()
    (folder / "calibration.json").write_bytes(calibration)
    digests = json.loads((folder / "manifest.json").read_text()) | {"calibration.json": digest_of(calibration)}
    (folder / "manifest.json").write_text(json.dumps(digests))
    with pytest.raises(OutputDamaged, match=r"manifest\.json is damaged"):
        Model.load(copied.url)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"folder": 3}', '{"folder": "model/../../x/"}', "null"])
def test_what_says_which_model_holds_is_checked(copied: Output, content: str) -> None:
    Path(copied.url, "model", "current.json").write_text(content)
    with pytest.raises(OutputDamaged):
        Model.load(copied.url)


def test_a_model_of_an_earlier_version_is_not_taken_for_whole(copied: Output) -> None:
    folder = folder_of(copied)
    for part in folder.iterdir():
        part.replace(folder.parent / part.name)
    Path(copied.url, "model", "current.json").unlink()
    with pytest.raises(InputError, match=r"earlier version of Orchard.*orchard run"):
        Model.load(copied.url)
