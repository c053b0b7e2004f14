"""The output folder: datasets that change only by atomic commits, written by one run at a time.

::

    OUT/features/…  rejected/…  inventory/…  reduced/…   what readers see: committed files and nothing else
    OUT/_orchard/commits/00000001.json …                 the log: files added and removed, properties set
    OUT/_orchard/staging/<run>/…                         files of tasks that are not committed
    OUT/_orchard/locks/…                                 who writes (see `lock`)

A commit is a write-ahead record: once ``commits/<n>.json`` exists it holds, and moving its files from staging into
place can be finished by whoever comes next. Creating it fails if it exists, so two writers can never both make
commit n. Spark's retries and speculative attempts each stage a file of their own name; the log names the files
of the attempts that Spark counted, and the rest never leaves staging.
"""

import json
import secrets
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from threading import Lock
from typing import TypedDict

import pyarrow as pa
import pyarrow.parquet as pq

from orchard import interruption
from orchard.errors import OutputLocked, StorageError
from orchard.layout import COMMITS, STAGING, Dataset
from orchard.lock import Lease, hold
from orchard.storage import S3Options, Storage, open_storage


@dataclass(frozen=True)
class DataFile:
    """A file of a dataset: its name relative to the output (``features/part-….parquet``) and its rows."""

    name: str
    rows: int


class Commit(TypedDict):
    """One record of the log."""

    run: str
    time: str  # ISO 8601, UTC
    staging: str  # where the added files lay before
    add: dict[str, list[tuple[str, int]]]  # dataset -> (name, rows)
    remove: list[str]
    properties: dict[str, object]  # null: forget it


def part(dataset: Dataset, suffix: str = "parquet") -> str:
    """Name a new file of `dataset`; no two attempts at the same work get the same."""
    return f"{dataset}/part-{secrets.token_hex(12)}.{suffix}"


def parquet_bytes(table: pa.Table, *, dictionary: bool | list[str] = True) -> pa.Buffer:
    """Return `table` as a Parquet file; `dictionary` names the columns worth dictionary encoding."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", compression_level=1, use_dictionary=dictionary)
    return sink.getvalue()


class Output:
    """An output folder or bucket prefix, as its log says it is."""

    def __init__(self, url: str, s3: S3Options | None = None) -> None:
        self.storage: Storage = open_storage(url, s3 or S3Options())
        self.run_id = datetime.now(UTC).strftime("%Y%m%dT%H%M%S") + "-" + secrets.token_hex(3)
        self._commit_lock = Lock()
        self._lease: Lease | None = None
        self._load()

    @property
    def staging(self) -> str:
        """Key prefix of this run's uncommitted files."""
        return f"{STAGING}{self.run_id}/"

    @property
    def url(self) -> str:
        """Where the output is: a folder or ``s3a://bucket/prefix``."""
        return self.storage.url

    @property
    def is_empty(self) -> bool:
        """Whether nothing was ever committed here."""
        return self._sequence == 0

    def files(self, dataset: Dataset) -> list[DataFile]:
        """Return the committed files of `dataset` in the order of their commits."""
        return list(self._files.get(dataset, {}).values())

    def rows(self, dataset: Dataset) -> int:
        """Return the number of committed rows of `dataset`."""
        return sum(file.rows for file in self.files(dataset))

    def property(self, name: str) -> object | None:
        """Return what the latest commit that set the property `name` set it to."""
        return self._properties.get(name)

    def read(self, dataset: Dataset, columns: list[str], schema: pa.Schema) -> pa.Table:
        """Return `columns` of all committed rows of a Parquet dataset as one table."""
        schema = pa.schema([schema.field(name) for name in columns])

        def table(file: DataFile) -> pa.Table:
            with self.storage.open(file.name) as content:
                return pq.read_table(content, columns=columns)

        with ThreadPoolExecutor(8) as readers:
            tables = list(readers.map(table, self.files(dataset)))
        return pa.concat_tables([schema.empty_table(), *(t.cast(schema) for t in tables)])

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the output's lock, finish what a killed run began, and leave no staged file behind.

        Raises:
            OutputLocked: another run holds the lock.
        """
        interruption.say("interrupted; what was committed is kept, start again to go on.")
        with interruption.in_order(), hold(self.storage, self.run_id) as lease:
            self._lease = lease
            self._load()
            if self._sequence:
                self._apply(self._record(self._sequence))
            self._clear_staging()
            try:
                yield
            finally:
                if not lease.lost:
                    self._clear_staging()

    def stage(self, dataset: Dataset, table: pa.Table) -> DataFile:
        """Write `table` as an uncommitted file of `dataset`."""
        name = part(dataset)
        self.storage.write(f"{self.staging}{name}", parquet_bytes(table))
        return DataFile(name, table.num_rows)

    def commit(
        self,
        add: Mapping[Dataset, Sequence[DataFile]],
        *,
        replace: Collection[Dataset] = (),
        remove: Collection[str] = (),
        properties: Mapping[str, object] | None = None,
    ) -> None:
        """Make the staged files `add` visible and drop others, all or nothing.

        Args:
            add: files that were written to ``staging + name``.
            replace: datasets that lose all the files they had.
            remove: names of further files to drop.
            properties: JSON values to remember; the others stay.

        Raises:
            OutputLocked: another run has committed since; nothing was changed.
        """
        with self._commit_lock:
            if self._lease is None or self._lease.lost:
                raise OutputLocked(f"Another run took over {self.url}; this one stops without touching it.")
            dropped = {file.name for dataset in replace for file in self.files(dataset)} | set(remove)
            record: Commit = {
                "run": self.run_id,
                "time": datetime.now(UTC).isoformat(timespec="seconds"),
                "staging": self.staging,
                "add": {str(d): [(f.name, f.rows) for f in files] for d, files in add.items() if files},
                "remove": sorted(dropped),
                "properties": dict(properties or {}),
            }
            key = self._key(self._sequence + 1)
            if not self.storage.create(key, json.dumps(record).encode()):
                raise OutputLocked(
                    f"Another run has written to {self.url} meanwhile: wait for it, then start again; "
                    "committed work is kept."
                )
            self._fold(record)
            self._sequence += 1
            self._apply(record)

    def start_over(self) -> None:
        """Drop all datasets and properties (``--fresh``)."""
        dropped = [dataset for dataset in Dataset if self.files(dataset)]
        self.commit({}, replace=dropped, properties=dict.fromkeys(self._properties))

    def _load(self) -> None:
        self._files: dict[Dataset, dict[str, DataFile]] = {}
        self._properties: dict[str, object] = {}
        keys = sorted(entry.key for entry in self.storage.list(COMMITS))
        self._sequence = len(keys)
        if keys and keys[-1] != self._key(len(keys)):
            raise StorageError(f"The log in {self.url}/{COMMITS} lacks a commit: restore it or use another output.")
        with ThreadPoolExecutor(16) as readers:
            for data in readers.map(self.storage.read, keys):
                self._fold(json.loads(data))

    def _record(self, sequence: int) -> Commit:
        record: Commit = json.loads(self.storage.read(self._key(sequence)))
        return record

    @staticmethod
    def _key(sequence: int) -> str:
        return f"{COMMITS}{sequence:08d}.json"

    def _fold(self, record: Commit) -> None:
        """Take one commit into the state in memory."""
        removed = set(record["remove"])
        for files in self._files.values():
            for name in removed & files.keys():
                del files[name]
        for dataset, added in record["add"].items():
            files = self._files.setdefault(Dataset(dataset), {})
            files.update((name, DataFile(name, rows)) for name, rows in added)
        for name, value in record["properties"].items():
            if value is None:
                self._properties.pop(name, None)
            else:
                self._properties[name] = value

    def _apply(self, record: Commit) -> None:
        """Move a commit's files into place and delete what it dropped; harmless to repeat."""
        staging = str(record["staging"])

        def move(name: str) -> None:
            try:
                self.storage.move(f"{staging}{name}", name)
            except FileNotFoundError:
                if not self.storage.exists(name):
                    raise StorageError(
                        f"{self.url}/{name} is committed but gone: someone deleted it; "
                        "restore it, or start over with --fresh."
                    ) from None

        names = [name for added in record["add"].values() for name, _ in added]
        with ThreadPoolExecutor(16) as movers:
            list(movers.map(move, names))
        self.storage.delete(record["remove"])

    def _clear_staging(self) -> None:
        self.storage.delete([entry.key for entry in self.storage.list(STAGING)])
