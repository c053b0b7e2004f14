"""Views lie beside the features, come and go with their images, and are learned from."""

import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageDraw

import orchard
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


def test_other_backgrounds_make_the_views_again_and_nothing_else(spark: Any, tmp_path: Path) -> None:
    for number in range(12):
        picture = Image.new("RGB", (40, 40), "white")
        colour = ("red", "green")[number % 2]
        ImageDraw.Draw(picture).ellipse((8 - number // 2, 8, 30, 30), colour)
        path = tmp_path / "studio" / ("Test" if number < 2 else "Training") / colour / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path)
    for name, light in (("blue", (0, 0, 200)), ("grey", (90, 90, 90))):
        (tmp_path / name).mkdir()
        Image.new("RGB", (60, 60), light).save(tmp_path / name / "1.png")
    output = str(tmp_path / "out")

    def extract(**backgrounds: str) -> tuple[dict[str, Any], list[str], dict[tuple[str, int], list[float]]]:
        features = orchard.extract(spark, str(tmp_path / "studio"), output, **SETTINGS, **backgrounds)
        assert features.count() == 12
        assert verify(Output(output))["damage"] == []
        views = pq.read_table(tmp_path / "out" / "views").to_pylist()
        assert len(views) == 20
        files = sorted(file.name for file in (tmp_path / "out" / "features").iterdir())
        metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
        return metrics["images"], files, {(row["path"], row["view"]): row["features"] for row in views}

    plain = extract()
    blue = extract(backgrounds=str(tmp_path / "blue"))
    grey = extract(backgrounds=str(tmp_path / "grey"))
    assert [images["decoded"] for images, _, _ in (plain, blue, grey)] == [12, 10, 10]
    assert plain[1] == blue[1] == grey[1]  # the features' files
    assert all(images["listed"] == images["featurized"] == 12 for images, _, _ in (blue, grey))
    pasted = {key for key, values in blue[2].items() if values != plain[2][key]}
    assert 3 < len(pasted) < 17
    assert {key for key, values in grey[2].items() if values != blue[2][key]} == pasted

    # Nothing to do: the same files under another name, or none given, though the folder is gone.
    (tmp_path / "grey" / "1.png").rename(tmp_path / "grey" / "2.png")
    assert extract(backgrounds=str(tmp_path / "grey"))[0]["decoded"] == 0
    shutil.rmtree(tmp_path / "grey")
    assert extract()[0]["decoded"] == 0

    # A run that was to make views anew was cut off: the next one makes those that lack, on the backgrounds kept.
    kept = Output(output)
    with kept.writing():
        dropped = [file.name for file in kept.files(Dataset.VIEWS)][:1]
        kept.commit({}, remove=dropped, properties={"views": {"to_do": True}})
    lacking = (20 - kept.rows(Dataset.VIEWS)) // 2
    again = extract()
    assert again[0]["decoded"] == lacking > 0
    assert again[2] == grey[2] and not Output(output).recall("views")
    assert extract(backgrounds="none")[2] == plain[2]
    assert not Output(output).has_part("backgrounds.npz")
