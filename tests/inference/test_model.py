"""The model of an output answers as the pipeline's own classifier did."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from orchard import models
from orchard.errors import InputError, OutputDamaged, StorageError
from orchard.files import digest_of
from orchard.images.decoding import Decoded
from orchard.inference.calibration import Calibration, Decision, softmax
from orchard.inference.linear import Linear
from orchard.inference.model import Model
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
    linear = Linear.on_components(reduction, coefficients, intercept)
    expected = softmax(reduction.transform(features) @ coefficients.T + intercept)
    assert np.abs(softmax(linear(features)) - expected).max() < 1e-4
    again = Linear.from_bytes(linear.to_bytes(), reduction)
    np.testing.assert_array_equal(again(features), linear(features))
    with pytest.raises(ValueError, match="matmul"):
        Linear.on_components(reduction, coefficients[:, 1:], intercept)


def test_all_test_photographs_get_the_answers_of_the_pipeline(trained: Path) -> None:
    model = Model.load(str(trained))
    assert model.classifier == "linear_discriminant"
    predictor = Predictor(model)
    rows = pq.read_table(trained / "predictions").to_pylist()
    rows = [row for row in rows if row["split"] == "test"]
    assert len(rows) >= 500
    answers = []
    for start in range(0, len(rows), 50):
        images = [predictor.decode(Path(row["path"]).read_bytes()) for row in rows[start : start + 50]]
        answers += predictor.predict([image.pixels for image in images if isinstance(image, Decoded)], top=3)
    same = [answer.top[0][0] == row["predicted"] for answer, row in zip(answers, rows, strict=True)]
    assert np.mean(same) >= 0.995
    differences = [abs(answer.top[0][1] - row["confidence"]) for answer, row in zip(answers, rows, strict=True)]
    assert max(differences) < 1e-2
    assert max(abs(a.familiarity - row["familiarity"]) for a, row in zip(answers, rows, strict=True)) < 1e-2
    assert np.mean([answer.answer == row["answer"] for answer, row in zip(answers, rows, strict=True)]) >= 0.99
    said = [json.loads(row["predicted_columns"])["colour"] for row in rows]
    assert (
        np.mean([answer.columns[0].likeliest == colour for answer, colour in zip(answers, said, strict=True)]) >= 0.99
    )
    assert all(answer.columns[0].value is None for answer in answers if answer.answer == "unknown")
    assert all(answer.label == (answer.top[0][0] if answer.answer == "sure" else None) for answer in answers)
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
    "part",
    [
        *("backbone", "reduction.npz", "labels.json", "calibration.json", "familiarity.npz"),
        *("linear_discriminant.npz", "manifest.json"),
    ],
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
    calibration = Decision("linear_discriminant", Calibration(temperature=3, threshold=1)).to_bytes()
    (folder / "calibration.json").write_bytes(calibration)
    digests = json.loads((folder / "manifest.json").read_text()) | {"calibration.json": digest_of(calibration)}
    (folder / "manifest.json").write_text(json.dumps(digests))
    with pytest.raises(OutputDamaged, match=r"manifest\.json is damaged"):
        Model.load(copied.url)


def test_figures_of_the_run_before_are_not_taken_for_the_models_own(trained: Path, copied: Output) -> None:
    """A run writes them at its end, and may be killed before; a server may start meanwhile."""
    for name in ("metrics.json", "run.json"):
        shutil.copy(trained / name, copied.url)
    own = Model.load(copied.url)
    assert own.metrics["model"] == models.current(copied.storage).folder
    calibration = Decision.from_bytes((folder_of(copied) / "calibration.json").read_bytes())
    other = replace(calibration, label=replace(calibration.label, temperature=3.0)).to_bytes()
    remade(copied, calibration__json=other)
    new = Model.load(copied.url)
    assert new.digest != own.digest
    assert new.metrics == new.run == {}


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"folder": 3}', '{"folder": "model/../../x/"}', "null"])
def test_what_says_which_model_holds_is_checked(copied: Output, content: str) -> None:
    Path(copied.url, "model", "current.json").write_text(content)
    with pytest.raises(OutputDamaged):
        Model.load(copied.url)


def test_a_model_of_an_earlier_version_is_not_taken_for_whole(copied: Output) -> None:
    folder = folder_of(copied)
    (folder / "linear_discriminant.npz").rename(folder / "logistic_regression.npz")
    for part in folder.iterdir():
        part.replace(folder.parent / part.name)
    Path(copied.url, "model", "current.json").unlink()
    with pytest.raises(InputError, match=r"earlier version of Orchard.*orchard run"):
        Model.load(copied.url)


def remade(output: Output, **parts: bytes | None) -> None:
    """Make another whole model of the model's parts, but for these."""
    folder = folder_of(output)
    contents = {name: (folder / name).read_bytes() for name in json.loads((folder / "manifest.json").read_text())}
    contents |= {name.replace("__", "."): data for name, data in parts.items() if data is not None}
    contents = {name: data for name, data in contents.items() if parts.get(name.replace(".", "__"), b"") is not None}
    name, manifest = models.manifest({part: digest_of(data) for part, data in contents.items()})
    Path(output.url, name).mkdir()
    for part, data in (contents | {"manifest.json": manifest}).items():
        Path(output.url, name, part).write_bytes(data)
    Path(output.url, "model", "current.json").write_text(json.dumps({"folder": name}))


def test_a_model_of_before_there_was_familiarity_is_made_again(copied: Output) -> None:
    remade(copied, familiarity__npz=None, calibration__json=b'{"temperature": 1.2, "threshold": 0.8}')
    with pytest.raises(InputError, match=r"earlier version of Orchard.*orchard run"):
        Model.load(copied.url)


def test_a_model_without_a_linear_classifier_does_not_answer(copied: Output) -> None:
    remade(copied, calibration__json=None, linear_discriminant__npz=None)
    with pytest.raises(InputError, match=r"no linear classifier.*--classifiers linear_discriminant"):
        Model.load(copied.url)


@pytest.mark.parametrize(
    "content", [b"{}", b"[1]", b'{"classifier": "linear_discriminant"}', b'{"classifier": 3}', b"\xff"]
)
def test_a_decision_that_cannot_be_read_is_one_sentence(copied: Output, content: bytes) -> None:
    remade(copied, calibration__json=content)
    with pytest.raises(StorageError, match=r"cannot be used .*orchard run again"):
        Model.load(copied.url)


def test_a_decision_names_no_file_outside_the_model(copied: Output) -> None:
    decision = Decision("../../secret", Calibration()).to_bytes()
    Path(copied.url, "secret.npz").write_bytes(b"")
    remade(copied, calibration__json=decision)
    with pytest.raises(InputError, match="has no"):
        Model.load(copied.url)


def test_without_familiarity_everything_is_familiar(trained: Path) -> None:
    model = replace(Model.load(str(trained)), familiarity=None)
    near = model.familiarities(np.zeros((3, model.artifact.n_features), np.float32))
    assert near.tolist() == [1, 1, 1] and near.dtype == np.float32
    assert model.digest != Model.load(str(trained)).digest
