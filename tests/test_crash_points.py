"""Whenever a writer is killed, every reader sees the output of before or of after, and the next writer goes on.

Each change that a writer makes on disk, in order, is a moment at which it can be killed: all of them are tried, for
each commit of a first run, of changed settings and back, of replaced, pruned and erased images, and of a new start.
Each moment at which it waits for the disk is one at which the power can be cut, too (`EACH`): then the disk has what
was waited for, and of all else the names without the contents, or nothing.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from chaos_table import Note
from orchard import erasure, models, output
from orchard.features.pending import without
from orchard.layout import BACKBONE, LABELS, LOGISTIC_REGRESSION, REDUCTION, SCHEMAS, Dataset
from orchard.output import NO_MODEL, Output
from orchard.storage import LocalStorage
from orchard.verify import verify

EXTRACTED = (Dataset.FEATURES, Dataset.VIEWS, Dataset.REJECTED, Dataset.INVENTORY)
REDUCED = (Dataset.REDUCED, Dataset.PREDICTIONS)
EACH = 3
"""Of so many moments of a power cut one is tried; 1 for all, in three times the time."""


class Killed(BaseException):
    """As SIGKILL: nothing of the process goes on."""


@dataclass(frozen=True)
class MortalStorage(LocalStorage):
    """A folder whose writer is killed after so many changes on disk."""

    left: list[int] = field(default_factory=lambda: [10**9])

    def _change(self, change: Callable[[], Any]) -> Any:
        if self.left[0] <= 0:
            raise Killed
        self.left[0] -= 1
        return change()

    def write(self, key: str, data: Any) -> None:
        self._change(lambda: LocalStorage.write(self, key, data))

    def create(self, key: str, data: bytes) -> bool:
        return bool(self._change(lambda: LocalStorage.create(self, key, data)))

    def move(self, source: str, target: str) -> None:
        self._change(lambda: LocalStorage.move(self, source, target))

    def copy(self, source: str, target: str) -> None:
        self._change(lambda: LocalStorage.copy(self, source, target))

    def delete(self, keys: Iterable[str]) -> None:
        for key in keys:
            self._change(partial(LocalStorage.delete, self, [key]))


class Disk:
    """The disk of a folder, whose power is cut as it is waited for once more than ``left`` times.

    Attributes:
        names_alone: a copy of the folder as it is afterwards if all names came to the disk, and only those contents
            that were waited for.
        nothing_else: likewise, if names came only with the folder that they are in.
    """

    def __init__(self, root: Path, kept: Path, left: int) -> None:
        self.left = left
        self.names_alone, self.nothing_else = kept / "names_alone", kept / "nothing_else"
        self._root, self._kept = root, kept / "files"
        self._kept.mkdir(parents=True)
        self._names: dict[Path, dict[str, int | None]] = {}
        for folder, _, files in os.walk(root):
            for name in files:
                self._keep(Path(folder, name))
            self._names[Path(folder)] = self._listed(Path(folder))

    def fsync(self, descriptor: int) -> None:
        """Have the file or folder on disk."""
        if self.left <= 0:
            self.cut()
            raise Killed
        self.left -= 1
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        if path.is_dir():
            self._names[path] = self._listed(path)
        else:
            self._keep(path)

    def _listed(self, folder: Path) -> dict[str, int | None]:
        return {file.name: None if file.is_dir() else file.stat().st_ino for file in folder.iterdir()}

    def _keep(self, file: Path) -> None:
        kept = self._kept / str(file.stat().st_ino)  # a link, so that nothing else gets the number
        if not kept.exists():
            os.link(file, kept)

    def cut(self) -> None:
        """Cut the power, unless it is."""
        if self.names_alone.exists():
            return
        for folder, _, files in os.walk(self._root):
            self._write(self.names_alone / Path(folder).relative_to(self._root), self._listed(Path(folder)), files)
        self._restore(self._root, self.nothing_else)

    def _restore(self, folder: Path, target: Path) -> None:
        names = self._names.get(folder, {})
        self._write(target, names, [name for name, number in names.items() if number is not None])
        for name, number in names.items():
            if number is None:
                self._restore(folder / name, target / name)

    def _write(self, target: Path, names: dict[str, int | None], files: list[str]) -> None:
        target.mkdir(parents=True)
        for name in files:
            kept = self._kept / str(names[name])
            (target / name).write_bytes(kept.read_bytes() if kept.exists() else b"")


@pytest.fixture(autouse=True)
def _moves_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """One thread, so that the moments are the same each time."""
    monkeypatch.setattr(output, "ThreadPoolExecutor", lambda _: ThreadPoolExecutor(1))


def table(dataset: Dataset, paths: Iterable[str], mark: str) -> pa.Table:
    """Rows of a dataset; `mark` is in one of their columns."""
    rows = []
    for path in paths:
        row: dict[str, Any] = dict.fromkeys(SCHEMAS[dataset].names) | {"path": path}
        marked = {Dataset.REJECTED: "detail", Dataset.INVENTORY: "version", Dataset.PREDICTIONS: "classifier"}
        rows.append(row | {marked.get(dataset, "label"): mark})
    return pa.Table.from_pylist(rows, SCHEMAS[dataset])


def extract(out: Output, paths: Iterable[str], mark: str) -> None:
    out.commit({d: [out.stage(d, table(d, [p], mark)) for p in paths] for d in EXTRACTED})


def make_way(out: Output, paths: list[str], mark: str) -> None:
    """As the extraction does before it featurizes images again, or drops those that are gone."""
    add, remove = without(out, pa.chunked_array([paths], pa.string()))
    out.commit(
        add,
        replace=[*REDUCED, Dataset.REDUCED_CSV],
        remove=remove,
        properties={"identity": {"backbone": mark}, "reduction": None, "classification": None},
        parts={BACKBONE: mark.encode()},
    )


def reduce(out: Output, mark: str) -> None:
    out.commit(
        {Dataset.REDUCED: [out.stage(Dataset.REDUCED, table(Dataset.REDUCED, [p], mark)) for p in "ab"]},
        replace=[*REDUCED, Dataset.REDUCED_CSV],
        properties={"reduction": mark, "classification": None},
        parts={REDUCTION: mark.encode()},
    )


def classify(out: Output, mark: str, *, first: bool = True) -> None:
    files = {} if first else out.classifier_files()
    files |= {LABELS: b"[]", LOGISTIC_REGRESSION: mark.encode()} if first else {"random_forest/a": mark.encode()}
    out.commit(
        {Dataset.PREDICTIONS: [out.stage(Dataset.PREDICTIONS, table(Dataset.PREDICTIONS, "ab", mark))]},
        replace=[Dataset.PREDICTIONS] if first else (),
        properties={"classification": mark},
        model=out.stage_model(files),
    )


def erase(out: Output, path: str) -> None:
    said = erasure.Erasure(
        output=out.url,
        images=1,
        unknown=[],
        erased_before=[],
        rows={},
        neighbours_of_others=0,
        files=[],
        copies=[],
        in_source=[],
        to_make_again=[],
        erased=False,
    )
    plan = erasure.Plan([path], said)
    erasure._find_rows(out, plan, pa.array([path]))
    erasure.erase(out, plan)


Step = Callable[[Output], None]
STEPS: dict[str, Step] = {
    "first images": lambda out: extract(out, "ab", "1"),
    "more images": lambda out: extract(out, "cd", "1"),
    "network": lambda out: make_way(out, [], "1"),
    "reduction": lambda out: reduce(out, "one"),
    "classifier": lambda out: classify(out, "one"),
    "second classifier": lambda out: classify(out, "one forest", first=False),
    "other reduction": lambda out: reduce(out, "two"),
    "other classifier": lambda out: classify(out, "two"),
    "reduction again": lambda out: reduce(out, "one"),
    "classifier again": lambda out: classify(out, "one"),
    "replaced and pruned": lambda out: make_way(out, ["a", "d"], "1"),
    "replaced image": lambda out: extract(out, "a", "2"),
    "its reduction": lambda out: reduce(out, "three"),
    "nothing to learn": lambda out: out.commit({}, properties={"classification": "none"}, model=NO_MODEL),
    "new start": lambda out: out.start_over({"fresh": 1}),
    "other images": lambda out: extract(out, "xy", "3"),
    "their classifier": lambda out: classify(out, "four"),
    "erased image": lambda out: erase(out, "x"),
}


def mortal(folder: Path, changes: int) -> Output:
    out = Output(str(folder))
    out.storage = MortalStorage(out.storage.url, [changes])
    return out


def seen_by_the_log(folder: Path) -> dict[str, Any]:
    """Everything that a reader who goes by the log finds."""
    out = Output(str(folder))
    rows: dict[str, list[Any]] = {d: out.read(d, SCHEMAS[d].names, SCHEMAS[d]).to_pylist() for d in SCHEMAS}
    for found in rows.values():
        found.sort(key=str)
    names = ("identity", "reduction", "classification", "fresh")
    return {**rows, "properties": [out.property(name) for name in names]}


def model_seen(folder: Path) -> dict[str, bytes] | None:
    """The model that a reader loads: all of its parts, each checked against the digest of the whole."""
    storage = LocalStorage(str(folder))
    if not storage.exists("model/current.json"):
        return None
    model = models.current(storage)
    return {part: model.read(part) for part in model.digests}


def rows_in_folder(folder: Path, dataset: Dataset) -> list[str]:
    """What any Parquet reader finds, who takes all files of a folder: no row twice."""
    if not list((folder / dataset).glob("*.parquet")):
        return []
    rows = pq.read_table(folder / dataset).to_pylist()
    keys = [(row["path"], row.get("classifier")) for row in rows]
    assert len(keys) == len(set(keys)), dataset
    return sorted(map(str, rows))


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The output as it is before each step."""
    folder = tmp_path_factory.mktemp("states") / "out"
    found = {}
    for name, step in STEPS.items():
        found[name] = folder
        following = tmp_path_factory.mktemp("states") / "out"
        if folder.exists():
            shutil.copytree(folder, following)
        out = Output(str(following))
        with out.writing():
            step(out)
        folder = following
    return found


Seen = tuple[dict[str, Any], dict[str, bytes] | None, dict[Dataset, list[str]]]


def seen(folder: Path) -> Seen:
    """What a reader of the log, of the model and of whole folders finds."""
    return seen_by_the_log(folder), model_seen(folder), {d: rows_in_folder(folder, d) for d in SCHEMAS}


def check(folder: Path, step: Step, old: Seen, new: Seen, moment: object) -> None:
    """Check that an output whose writer was killed is the one of before or of after, for readers and for writers."""
    found, model = seen_by_the_log(folder), model_seen(folder)
    assert found in (old[0], new[0]), moment
    assert model in (old[1], new[1]), moment
    for dataset in SCHEMAS:
        rows = rows_in_folder(folder, dataset)
        whole = rows in (old[2][dataset], new[2][dataset])
        only_added = set(old[2][dataset]) <= set(rows) <= set(new[2][dataset])
        assert whole or only_added or (folder / dataset / "_INCOMPLETE").exists(), (moment, dataset)

    following = Output(str(folder))
    damage = None if following.is_empty else verify(following, mend=False)
    with following.writing():
        pass
    assert not damage or damage == verify(following, mend=False), moment  # what was unfinished is no damage
    assert seen(folder) == (new if found == new[0] else old), moment  # what was seen holds
    left = [file for file in folder.rglob("*") if file.is_file() and file.name == "_INCOMPLETE"]
    left += [file for file in (folder / "_orchard" / "staging").rglob("*") if file.is_file()]
    assert not left, moment
    if found == old[0]:
        with following.writing():  # and the step can be done after all
            step(following)
        assert seen(folder)[:2] == new[:2], moment


def begin(folder: Path, before: Path) -> None:
    """Make `folder` the output as it is before a step."""
    shutil.rmtree(folder, ignore_errors=True)
    if before.exists():
        shutil.copytree(before, folder)


@pytest.mark.parametrize("name", STEPS)
def test_a_writer_may_be_killed_at_any_moment(name: str, before: dict[str, Path], tmp_path: Path, note: Note) -> None:
    folder = tmp_path / "out"

    def step(changes: int) -> int:
        """Do the step with a writer who lives for so many changes; return how many were left."""
        begin(folder, before[name])
        out = mortal(folder, changes)
        with out.writing():
            STEPS[name](out)
        left: int = out.storage.left[0]  # type: ignore[attr-defined]
        return left

    begin(folder, before[name])
    old = seen(folder)
    changes = 1000 - step(1000)
    new = seen(folder)
    assert old != new
    assert changes > 3

    for moment in range(changes):
        with pytest.raises(Killed):
            step(moment)
        check(folder, STEPS[name], old, new, moment)
    note("writer killed before a change on disk, at each of them", changes, "old or new is seen whole, and holds")


@pytest.mark.parametrize("name", STEPS)
def test_the_power_may_be_cut_at_any_moment(
    name: str, before: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, note: Note
) -> None:
    folder = tmp_path / "disk" / "out"

    def step(waits: int) -> Disk:
        """Do the step on a disk whose power is cut as it is waited for once more."""
        shutil.rmtree(folder.parent, ignore_errors=True)
        folder.parent.mkdir()
        begin(folder, before[name])
        shutil.rmtree(tmp_path / "kept", ignore_errors=True)
        disk = Disk(folder.parent, tmp_path / "kept", waits)
        out = Output(str(folder))
        with monkeypatch.context() as patched, suppress(Killed):
            patched.setattr(os, "fsync", disk.fsync)
            with out.writing():
                STEPS[name](out)
        disk.cut()
        return disk

    begin(folder, before[name])
    old = seen(folder)
    waits = 1000 - step(1000).left
    new = seen(folder)
    assert waits > 3

    moments = [*range(list(STEPS).index(name) % EACH, waits, EACH), waits]
    for moment in moments:
        disk = step(moment)
        for state in (disk.names_alone, disk.nothing_else):
            shutil.rmtree(folder.parent)
            state.rename(folder.parent)
            check(folder, STEPS[name], old, new, (moment, state.name))
    note("power cut while the writer waits for the disk", 2 * len(moments), "old or new is seen whole, and holds")
