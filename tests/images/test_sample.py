"""The drawn sample is a labelled, divided collection of decodable images, always the same."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orchard.errors import StorageError, UsageError
from orchard.images import sample
from orchard.images.decoding import Decoded, Limits, decode
from orchard.images.sample import FRUITS, draw, write_sample
from orchard.images.sources import list_images
from orchard.storage import S3Options
from orchard.vocabulary import Reason


def test_the_sample_is_listed_with_labels_and_splits(tmp_path: Path) -> None:
    assert write_sample(tmp_path / "new" / "sample", train=3, test=2, broken=2) == len(FRUITS) * 5 + 2
    table = list_images(str(tmp_path / "new/sample"), S3Options(), limit=None, labels=None, seed=0).table
    assert table.num_rows == len(FRUITS) * 5 + 2
    assert set(table["label"].to_pylist()) == set(FRUITS)
    assert table["split"].to_pylist().count("test") == len(FRUITS) * 2
    results = [decode(Path(path).read_bytes(), 224, Limits()) for path in table["path"].to_pylist()]
    assert all(result.pixels.shape == (100, 100, 3) for result in results if isinstance(result, Decoded))
    reasons = {result.reason for result in results if not isinstance(result, Decoded)}
    assert reasons == {Reason.TRUNCATED, Reason.UNSUPPORTED_FORMAT}


def test_the_seed_decides_every_byte(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_sample(tmp_path / name, seed=seed, train=2, test=1)
    files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*.jpg"))
    assert all((tmp_path / "a" / f).read_bytes() == (tmp_path / "b" / f).read_bytes() for f in files)
    assert any((tmp_path / "a" / f).read_bytes() != (tmp_path / "c" / f).read_bytes() for f in files)
    images = [f for f in files if "broken" not in f.name]
    assert len({(tmp_path / "a" / f).read_bytes() for f in images}) == len(images)


def test_fruits_have_their_colours(tmp_path: Path) -> None:
    write_sample(tmp_path, train=8, test=0, broken=0)
    middle = {}
    for name in FRUITS:
        images = [decode(path.read_bytes(), 224, Limits()) for path in (tmp_path / "Training" / name).iterdir()]
        middle[name] = np.mean([i.pixels[45:56, 45:56] for i in images if isinstance(i, Decoded)], axis=(0, 1, 2))
    red, green, _ = middle["Apple Green"]
    assert green > red
    assert middle["Cherry"][0] > 2 * middle["Cherry"][1]
    assert middle["Lemon"][:2].min() > 1.5 * middle["Lemon"][2]


def test_one_that_is_stopped_while_it_is_drawn_leaves_nothing_that_looks_like_a_sample(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[object] = []

    def draw_and_stop(*of: Any) -> Any:
        drawn.append(of)
        if len(drawn) == 9:
            raise KeyboardInterrupt
        return draw(*of)

    monkeypatch.setattr(sample, "draw", draw_and_stop)
    with pytest.raises(KeyboardInterrupt):
        write_sample(tmp_path / "sample")
    assert not (tmp_path / "sample").exists()


def test_a_folder_that_holds_something_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UsageError, match="not empty"):
        write_sample(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
    with pytest.raises(StorageError, match=r"mine\.txt"):
        write_sample(tmp_path / "mine.txt")
