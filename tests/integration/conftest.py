"""Images for whole runs, and the runs."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import orchard

COLOURS = {"Cerise d'été": (160, 20, 40), "Lemon #2": (230, 210, 40), "_Plum 50%": (90, 40, 110)}


def paint(path: Path, colour: tuple[int, int, int], seed: int) -> None:
    """Write a small disc of a colour on a noisy ground: quick to make, and told apart by any network."""
    random = np.random.default_rng(seed)
    pixels = random.integers(150, 255, (40, 40, 3), dtype=np.uint8)
    y, x = np.mgrid[:40, :40]
    cx, cy = random.uniform(15, 25, 2)
    pixels[(x - cx) ** 2 + (y - cy) ** 2 < 150] = np.clip(np.array(colour) + random.integers(-30, 30, 3), 0, 255)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, "JPEG", quality=95)


@pytest.fixture(scope="session")
def painted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """90 images of three labels with awkward names, divided into Training and Test."""
    folder = tmp_path_factory.mktemp("painted")
    for number, (label, colour) in enumerate(COLOURS.items()):
        for frame in range(30):
            split = "Test" if frame % 5 == 0 else "Training"
            paint(folder / split / label / f"+frame {frame}.jpg", colour, 100 * number + frame)
    return folder


@pytest.fixture
def photos(painted: Path, tmp_path: Path) -> Path:
    """A copy of `painted` that the test may change."""
    return Path(shutil.copytree(painted, tmp_path / "photos"))


@dataclass
class Result:
    """What a run left in its output folder."""

    folder: Path
    metrics: dict[str, Any]

    def table(self, dataset: str) -> pa.Table:
        """As any Parquet reader sees it: every file in the folder."""
        return pq.read_table(self.folder / dataset)

    def features(self) -> dict[str, list[float]]:
        table = self.table("features")
        return dict(zip(table["path"].to_pylist(), table["features"].to_pylist(), strict=True))

    def assert_adds_up(self, listed: int) -> None:
        """Every listed image is in exactly one of features and rejected, and in each once."""
        paths = self.table("features")["path"].to_pylist() + self.table("rejected")["path"].to_pylist()
        assert len(paths) == len(set(paths)) == listed
        assert sorted(self.table("inventory")["path"].to_pylist()) == sorted(paths)
        counts = self.metrics["images"]
        assert counts["listed"] == counts["featurized"] + counts["rejected"] == listed


@pytest.fixture
def run(spark: Any, tmp_path: Path) -> Callable[..., Result]:
    """Run the pipeline in this process: ``run(source, output="out", **settings)``; it trains no classifier unasked."""

    def call(source: object, output: str = "out", **settings: Any) -> Result:
        settings = {"classifiers": ""} | settings
        outcome = orchard.run(spark, str(source), str(tmp_path / output), **settings)
        folder = tmp_path / output
        written = json.loads((folder / "metrics.json").read_text())
        assert written["images"] == outcome.metrics["images"]
        return Result(folder, written)

    return call
