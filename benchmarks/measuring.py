"""What the benchmarks share: the images, the machine, and the memory of a process and its descendants."""

import argparse
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyarrow as pa

from orchard.images.sample import FRUITS, write_sample
from orchard.images.sources import list_images
from orchard.machine import available_cores
from orchard.storage import S3Options
from orchard.version import VERSION

REPOSITORY = Path(__file__).resolve().parents[1]
SHARED = REPOSITORY.parent / "shared"
VERSIONED = ("pyspark", "openvino", "keras", "tensorflow-cpu", "tensorflow", "pillow", "pyarrow", "numpy")
MB = 10**6
# Of the kernel's high-water marks nothing is lost between two samples but a process that ended meanwhile.
SAMPLE_SECONDS = 0.25
# Before the benchmark adds its own: far above zero, someone else is using the machine.
LOAD = os.getloadavg()[0]


# --- Arguments and results ----------------------------------------------------------------------------------


def made(schema: pa.Schema, columns: Mapping[str, Any]) -> pa.Table:
    """Return a made table of `schema`: columns that are not given are null, so it may have more than these."""
    n = max(map(len, columns.values()))
    return pa.table({name: columns.get(name, [None] * n) for name in schema.names}, schema=schema)


def parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser with the arguments that all benchmarks take."""
    # A benchmark that is ended early ends its processes and removes its files, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    found = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--images", type=Path, help="folder of images [../shared/fruits if it is there, else generated]")
    found.add_argument("--limit", type=int, metavar="N", help="take a stratified sample of N images")
    found.add_argument("--repeat", type=int, default=3, metavar="N", help="turns of each side [%(default)s]")
    found.add_argument("--scratch", type=Path, help="where outputs are written, and removed [the temporary folder]")
    found.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers to this file")
    return found


def report(title: str, headers: Sequence[str], rows: Sequence[Sequence[str]], lines: Sequence[str]) -> None:
    """Print a table, what follows from it, and where it was measured."""
    widths = [max(len(cell) for cell in column) for column in zip(headers, *rows, strict=True)]
    print(f"\n{title}\n")
    for row in (headers, *rows):
        print("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)))
    print("", *lines, "", sep="\n")
    print(", ".join(f"{name} {value}" for name, value in machine().items()))


def save(file: Path | None, result: Mapping[str, object]) -> None:
    """Write the numbers, and where they were measured, as JSON."""
    if file is not None:
        file.write_text(json.dumps({**result, "machine": machine()}, ensure_ascii=False, indent=2) + "\n")


def machine() -> dict[str, str]:
    """Return what the figures depend on: processor, memory, load, versions."""
    cpu = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    java = subprocess.run(["java", "-version"], capture_output=True, text=True, check=False).stderr
    found = {
        "cpu": cpu[1] if cpu else platform.processor(),
        "cores": str(available_cores()),
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB",
        "load at the start": f"{LOAD:.1f}",
        "python": platform.python_version(),
        "orchard": VERSION,
        "java": next(iter(re.findall(r'version "([^"]+)"', java)), "unknown"),
    }
    for package in VERSIONED:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:  # of TensorFlow's two distributions one is there
            continue
    return found


# --- Images -------------------------------------------------------------------------------------------------


def images_folder(given: Path | None, scratch: Path, *, at_least: int = 500) -> Path:
    """Return the folder to read: the given one, ``../shared/fruits``, or a sample of `at_least` images drawn now."""
    if given is not None:
        return given.resolve()
    if (SHARED / "fruits").is_dir():
        return SHARED / "fruits"
    drawn = scratch / "sample"
    if not drawn.is_dir():  # of a benchmark that was cut off
        each = -(-at_least // len(FRUITS))
        write_sample(drawn, train=each - each // 4, test=each // 4, broken=0)
    return drawn


def use_shared_keras_home() -> None:
    """Let Keras' files come from ``../shared/keras``, if it is there and ``KERAS_HOME`` names no other folder."""
    if (SHARED / "keras").is_dir():
        os.environ.setdefault("KERAS_HOME", str(SHARED / "keras"))


def copy_images(source: Path, target: Path, *, limit: int | None, all_for_training: bool = False) -> int:
    """Copy a stratified sample of the images to ``target/<split>/<label>/``, and return how many.

    Args:
        source: folder of images by label.
        target: a new folder.
        limit: at most so many; more than there are: some are copied again under another name. None: all.
        all_for_training: put the images of all splits under ``Training``.
    """
    table = list_images(str(source), S3Options(), limit=limit, labels=None, seed=0).table
    rows = table.select(["path", "label", "split"]).to_pylist()
    wanted = limit or len(rows)
    for n in range(wanted):
        row = rows[n % len(rows)]
        path, test = Path(row["path"]), row["split"] == "test"
        folder = target / ("Test" if test and not all_for_training else "Training") / (row["label"] or "none")
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, folder / f"{'test' if test else 'train'}_{n // len(rows)}_{path.name}")
    return sum(1 for file in target.rglob("*") if file.is_file())


# --- Memory -------------------------------------------------------------------------------------------------


class Kind(StrEnum):
    """What a process of a Spark application in local mode is."""

    DRIVER = "driver, Python"
    JVM = "driver, JVM"
    WORKER = "Python worker"
    DAEMON = "Python workers' parent"
    BUILD = "network build"
    OTHER = "other"


@dataclass(frozen=True)
class Process:
    """A process as /proc shows it."""

    pid: int
    parent: int
    command: tuple[str, ...]
    peak: int
    """Most resident memory it ever had (VmHWM), bytes."""


def descendants(root: int) -> Iterator[tuple[Process, Kind]]:
    """Yield `root` and the processes under it, with what they are."""
    processes = {process.pid: process for process in _all_processes()}
    for process in processes.values():
        ancestor: Process | None = process
        while ancestor is not None and ancestor.pid != root:
            ancestor = processes.get(ancestor.parent)
        if ancestor is not None:
            yield process, _kind(process, processes.get(process.parent), root)


def _all_processes() -> Iterator[Process]:
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            status = dict(line.split(":", 1) for line in (folder / "status").read_text().splitlines() if ":" in line)
            command = (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:  # it has ended
            continue
        peak = int(status["VmHWM"].split()[0]) * 1024 if "VmHWM" in status else 0  # none: a zombie
        yield Process(int(folder.name), int(status["PPid"]), tuple(command), peak)


def _kind(process: Process, parent: Process | None, root: int) -> Kind:
    if process.pid == root:
        return Kind.DRIVER
    if Path(process.command[0]).name == "java":
        return Kind.JVM
    if "pyspark.daemon" in process.command:
        return Kind.WORKER if parent is not None and "pyspark.daemon" in parent.command else Kind.DAEMON
    if "orchard.processes" in process.command:
        return Kind.WORKER
    return Kind.BUILD if "orchard.features.conversion" in process.command else Kind.OTHER


class MemoryWatch:
    """Looks at a process and its descendants until the ``with`` block ends; `peaks` says how large they became."""

    def __init__(self, root: int) -> None:
        self.peaks: dict[Kind, int] = {}
        """Bytes resident: of each kind the largest process at its largest."""
        self._root = root
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while True:
            for process, kind in descendants(self._root):
                self.peaks[kind] = max(self.peaks.get(kind, 0), process.peak)
            if self._over.wait(SAMPLE_SECONDS):
                return
