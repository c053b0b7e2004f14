"""A run that tunes its network, an output that is tuned afterwards, and one that is cut off in between."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyspark.sql import SparkSession

import orchard
from orchard.errors import SettingsChanged, UsageError
from orchard.features.artifact import Artifact
from orchard.featurizing import Featurizing
from orchard.inference.model import Model
from orchard.layout import BACKBONE, TO_DO_AGAIN, TUNED, Dataset
from orchard.output import Output
from orchard.pipeline import Pipeline
from orchard.settings import load
from orchard.tuning import process

from .conftest import Result

Run = Callable[..., Result]
SETTINGS: dict[str, Any] = {
    **{"backbone": "MobileNetV2", "alpha": 0.35, "weights": "random", "input_size": 64, "precision": "float32"},
    **{"classifiers": "linear_discriminant", "tune_epochs": 2},
}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORCHARD_CACHE", str(tmp_path / "cache"))


def network(result: Result) -> Artifact:
    return Artifact.from_bytes(Output(str(result.folder)).part(BACKBONE) or b"")


def test_a_network_is_tuned_before_features_or_afterwards(
    run: Run, photos: Path, spark: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match="cannot train MobileNetV3Small"):
        run(photos, "refused", backbone="MobileNetV3Small", tune=True)

    tuned = run(photos, "tuned", **SETTINGS, tune=True, tune_branches=2)
    tuned.assert_adds_up(90)
    found = tuned.metrics["tuning"]
    assert found["epochs"] == 2 and len(found["history"]) == 3 and found["images"] + found["held_out"] == 72
    about = json.loads((tuned.folder / "run.json").read_text())["backbone"]
    assert about["tune"] is True and about["weights_digest"] == network(tuned).weights_digest
    assert network(tuned).weights == "random, tuned"
    assert found["branches"] == 2 and network(tuned).n_features == tuned.metrics["pca"]["n_features"] == 2 * 1280
    page = (tuned.folder / "report.html").read_text()
    assert 'id="tuning"' in page and "There are 2 copies (branches) of these blocks, each trained" in page
    # No part of the model, and no checkpoint or activations, is left of it.
    assert not list((tuned.folder / "model").rglob(TUNED)) and not list(
        (tuned.folder / "_orchard").rglob("checkpoint*")
    )
    assert not list(Path(tuned.folder.parent / "cache" / "tuning").glob("*"))
    # It stays tuned, and new images get features of the same network.
    (photos / "Training" / "Lemon #2" / "new.jpg").write_bytes(
        (photos / "Test" / "Lemon #2" / "+frame 0.jpg").read_bytes()
    )
    orchard.extract(spark, str(photos), str(tuned.folder), **SETTINGS)
    more = Output(str(tuned.folder))
    assert more.rows(Dataset.FEATURES) == 91 and more.recall("extraction")["images"] == 1
    assert network(tuned).weights_digest == about["weights_digest"]

    plain = run(photos, "plain", **SETTINGS)
    before, model = plain.features(), Model.load(str(plain.folder))
    older = Output(str(plain.folder))
    with older.writing():  # made before these could be chosen
        new = {"input_size", "fit", "views", "test_views", "tune"}
        kept = {name: value for name, value in older.recall("identity").items() if name not in new}
        older.commit({}, properties={"identity": kept | {"input_size": 64}})
    with pytest.raises(SettingsChanged, match="was made with tune False"):
        run(photos, "plain", **SETTINGS, tune=True)
    again = {"classifiers": "linear_discriminant", "tune_epochs": 1}
    settings = load(again)

    def cut_off(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with Pipeline(str(plain.folder), settings, spark) as pipeline, monkeypatch.context() as patch:
        patch.setattr(Featurizing, "_featurize", cut_off)
        with pytest.raises(KeyboardInterrupt):
            pipeline.tune()
    # The model of before holds meanwhile, and what is to be done is known.
    assert Model.load(str(plain.folder)).digest == model.digest
    monkeypatch.setattr(process, "tune", cut_off)  # it is not tuned a second time
    outcome = orchard.tune(spark, str(plain.folder), **again)
    after = Result(plain.folder, dict(outcome.metrics))
    after.assert_adds_up(91)
    assert after.features().keys() == before.keys()
    path = next(iter(before))
    assert not np.allclose(before[path], after.features()[path]) or found["best_epoch"] == 0
    assert after.metrics["tuning"]["before"].keys() == {"linear_discriminant"}
    assert Output(str(plain.folder)).part(TO_DO_AGAIN) is None
    assert Model.load(str(plain.folder)).digest != model.digest
    with Pipeline(str(plain.folder), settings, spark) as pipeline:
        pipeline.tune()  # nothing to do
