"""The output folder: datasets and models that change only by atomic commits, written by one run at a time.

::

    OUT/features/…  rejected/…  inventory/…  reduced/…   what readers see: committed files and nothing else
    OUT/model/<digest>/…                                 the model that holds (see `models`)
    OUT/_orchard/commits/00000001.json …                 the log: files added and removed, properties set (see `log`)
    OUT/_orchard/parts/…                                 parts of a model that has no classifier yet
    OUT/_orchard/staging/<run>/…                         files that are not committed
    OUT/_orchard/locks/…                                 who writes (see `lock`)

A commit is a write-ahead record: it is valid once it exists, and the next process that opens the output can finish its
changes. Spark's retries and speculative attempts each stage a file of their own name. A record names the files of the
attempts that Spark counted; all others never leave staging. Files that a record names are never cleared from staging.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from threading import Lock
from typing import Any, cast

import pyarrow as pa

from orchard import interruption, log, models
from orchard.errors import OutputDamaged, OutputLocked, StorageError, UsageError
from orchard.files import (
    DataFile,
    damaged,
    digest_of,
    filled,
    gone,
    is_own,
    is_skipped,
    parquet_bytes,
    part,
    read_columns,
    read_file,
    stage_file,
)
from orchard.layout import (
    CURRENT_MODEL,
    INCOMPLETE,
    METRICS,
    MODEL,
    NOT_IN_MODELS,
    PARTS,
    REPORT,
    RUN,
    STAGING,
    TUNING,
    Dataset,
)
from orchard.lock import Lease, hold
from orchard.runlog import new_run_id
from orchard.storage import S3Options, Storage, open_storage
from orchard.upgrade import upgrade

logger = logging.getLogger(__name__)

_READ_AGAIN = 5


@dataclass(frozen=True)
class StagedModel:
    """A model whose files are staged, for the commit that makes it the current one."""

    folder: str
    files: Sequence[DataFile]


NO_MODEL = StagedModel("", ())
"""For a commit after which there is no model."""


@dataclass
class _Snapshot:
    """The log as it was last read, or the error that reading it raised."""

    state: log.State = field(default_factory=log.State)
    damage: OutputDamaged | None = None


class Output:
    """An output folder or bucket prefix, as its log says it is.

    Raises:
        StorageError: the log cannot be read.

    A damaged log raises OutputDamaged at the first question about what it holds, so that `start_over` remains.
    """

    def __init__(self, url: str, s3: S3Options | None = None) -> None:
        self.storage: Storage = open_storage(url, s3 or S3Options())
        self.run_id = new_run_id()
        self._commit_lock = Lock()
        self._lease: Lease | None = None
        self._load()

    @property
    def _state(self) -> log.State:
        if self._snapshot.damage is not None:
            raise self._snapshot.damage
        return self._snapshot.state

    @property
    def staging(self) -> str:
        """Key prefix of this run's uncommitted files."""
        return f"{STAGING}{self.run_id}/"

    @property
    def url(self) -> str:
        """Where the output is: a folder or ``s3a://bucket/prefix``."""
        return self.storage.url

    @property
    def damage(self) -> OutputDamaged | None:
        """The error in the log, or in its last commit, which cannot be finished; None if there is none."""
        try:
            if self._lease is not None:
                self._finish_pending()
            return self._snapshot.damage
        except OutputDamaged as damage:
            return damage

    @property
    def known(self) -> bool:
        """Whether the log can be read, so that the output's content is known."""
        return self._snapshot.damage is None

    @property
    def committed(self) -> float | None:
        """Time of the last commit, in seconds since 1970; None: there is none."""
        return datetime.fromisoformat(self._state.time).timestamp() if self._state.time else None

    @property
    def holds_lock(self) -> bool:
        """Whether this process holds the output's lock, and may write."""
        lease = self._lease
        return lease is not None and not lease.lost

    @property
    def is_empty(self) -> bool:
        """Whether nothing was ever committed here."""
        return self._snapshot.damage is None and self._state.sequence == 0

    @property
    def properties(self) -> dict[str, Any]:
        """All properties that commits have set, by name."""
        return dict(self._state.properties)

    @property
    def is_settled(self) -> bool:
        """Whether the folders are as the log says: the last commit is finished, and the output needs no upgrade."""
        return self._state.pending is None and self._state.format == log.FORMAT

    @property
    def model_folder(self) -> str | None:
        """``model/<digest>/`` of the model that holds."""
        found: str | None = self._state.properties.get("model")
        return found

    def files(self, folder: str) -> list[DataFile]:
        """Return the committed files of a dataset (or `MODEL`, `PARTS`) in the order of their commits."""
        return list(self._state.files.get(str(folder), {}).values())

    def rows(self, dataset: Dataset) -> int:
        """Return the number of committed rows of `dataset`."""
        return sum(file.rows for file in self.files(dataset))

    def property(self, name: str) -> object | None:
        """Return the current value of the property `name`."""
        return self._state.properties.get(name)

    def recall(self, name: str) -> dict[str, Any]:
        """Return the property `name` of a stage; empty if the stage has not run."""
        return cast(dict[str, Any], self.property(name) or {})

    def read(self, dataset: Dataset, columns: list[str], schema: pa.Schema) -> pa.Table:
        """Return `columns` of all committed rows of a Parquet dataset as one table.

        Raises:
            OutputDamaged: a file is gone, or not what was committed.
        """
        schema = pa.schema([schema.field(name) for name in columns])
        for attempt in range(_READ_AGAIN):
            files = self.present_files(dataset)
            try:
                with ThreadPoolExecutor(8) as readers:
                    tables = list(readers.map(lambda file: read_columns(self.storage, file, columns), files))
            except OutputDamaged:
                # Another run may have replaced the files since the log was read; then the log has grown.
                if self._lease is not None or attempt + 1 == _READ_AGAIN or not self.refresh():
                    raise
            else:
                return pa.concat_tables([schema.empty_table(), *(t.select(columns).cast(schema) for t in tables)])
        raise AssertionError("unreachable")

    def present_files(self, folder: str) -> list[DataFile]:
        """Return the files of a folder as they can be read now: some in staging, if a writer was just killed."""
        pending = self._state.pending
        if pending is None:
            return self.files(folder)
        moving = {entry[0] for entry in pending["add"].get(str(folder), [])}
        staging = pending["staging"]

        def present(file: DataFile) -> DataFile:
            is_staged = file.name in moving and not self.storage.exists(file.name)
            return replace(file, name=f"{staging}{file.name}") if is_staged else file

        return [present(file) for file in self.files(folder)]

    def refresh(self) -> bool:
        """Read the log again, as one who only reads; return whether it has changed."""
        before = self._snapshot
        self._load()
        return self._snapshot != before

    def part(self, name: str) -> bytes | None:
        """Return a part for future models; None if it was never made. Raises as `read_file` does."""
        file = self._part_file(name)
        return None if file is None else read_file(self.storage, file)

    def has_part(self, name: str) -> bool:
        """Return whether a part for future models was committed."""
        return self._part_file(name) is not None

    def classifier_files(self) -> dict[str, bytes]:
        """Return the current model's files that are no parts, by name. Raises as `read_file` does."""
        start = len(self.model_folder or "")
        shared = {models.MANIFEST, *(_part_name(file.name) for file in self.files(PARTS))}
        files = {file.name[start:]: file for file in self.files(MODEL)}
        return {name: read_file(self.storage, file) for name, file in files.items() if name not in shared}

    @contextmanager
    def writing(self, *, unchecked: bool = False) -> Iterator[None]:
        """Hold the output's lock, finish what a killed run began, and leave no staged file behind.

        Args:
            unchecked: whether to continue even if the output is damaged, to repair it or to start over.

        Raises:
            OutputLocked: another run holds the lock.
            OutputDamaged: the log is damaged, or a committed file is gone or of another size.
            UsageError: nothing was ever committed, and files of others lie where this output's would.
        """
        interruption.say("interrupted; what was committed is kept, start again to go on.")
        with interruption.in_order(), hold(self.storage, self.run_id) as lease:
            self._lease = lease
            self._load()
            self._discard_cut_off()
            if self.is_empty:
                self._refuse_others(unchecked=unchecked)
            try:
                self._finish_pending()
                self._check_files()
                if self._state.format < log.FORMAT:
                    upgrade(self)
            except OutputDamaged:
                if not unchecked:
                    raise
            self._clear_staging()
            try:
                yield
            finally:
                try:
                    if not lease.lost:
                        self._leave()
                finally:
                    self._lease = None

    def stage(self, dataset: Dataset, table: pa.Table) -> DataFile:
        """Write `table` as an uncommitted file of `dataset`."""
        return stage_file(self.storage, self.staging, part(dataset), parquet_bytes(table), table.num_rows)

    def stage_model(self, classifiers: Mapping[str, bytes]) -> StagedModel:
        """Stage a model: the parts there are, and the files of its classifiers by their name in the model's folder."""
        digests = {name: digest_of(data) for name, data in classifiers.items()}
        parts = {_part_name(file.name): file for file in self.files(PARTS)}
        parts = {name: file for name, file in parts.items() if name not in NOT_IN_MODELS}
        digests |= {name: str(file.digest) for name, file in parts.items()}
        folder, content = models.manifest(digests)
        files = [
            stage_file(self.storage, self.staging, f"{folder}{name}", data)
            for name, data in {**classifiers, models.MANIFEST: content}.items()
        ]
        for name, file in parts.items():
            copied = replace(file, name=f"{folder}{name}")
            self.storage.copy(file.name, f"{self.staging}{copied.name}")
            files.append(copied)
        return StagedModel(folder, files)

    def commit(
        self,
        add: Mapping[Dataset, Sequence[DataFile]],
        *,
        replace: Collection[Dataset] = (),
        remove: Collection[str] = (),
        properties: Mapping[str, object] | None = None,
        parts: Mapping[str, bytes] | None = None,
        model: StagedModel | None = None,
    ) -> None:
        """Make the staged files `add` visible, drop others, set properties and models: all or nothing.

        Args:
            add: files that were written to ``staging + name``.
            replace: datasets that lose all the files they had.
            remove: names of further files to drop.
            properties: JSON values to remember; the others stay, None forgets one.
            parts: parts that models will be made of, by name; they take the place of earlier ones.
            model: takes the place of the one before; `NO_MODEL`: there is none any more; None: it stays.

        Raises:
            OutputLocked: another run has committed since; nothing was changed.
            StorageError: the storage failed. If the record was made, it holds, and the next start finishes it.
        """
        with self._commit_lock:
            self._check_lease()
            self._finish_pending()
            added: dict[str, Sequence[DataFile]] = {str(dataset): files for dataset, files in add.items() if files}
            removed = {file.name for dataset in replace for file in self.files(dataset)} | set(remove)
            changed = dict(properties or {})
            if parts:
                staged = [self._stage_part(name, data) for name, data in parts.items()]
                old = {found.name for name in parts if (found := self._part_file(name))}
                removed |= old - {file.name for file in staged}
                added[PARTS] = [file for file in staged if file.name not in old]
            if model is not None and model.folder != self.model_folder:
                added[MODEL] = model.files
                removed |= {file.name for file in self.files(MODEL)}
                changed["model"] = model.folder or None
            self._commit({folder: files for folder, files in added.items() if files}, sorted(removed), changed)

    def start_over(
        self, properties: Mapping[str, object] | None = None, add: Mapping[str, Sequence[DataFile]] | None = None
    ) -> None:
        """Drop everything that the output holds but `add`, whatever state it is in, and remember `properties`.

        Raises: as `commit`.
        """
        with self._commit_lock:
            self._check_lease()
            self._snapshot = _Snapshot(log.State(sequence=log.last(self.storage)))
            added = {folder: files for folder, files in (add or {}).items() if files}
            self._commit(added, [], dict(properties or {}), reset=True)

    def write(self, key: str, data: bytes) -> None:
        """Replace a file that is no part of a commit, such as the report. Raises OutputLocked."""
        self._check_lease()
        self.storage.write(key, data)

    def _load(self) -> None:
        try:
            self._snapshot = _Snapshot(log.load(self.storage))
        except OutputDamaged as damage:
            self._snapshot = _Snapshot(damage=damage)

    def _check_lease(self) -> None:
        if self._lease is None:
            raise OutputLocked(f"{self.url} is changed only by who holds its lock: commit inside writing().")
        self._lease.check()

    def _commit(
        self,
        add: Mapping[str, Sequence[DataFile]],
        remove: Sequence[str],
        properties: dict[str, Any],
        *,
        reset: bool = False,
    ) -> None:
        state = self._state
        record: log.Record = {
            "format": log.FORMAT,
            "sequence": state.sequence + 1,
            "previous": state.digest,
            "reset": reset,
            "run": self.run_id,
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "staging": self.staging,
            "add": {folder: [(f.name, f.rows, f.size, f.digest) for f in files] for folder, files in add.items()},
            "remove": list(remove),
            "properties": properties,
        }
        digest = log.append(self.storage, record)
        if digest is None:
            raise OutputLocked(
                f"Another run has written to {self.url} meanwhile: wait for it, then start again; "
                "committed work is kept."
            )
        state.fold(record, digest)
        state.pending = record
        self._finish_pending()

    def _finish_pending(self) -> None:
        """Apply the changes of the last record, unless they are known to be applied; may be repeated."""
        record = self._state.pending
        if record is None:
            return
        self._check_lease()  # a run that was stopped and woken leaves the rest to its successor
        removed = self._leftovers() if record["reset"] else record["remove"]
        models_removed = [name for name in removed if name.startswith((MODEL, PARTS))]
        rows_removed = [name for name in removed if not name.startswith((MODEL, PARTS))]
        # A reader who takes all files of a folder never meets a row twice: old files leave before new ones come.
        folders = sorted({name.split("/")[0] for name in rows_removed if "/" in name})
        for folder in folders:
            self.storage.write(f"{folder}/{INCOMPLETE}", b"The files of this folder are being replaced.\n")
        self.storage.delete(rows_removed)
        self._check_lease()
        self._move([entry[0] for added in record["add"].values() for entry in added], record["staging"])
        self._check_lease()
        if self.model_folder is not None and "model" in record["properties"]:
            self.storage.write(CURRENT_MODEL, json.dumps({"folder": self.model_folder}).encode())
        elif "model" in record["properties"] or record["reset"]:
            self.storage.delete([CURRENT_MODEL])
        self.storage.delete(models_removed)
        self.storage.delete([f"{folder}/{INCOMPLETE}" for folder in folders])
        if record["reset"]:
            self.storage.delete(
                [key for number, key in log.records(self.storage).items() if number < record["sequence"]]
            )
        self._check_lease()
        log.mark_done(self.storage, self._state)

    def _leftovers(self) -> list[str]:
        """Return all files of an output that was just started over, without those that it keeps.

        The list of suspects stays until it is written anew: people write into it. So does what others have put there.
        """
        return [*self._unlogged(*(f"{dataset}/" for dataset in Dataset), MODEL, PARTS, TUNING), METRICS, RUN, REPORT]

    def _unlogged(self, *folders: str) -> list[str]:
        """Return Orchard's files in these folders that are not in the log."""
        kept = {file.name for files in self._state.files.values() for file in files.values()}
        if self.model_folder is not None:
            kept.add(CURRENT_MODEL)
        found = [entry.key for folder in folders for entry in self.storage.list(folder)]
        return [name for name in found if is_own(name) and name not in kept]

    def _discard_cut_off(self) -> None:
        """Delete a record that was not written to its end, and what was moved for it: a disk may have lost the rest."""
        if (cut_off := self._snapshot.state.cut_off) is None:
            return
        logger.warning("the last commit was cut off while it was written, and what it added is made again")
        self.storage.delete(self._unlogged(*(f"{dataset}/" for dataset in Dataset), MODEL, PARTS))
        self.storage.delete([cut_off])

    def _move(self, names: Sequence[str], staging: str) -> None:
        def move(name: str) -> None:
            try:
                self.storage.move(f"{staging}{name}", name)
            except FileNotFoundError:
                if not self.storage.exists(name):
                    raise gone(self.storage, name) from None

        with ThreadPoolExecutor(16) as movers:
            list(movers.map(move, names))

    def _refuse_others(self, *, unchecked: bool) -> None:
        """Raise UsageError for files that an output's own would overwrite, or be mixed with; see `writing`.

        To start over, what an output without its log has left may lie there.
        """
        folders = [*(f"{dataset}/" for dataset in Dataset), MODEL]

        def of_others(key: str) -> bool:
            return not is_skipped(key) and not (unchecked and is_own(key))

        taken = [folder for folder in folders if any(of_others(entry.key) for entry in self.storage.list(folder))]
        if not unchecked:
            taken += filled(self.storage, [METRICS, RUN, REPORT])
        if taken:
            raise UsageError(
                f"{self.url} already holds {', '.join(taken)}, and no log says that Orchard wrote them: choose another "
                "--output, or take them away."
            )

    def _check_files(self) -> None:
        """Make sure that every committed file is there, and of its size; one listing of each folder."""
        for folder, files in self._state.files.items():
            if not files:
                continue
            sizes = {entry.key: entry.size for entry in self.storage.list(f"{folder.rstrip('/')}/")}
            for file in files.values():
                if file.name not in sizes:
                    raise gone(self.storage, file.name)
                if file.size is not None and file.size != sizes[file.name]:
                    raise damaged(self.storage, file.name, "its size is not what was written")

    def _leave(self) -> None:
        """Finish the last commit, if a signal or the storage came in between, and clear staging."""
        try:
            if self._snapshot.damage is None:
                self._finish_pending()
                self._clear_staging()
        except StorageError as error:
            logger.warning("the last commit holds, and the next start finishes it: %s", error)

    def _clear_staging(self) -> None:
        pending = self._snapshot.state.pending
        kept = {f"{pending['staging']}{e[0]}" for added in pending["add"].values() for e in added} if pending else set()
        self.storage.delete([entry.key for entry in self.storage.list(STAGING) if entry.key not in kept])
        self.storage.clean(STAGING)

    def _stage_part(self, name: str, data: bytes) -> DataFile:
        return stage_file(self.storage, self.staging, f"{PARTS}{digest_of(data)}/{name}", data)

    def _part_file(self, name: str) -> DataFile | None:
        return next((file for file in self.files(PARTS) if _part_name(file.name) == name), None)


def _part_name(name: str) -> str:
    return name.removeprefix(PARTS).partition("/")[2]
