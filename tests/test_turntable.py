"""The drawn stand-ins for photographs are laid out as Fruits-360, turn, and are always the same."""

from pathlib import Path

import numpy as np
from PIL import Image

from conftest import TRAINED
from turntable import FRUITS, TEST, TRAINING, write_turntable


def test_drawn_fruits_turn_and_are_always_the_same(tmp_path: Path) -> None:
    assert FRUITS.keys() == TRAINED.keys()
    mango = {"Mango": FRUITS["Mango"]}
    for name in ("one", "other"):
        write_turntable(tmp_path / name, mango)
    files = {path.relative_to(tmp_path / "one"): path.read_bytes() for path in (tmp_path / "one").rglob("*_100.jpg")}
    assert {file: (tmp_path / "other" / file).read_bytes() for file in files} == files
    assert len(set(files.values())) == len(files) == TRAINING + TEST
    assert sum(file.parent == Path("Test/Mango") for file in files) == TEST

    def frame(number: int) -> np.ndarray:
        (file,) = (tmp_path / "one").rglob(f"*/Mango/{number}_100.jpg")
        return np.asarray(Image.open(file), int)

    first, next_one, quarter = frame(0), frame(1), frame(26)
    assert first.shape == (100, 100, 3) and first[0, 0].min() > 245, "on white"
    assert np.abs(first - next_one).mean() < np.abs(first - quarter).mean()
