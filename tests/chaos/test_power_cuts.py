"""A power cut takes nothing that was committed: a real file system forgets what was not written to its disk.

`ioctl(FS_IOC_SHUTDOWN)` stops ext4 at once, as a machine that loses its power does: neither its journal nor what is
still in memory comes to the disk. Mounted again, it has what came there before.
"""

import fcntl
import os
import random
import shutil
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from chaos_table import Note, seeds
from orchard.output import Output
from orchard.verify import verify

from .conftest import SECONDS, Result, Whole, started

_SHUTDOWN, _WITHOUT_JOURNAL = 0x8004587D, 2
_MKFS = shutil.which("mkfs.ext4", path=f"{os.environ.get('PATH', '')}:/sbin:/usr/sbin")


class Disk:
    """A file system of its own, on a file.

    Attributes:
        folder: where it is mounted.
    """

    def __init__(self, place: Path, mkfs: str) -> None:
        self.folder, self._file = place / "disk", place / "disk.ext4"
        self.folder.mkdir()
        with self._file.open("xb") as file:
            file.truncate(256 << 20)
        subprocess.run([mkfs, "-q", str(self._file)], check=True, capture_output=True)
        self.mount()

    def mount(self) -> None:
        command = ["mount", "--options", "loop", str(self._file), str(self.folder)]
        subprocess.run(command, check=True, capture_output=True)

    def unmount(self) -> None:
        until = time.monotonic() + 20  # workers of a killed driver end soon, and may have a file open until then
        while (done := subprocess.run(["umount", str(self.folder)], check=False, capture_output=True)).returncode:
            assert time.monotonic() < until, done.stderr
            time.sleep(0.1)

    def cut(self) -> None:
        """Cut the power."""
        descriptor = os.open(self.folder, os.O_RDONLY)
        try:
            fcntl.ioctl(descriptor, _SHUTDOWN, struct.pack("I", _WITHOUT_JOURNAL))
        finally:
            os.close(descriptor)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    if os.geteuid() or _MKFS is None:
        pytest.skip("no file system can be made here")
    try:
        disk = Disk(tmp_path, _MKFS)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no file system can be mounted here: {error.stderr.decode().strip()}")
    yield disk
    disk.unmount()


@pytest.mark.parametrize("seed", seeds(1, 12))
def test_a_power_cut(drawn: Path, whole: Whole, disk: Disk, note: Note, seed: int) -> None:
    chance = random.Random(seed)
    out = disk.folder / "out"
    commits = out / "_orchard" / "commits"
    before = 0
    for _ in range(3):
        with started(drawn, out) as process:
            while process.poll() is None and len(list(commits.glob("*"))) == before:
                time.sleep(0.02)
            with suppress(subprocess.TimeoutExpired):
                process.wait(chance.uniform(0, whole.seconds / 3))
            before = len(list(commits.glob("*")))
            disk.cut()
            process.kill()
        disk.unmount()
        disk.mount()
        assert len(list(commits.glob("*"))) >= before, "a commit is lost"
        assert not verify(Output(str(out)), mend=False)["damage"]
        Result(str(out), finished=False)
        note("power cut while an output is written", 1, "every commit is there, and whole")
    with started(drawn, out) as process:
        _, errors = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, errors
    Result(str(out)).assert_same(whole.result)
    note("power cut, then started again", 1, "it goes on, and comes to the same")
