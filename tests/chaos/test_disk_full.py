"""A disk that is full ends a run with one sentence; with more room the next start goes on."""

import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from chaos_table import Note, seeds

from .conftest import SECONDS, Result, Whole, started

pytestmark = pytest.mark.chaos


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own, which `grow` makes larger."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.geteuid() or shutil.which("mount") is None or _mount(folder, "size=64k").returncode:
        pytest.skip("no file system can be mounted here")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def _mount(folder: Path, options: str) -> subprocess.CompletedProcess[bytes]:
    command = ["mount", "--types=tmpfs", "--options", options, "tmpfs", str(folder)]
    return subprocess.run(command, check=False, capture_output=True)


def grow(folder: Path, kibibytes: int) -> None:
    assert _mount(folder, f"remount,size={kibibytes}k").returncode == 0


@pytest.mark.parametrize("seed", seeds(1, 6))
def test_a_disk_that_fills_up(drawn: Path, whole: Whole, disk: Path, note: Note, seed: int) -> None:
    chance = random.Random(seed)
    out = disk / "out"
    for size in sorted(int(1024 * 2 ** chance.uniform(-3, 5)) for _ in range(3)):  # of 128 KiB to 32 MiB
        grow(disk, size)
        with started(drawn, out) as process:
            _, errors = process.communicate(timeout=SECONDS)
        assert process.returncode in (0, 4), errors
        if process.returncode:
            sentence = errors.rstrip().splitlines()[-1]
            assert sentence.startswith("orchard: "), errors
            assert "No space left on device" in sentence, errors
            assert "unexpected" not in sentence, errors
            note("disk full while an output is written", 1, "exit code 4 and one sentence")
        Result(str(out), finished=False)
    grow(disk, 1024 * 1024)
    with started(drawn, out) as process:
        _, errors = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, errors
    Result(str(out)).assert_same(whole.result)
    note("disk full, then larger", 1, "the next start goes on, and comes to the same")
