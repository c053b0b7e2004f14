"""Views lie beside the features, come and go with their images, and are learned from."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from orchard.errors import SettingsChanged
from orchard.images.decoding import Decoded
from orchard.inference.model import Model
from orchard.inference.predictor import Predictor
from orchard.layout import Dataset
from orchard.output import Output
from orchard.reduction.statistics import Role, Statistics
from orchard.verify import verify
from orchard.vocabulary import Split

from .conftest import Result, paint

Run = Callable[..., Result]
SETTINGS = {"views": 2, "classifiers": "linear_discriminant", "backbone": "MobileNetV3Small", "weights": "random"}


def test_views_come_and_go_with_their_images_and_are_learned_from(run: Run, photos: Path) -> None:
    first = run(photos, **SETTINGS)
    first.assert_adds_up(90)
    views = first.table("views")
    inventory = {row["path"]: row for row in first.table("inventory").to_pylist()}
    training = {path for path, row in inventory.items() if row["split"] == Split.TRAIN}
    assert Counter(views["path"].to_pylist()) == dict.fromkeys(training, 2)
    assert set(zip(views["path"].to_pylist(), views["view"].to_pylist(), strict=True)) == {
        (path, view) for path in training for view in (0, 1)
    }
    assert all(row["label"] == inventory[row["path"]]["label"] for row in views.to_pylist())
    # The image's own features are those that it has without views.
    assert first.features() == run(photos, "plain", **SETTINGS | {"views": 0}).features()

    output = Output(str(first.folder))
    statistics = Statistics.from_bytes(output.part("statistics.npz") or b"")
    held_out = int((statistics.roles == Role.HELD_OUT).sum())
    assert statistics.fit_views is not None and statistics.held_out_views is not None
    assert statistics.fit_views.moments.count == 2 * (72 - held_out)
    assert statistics.held_out_views.moments.count == 2 * held_out
    rows = np.array(views["features"].to_pylist())
    seen = statistics.everything_seen
    assert seen.labelled.count == 3 * 72
    training_rows = np.array([features for path, features in first.features().items() if path in training])
    np.testing.assert_allclose(seen.labelled.mean, np.concatenate([training_rows, rows]).mean(axis=0), rtol=1e-5)
    # Scaler and PCA see the images alone.
    assert first.metrics["pca"]["train_rows"] == 72
    assert first.metrics["classifiers"]["linear_discriminant"]["accuracy"] > 0.8

    unchanged = run(photos, **SETTINGS | {"views": None})
    assert unchanged.metrics["images"]["decoded"] == 0
    assert unchanged.table("views").num_rows == 144
    with pytest.raises(SettingsChanged, match="was made with views 2"):
        run(photos, **SETTINGS | {"views": 3})
    with pytest.raises(SettingsChanged, match="was made with seed 42"):
        run(photos, **SETTINGS | {"seed": 1})
    with pytest.raises(SettingsChanged, match="was made with transform none"):
        run(photos, **SETTINGS | {"transform": "square_root"})

    # One is replaced, one is gone, one comes into training, one leaves it.
    replaced, gone = (photos / "Training" / "Lemon #2" / f"+frame {n}.jpg" for n in (1, 2))
    paint(replaced, (0, 0, 0), 7)
    gone.unlink()
    after = run(photos, **SETTINGS, prune=True)
    after.assert_adds_up(89)
    assert after.metrics["images"]["decoded"] == 1
    assert Counter(after.table("views")["path"].to_pylist()) == dict.fromkeys(training - {str(gone)}, 2)
    before = {(r["path"], r["view"]): r["features"] for r in views.to_pylist()}
    changed = {r["path"] for r in after.table("views").to_pylist() if r["features"] != before[r["path"], r["view"]]}
    assert changed == {str(replaced)}


def test_three_views_of_each_image_go_into_its_features_and_into_answers(run: Run, photos: Path) -> None:
    found = run(photos, "three", **SETTINGS | {"views": 1, "test_views": "3", "transform": "square_root", "limit": 45})
    assert found.metrics["classifiers"]["linear_discriminant"]["test_rows"] == 9
    assert json.loads((found.folder / "run.json").read_text())["backbone"]["test_views"] == 3
    predictor = Predictor(Model.load(str(found.folder)))
    paths = list(found.features())
    decoded = [predictor.decode(Path(path).read_bytes()) for path in paths]
    features = predictor.features([image.pixels for image in decoded if isinstance(image, Decoded)])
    np.testing.assert_allclose(features, [found.features()[path] for path in paths], rtol=1e-3, atol=1e-4)


def test_of_a_manifest_an_image_that_comes_into_training_gets_views(run: Run, photos: Path) -> None:
    paths = sorted(photos.glob("*/*/*.jpg"))[::3]

    def write(test: set[int]) -> Path:
        lines = [f'"{p.relative_to(photos)}",{"test" if n in test else "train"}' for n, p in enumerate(paths)]
        (photos / "list.csv").write_text("\n".join(["path,split", *lines, ""]))
        return photos / "list.csv"

    first = run(write({0, 1, 2}), **SETTINGS)
    assert first.table("views").num_rows == 2 * (len(paths) - 3)
    after = run(write({1, 2, 3}), **SETTINGS)
    assert after.metrics["images"]["decoded"] == 1  # the one that had no views
    output = Output(str(after.folder))
    assert output.rows(Dataset.VIEWS) == 2 * (len(paths) - 2)
    split = {row["path"]: row["split"] for row in after.table("inventory").to_pylist()}
    assert all(row["split"] == split[row["path"]] for row in after.table("views").to_pylist())
    statistics = Statistics.from_bytes(output.part("statistics.npz") or b"")
    views = [sums.labelled.count for sums in (statistics.fit_views, statistics.held_out_views) if sums is not None]
    assert sum(views) == 2 * (len(paths) - 3)  # what has left training is not learned from

    # A file of views is damaged: its images are done again.
    (file, *_) = output.files(Dataset.VIEWS)
    Path(output.url, file.name).write_bytes(b"PAR1")
    verdict = verify(Output(output.url))
    assert len(verdict["damage"]) == 1 and file.name in verdict["damage"][0]
    assert verdict["images_to_do_again"] >= 1
    mended = run(photos / "list.csv", **SETTINGS)
    mended.assert_adds_up(len(paths))
    assert mended.metrics["images"]["decoded"] == verdict["images_to_do_again"]
    assert mended.table("views").num_rows == 2 * (len(paths) - 3)
