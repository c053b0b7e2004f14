"""What benchmarks make of their figures: growth to a million images, and ratios to peers."""

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from conftest import REPOSITORY


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[ModuleType, ModuleType]]:
    """benchmarks/growth.py and peers.py."""
    monkeypatch.syspath_prepend(REPOSITORY / "benchmarks")
    import growth
    import peers

    yield growth, peers
    for name in ("growth", "peers", "peers_sides", "extraction", "measuring"):
        sys.modules.pop(name, None)


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    for label, colour in (("Lemon", "yellow"), ("Lime", "green")):
        (tmp_path / "photos" / label).mkdir(parents=True)
        Image.new("RGB", (40, 40), colour).save(tmp_path / "photos" / label / "1.jpg")
    return tmp_path / "photos"


def test_images_to_grow_with_differ_unless_they_are_links(
    scripts: tuple[ModuleType, ModuleType], photographs: Path, tmp_path: Path
) -> None:
    growth, _ = scripts
    for links, contents, inodes in ((None, 23, 23), (10, 10, 10)):
        folder = tmp_path / f"made-{links}"
        growth.make_images(folder, 23, source=photographs, labels=5, links=links)
        files = sorted(folder.rglob("*.jpg"))
        assert len(files) == 23
        assert len({file.read_bytes() for file in files}) == contents
        assert len({file.stat().st_ino for file in files}) == inodes
        assert sorted(file.name for file in folder.iterdir()) == [f"label-000{label}" for label in range(5)]


def test_what_grows_faster_than_the_images_is_named(scripts: tuple[ModuleType, ModuleType]) -> None:
    growth, _ = scripts

    def size(images: int, extract: float, review: float) -> object:
        return growth.Size(
            images=images,
            labels=100,
            seconds=extract + review,
            resumed=False,
            stages={"extract": extract, "review": review, "list": 0.01},
            peaks={"driver, Python": 300e6, "driver, JVM": 500e6},
            second_seconds=1.0,
            second_peaks={"driver, Python": 900e6},
            commits=14,
            files=100,
            bytes={"output": images, "log": 1, "metrics.json": 1, "run.json": 1, "report.html": 2e6},
        )

    _, rows, lines = growth.table([size(1000, 5, 3), size(10_000, 50, 150)])
    assert lines[0] == "grows faster than the images (a power over 1.1): review, s (1.70), first run, s (1.40)"
    assert "900 MB at 10,000" in lines[1]
    assert next(row for row in rows if row[0] == "list, s")[-1] == ""  # too short to tell


def test_ratios_to_peers_are_medians_of_turns(scripts: tuple[ModuleType, ModuleType]) -> None:
    _, peers = scripts
    found = {
        "bare loop": [peers.Done(10, 400)] * 3,
        "Orchard": [peers.Done(30, 380), peers.Done(33, 360), peers.Done(90, 100)],
        "Orchard, auto": [peers.Done(15, 800)] * 3,
        "Daft": [peers.Done(30, 370)] * 3,
    }
    assert peers.ratios(found) == {
        "Orchard, of the bare loop, once started": pytest.approx(0.9),
        "Orchard's seconds, of Daft's": pytest.approx(1.1),
        "Orchard, auto: times as fast as Daft": pytest.approx(2.0),
    }


def test_features_of_two_sides_are_compared_image_by_image(scripts: tuple[ModuleType, ModuleType]) -> None:
    _, peers = scripts
    ours = {"/a.jpg": np.array([1, 0], np.float32), "/b.jpg": np.array([0, 2], np.float32)}
    theirs = {"/b.jpg": np.array([0, 1], np.float32), "/a.jpg": np.array([1, 1], np.float32)}
    assert peers.least_cosine(ours, theirs) == pytest.approx(0.5**0.5)
    with pytest.raises(SystemExit, match="2 and 1 images, 1 both"):
        peers.least_cosine(ours, {"/a.jpg": ours["/a.jpg"]})
