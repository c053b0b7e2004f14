"""Several things on one picture are found, each where it is, and where the network looks is shown exactly."""

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import orchard
from orchard.cli import cli
from orchard.errors import UsageError
from orchard.features.artifact import Artifact, EngineName, Precision
from orchard.features.engines import cells_of
from orchard.images.decoding import Decoded
from orchard.inference.class_map import MOST_CELLS, class_map, scores_of_cells
from orchard.inference.model import Model
from orchard.inference.predictor import PLACE_IMAGES, Predictor
from orchard.inference.regions import boxes, square, within
from orchard.vocabulary import Fit


def write(path: Path, tiles: list[list[Path]]) -> Path:
    rows = [np.concatenate([np.asarray(Image.open(tile).convert("RGB")) for tile in row], axis=1) for row in tiles]
    Image.fromarray(np.concatenate(rows)).resize((200 * len(tiles[0]), 200 * len(tiles))).save(path, quality=95)
    return path


def test_each_fruit_of_a_picture_is_found_where_it_is(trained: Path, fruits: Path, tmp_path: Path) -> None:
    def photo(label: str) -> Path:
        return sorted((fruits / "Test" / label).glob("*.jpg"))[7]

    mango, raspberry, plum, orange = (photo(label) for label in ("Mango", "Raspberry", "Plum 5", "Orange 2"))
    noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    files = {
        str(write(tmp_path / "one.jpg", [[mango]])): {"Mango"},
        str(write(tmp_path / "row.jpg", [[mango, raspberry]])): {"Mango", "Raspberry"},
        str(write(tmp_path / "column.jpg", [[plum], [orange]])): {"Plum 5", "Orange 2"},
        str(write(tmp_path / "four.jpg", [[mango, raspberry], [plum, orange]])): {
            *("Mango", "Raspberry", "Plum 5", "Orange 2")
        },
        str(tmp_path / "noise.png"): set(),
    }
    answers = orchard.predict(None, str(trained), list(files), regions=True)
    found = {answer["path"]: {seen["name"]: seen["box"] for seen in answer["regions"]} for answer in answers}
    assert {path: set(seen) for path, seen in found.items()} == files
    row, column, four = (found[str(tmp_path / name)] for name in ("row.jpg", "column.jpg", "four.jpg"))
    assert row["Mango"][2] <= 0.75 and row["Raspberry"][0] >= 0.25
    assert column["Plum 5"][3] <= 0.75 and column["Orange 2"][1] >= 0.25
    assert four["Plum 5"] == [0.0, 0.5, 0.5, 1.0] and four["Raspberry"] == [0.5, 0.0, 1.0, 0.5]
    # What the whole picture comes to is as it is without.
    plain = orchard.predict(None, str(trained), list(files))
    assert [{name: one[name] for name in one if name not in ("regions", "map")} for one in answers] == plain
    # Half of the picture speaks for what is likeliest: the half that shows it.
    for name, halves in (("row.jpg", ("Mango", "Raspberry")), ("column.jpg", ("Plum 5", "Orange 2"))):
        (answer,) = (one for one in answers if one["path"] == str(tmp_path / name))
        said = np.array(answer["map"]) if name == "row.jpg" else np.array(answer["map"]).T
        assert said.shape == (7, 7) and said.max() == 1 and said.min() >= 0
        first, second = said[:, :3].sum(), said[:, -3:].sum()
        assert {answer["top"][0]["label"]: first > second} in ({halves[0]: True}, {halves[1]: False})

    command = ["predict", str(trained), str(tmp_path / "row.jpg"), "--no-spark", "--regions", "--format"]
    printed = json.loads(CliRunner().invoke(cli, [*command, "jsonl"]).output)
    assert {seen["name"] for seen in printed["regions"]} == {"Mango", "Raspberry"}
    table = CliRunner().invoke(cli, [*command, "table"]).output
    assert "Mango " in table and "Raspberry " in table and " at 0." in table
    refused = CliRunner().invoke(cli, [*command, "csv"])
    assert isinstance(refused.exception, UsageError) and "--format jsonl" in str(refused.exception)


def test_what_is_found_is_measured_by_the_kinds_in_the_names_of_files(
    trained: Path, fruits: Path, tmp_path: Path
) -> None:
    def photo(label: str) -> Path:
        return sorted((fruits / "Test" / label).glob("*.jpg"))[7]

    mango, raspberry, plum = (photo(label) for label in ("Mango", "Raspberry", "Plum 5"))
    write(tmp_path / "MANGOES_raspberries2.jpg", [[mango, raspberry]])
    write(tmp_path / "plum_mango(alphonso)1.jpg", [[plum, raspberry]])  # there is no mango on it
    write(tmp_path / "mango_kumquat.jpg", [[mango, plum]])
    (tmp_path / "mango.jpg").write_bytes(b"no picture")
    command = ["predict", str(trained), str(tmp_path), "--no-spark", "--regions", "--kinds-in-names"]
    called = CliRunner().invoke(cli, [*command, "--json"])
    measured = json.loads(called.output.splitlines()[-1])["kinds_in_names"]
    assert {name: measured[name] for name in ("pictures", "there", "found", "said", "right", "unread", "unknown")} == {
        **{"pictures": 2, "there": 4, "found": 3, "said": 4, "right": 3},
        **{"unread": 1, "unknown": {"kumquat": 1}},
    }
    assert measured["recall"] == measured["precision"] == 0.75
    lines = CliRunner().invoke(cli, command).output.splitlines()[-4:]
    assert lines == [
        "names      2 can be read, 1 cannot",
        "recall     75.0%: 3 of 4 kinds that are there are found",
        "precision  75.0%: 3 of 4 kinds that are said are there",
        "not known  kumquat (1)",
    ]
    refused = CliRunner().invoke(cli, [*command[:-2], "--kinds-in-names"])
    assert isinstance(refused.exception, UsageError) and "give --regions, too" in str(refused.exception)


@pytest.mark.parametrize(("width", "height", "parts"), [(100, 100, 14), (200, 100, 13), (100, 300, 13), (1, 1, 14)])
def test_parts_cover_a_picture_whatever_its_shape(width: int, height: int, parts: int) -> None:
    found = boxes(width, height)
    assert len(found) == len(set(found)) == parts < PLACE_IMAGES
    assert found[0] == (0, 0, 1, 1)
    assert all(0 <= left < right <= 1 and 0 <= top < bottom <= 1 for left, top, right, bottom in found)


@pytest.mark.parametrize("square_root", [False, True])
def test_the_cells_of_a_map_come_to_the_score(trained: Path, fruits: Path, square_root: bool) -> None:
    model = Model.load(str(trained))
    model = replace(model, artifact=replace(model.artifact, square_root=square_root))
    predictor = Predictor(model, batch_size=1)
    image = predictor.decode(next((fruits / "Test" / "Mango").glob("*.jpg")).read_bytes())
    assert isinstance(image, Decoded)
    cells = cells_of(model.artifact)(image.pixels)
    assert cells.shape == (7, 7, 1280)
    scores = scores_of_cells(model, cells)
    assert scores.shape == (7, 7, 11)
    expected = model.scores(predictor.features([image.pixels]))[0]
    np.testing.assert_allclose(scores.mean(axis=(0, 1)), expected, atol=1e-3 * np.abs(expected).max())


def test_a_map_is_small_and_says_what_speaks_for_a_label() -> None:
    artifact = Artifact("none", 1, 640, 2, EngineName.OPENVINO, Precision.FLOAT32, "none", "0" * 32, topology=b"")
    model = Model(artifact, ("a", "b", "c"), np.array([[1, 0], [0, 1], [0, 0]], np.float32), np.zeros(3, np.float32))
    cells = np.zeros((20, 20, 2), np.float32)
    cells[:10, :10, 0] = 3  # speaks for a, there
    cells[10:, 10:, 1] = 1
    said = np.array(class_map(model, cells, "a"))
    assert said.shape == (MOST_CELLS, MOST_CELLS)
    assert (said[:8, :8] == 1).all() and said[8:].max() == 0 and said[:, 8:].max() == 0
    assert np.array(class_map(model, np.zeros((3, 3, 2), np.float32), "c")).tolist() == [[0.0] * 3] * 3


@pytest.mark.parametrize(
    ("fit", "seen", "of_left_half"),
    [
        (Fit.STRETCH, (0, 0, 1, 1), (0, 0, 0.5, 1)),
        (Fit.CROP, (0.25, 0, 0.75, 1), (0.25, 0, 0.5, 1)),
        (Fit.PAD, (0, -0.5, 1, 1.5), (0, 0, 0.5, 1)),
    ],
)
def test_a_part_of_what_the_network_sees_is_a_part_of_the_picture(
    fit: Fit, seen: tuple[float, ...], of_left_half: tuple[float, ...]
) -> None:
    assert square(200, 100, fit) == seen
    assert within(square(200, 100, fit), (0.0, 0.0, 0.5, 1.0)) == of_left_half


def test_a_cropped_picture_has_boxes_in_the_whole_picture(trained: Path, fruits: Path) -> None:
    model = Model.load(str(trained))
    cropping = replace(model, artifact=replace(model.artifact, fit=Fit.CROP))
    mango = Image.open(sorted((fruits / "Test" / "Mango").glob("*.jpg"))[7]).convert("RGB")
    wide = Image.new("RGB", (500, 100), "white")
    wide.paste(mango, (200, 0))
    file = io.BytesIO()
    wide.save(file, "png")
    predictor = Predictor(cropping)
    image = predictor.decode_larger(file.getvalue())
    assert isinstance(image, Decoded)
    (found,) = predictor.regions(image)
    assert found.name == "Mango" and found.box == pytest.approx((0.4, 0, 0.6, 1))
