"""The commit log of an output: one record for each commit, which names the digest of the record before.

::

    OUT/_orchard/commits/00000001.json …   records; creating one fails if it exists, so two writers never both make it
    OUT/_orchard/head.json                 the last record whose changes are all made, by number and digest

An edited record breaks the chain, a deleted one leaves a gap, and the last one cannot vanish unnoticed, because the
head names it. A last record that is no JSON, and that the head does not name yet, was cut off while it was written.
That happens on file systems without hard links, as all others have it whole; its changes were never begun. A record
that says ``reset`` replaces all records before it, and is valid even if those are damaged.
"""

from __future__ import annotations

import json
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypedDict, cast

from orchard.errors import OutputDamaged, UsageError
from orchard.files import DataFile, digest_of
from orchard.layout import COMMITS, HEAD
from orchard.storage import Storage

FORMAT = 2
"""Of records. 1 had neither digests nor versioned models: see `orchard.upgrade`."""


class Record(TypedDict):
    """One commit."""

    format: int
    sequence: int
    previous: str | None  # digest of the record before; None: there is none
    reset: bool  # nothing that was there before remains
    run: str
    time: str  # ISO 8601, UTC
    staging: str  # where the added files lay before
    add: dict[str, list[tuple[str, int, int | None, str | None]]]  # folder -> name, rows, size, digest
    remove: list[str]
    properties: dict[str, object]  # null: forget it


@dataclass
class State:
    """The state of an output after all records of its log."""

    files: dict[str, dict[str, DataFile]] = field(default_factory=dict)
    """Folder (a dataset, the models, parts of models) -> name -> file, in the order of their commits."""
    properties: dict[str, Any] = field(default_factory=dict)
    sequence: int = 0
    digest: str | None = None
    """Digest of the last record."""
    format: int = FORMAT
    """Of the last record."""
    time: str | None = None
    """Of the last record, ISO 8601, UTC."""
    pending: Record | None = None
    """The last record; None if all its changes are known to be made."""
    cut_off: str | None = None
    """Key of a record after the last one whose writer was cut off while writing it; it is in the next one's way."""

    def fold(self, record: Record, digest: str) -> None:
        """Apply one more record."""
        if record.get("reset"):
            self.files, self.properties = {}, {}
        removed = set(record["remove"])
        for files in self.files.values():
            for name in removed & files.keys():
                del files[name]
        for folder, added in record["add"].items():
            files = self.files.setdefault(folder, {})
            files.update((entry[0], DataFile(*entry)) for entry in added)
        for name, value in record["properties"].items():
            if value is None:
                self.properties.pop(name, None)
            else:
                self.properties[name] = value
        self.sequence, self.digest, self.format = record["sequence"], digest, record["format"]
        self.time = record["time"]


def key(sequence: int) -> str:
    """Return the key of the record with this number."""
    return f"{COMMITS}{sequence:08d}.json"


def records(storage: Storage) -> dict[int, str]:
    """Return the number and key of every existing record."""
    found = {int(entry.key[len(COMMITS) : -5]): entry.key for entry in storage.list(COMMITS) if _is_record(entry.key)}
    return dict(sorted(found.items()))


def last(storage: Storage) -> int:
    """Return the number of the last record that was ever made, as far as is known."""
    head = _head(storage)
    return max(0, *records(storage), head["sequence"] if head else 0)


def load(storage: Storage) -> State:
    """Read the log, and return the state of the output.

    Raises:
        OutputDamaged: a record is missing or not what was written.
        UsageError: a record is of a later version of Orchard.
    """
    head = _head(storage)  # first: it never runs ahead of the records
    keys = records(storage)
    try:
        with ThreadPoolExecutor(16) as readers:
            contents = dict(zip(keys, readers.map(storage.read, keys.values()), strict=True))
    except FileNotFoundError:  # another run has started over meanwhile, and cleared old records away
        keys = records(storage)
        contents = {number: storage.read(name) for number, name in keys.items()}
    state = State()
    if (number := _cut_off(head, contents)) is not None:
        state.cut_off = key(number)
        del contents[number]
    last = max(contents, default=0)
    if head is not None and head["sequence"] > last:
        raise _damage(storage, key(head["sequence"]), "it is missing")
    chain: list[tuple[Record, str]] = []
    for number in range(last, 0, -1):
        if number not in contents:
            raise _damage(storage, key(number), "it is missing")
        record, digest = _parsed(storage, number, contents[number]), digest_of(contents[number])
        if (chain and chain[-1][0]["previous"] not in (digest, _UNCHAINED)) or (
            head is not None and head["sequence"] == number and head["digest"] != digest
        ):
            raise _damage(storage, key(number), "its content is not what was written")
        chain.append((record, digest))
        if record["reset"]:
            break
    for record, digest in reversed(chain):
        state.fold(record, digest)
    if chain and (head is None or head["sequence"] < last):
        state.pending = chain[0][0]
    return state


def _cut_off(head: _Head | None, contents: dict[int, bytes]) -> int | None:
    """Return the number of the last record if it was not written to its end."""
    last = max(contents, default=0)
    if not last or (head is not None and head["sequence"] >= last):
        return None
    try:
        json.loads(contents[last])
    except ValueError:
        return last
    return None


def append(storage: Storage, record: Record) -> str | None:
    """Create a record; return its digest, or None if a record of its number exists."""
    data = json.dumps(record).encode()
    return digest_of(data) if storage.create(key(record["sequence"]), data) else None


def mark_done(storage: Storage, state: State) -> None:
    """Record in the head that all changes of the last record are made."""
    storage.write(HEAD, json.dumps({"sequence": state.sequence, "digest": state.digest}).encode())
    state.pending = None


# Records of format 1 do not say what came before them.
_UNCHAINED = "unknown"


class _Head(TypedDict):
    sequence: int
    digest: str


def _head(storage: Storage) -> _Head | None:
    try:
        head = json.loads(storage.read(HEAD))
        return _Head(sequence=int(head["sequence"]), digest=str(head["digest"]))
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):
        return None  # as if it had never been written: the last record's changes are made again, which is harmless


def _parsed(storage: Storage, number: int, data: bytes) -> Record:
    try:
        record = json.loads(data)
        version = record.get("format", 1)
        if not isinstance(version, int) or version > FORMAT:
            raise UsageError(
                f"{storage.url} was written by a later version of Orchard (format {version}; this one knows {FORMAT}): "
                "upgrade Orchard, or choose another --output."
            )
        older = {"format": 1, "sequence": number, "previous": _UNCHAINED, "reset": False} if version == 1 else {}
        found = cast(Record, {**record, **older})
        State().fold(found, "")  # every field is there, and of its type
        if found["sequence"] != number:
            raise ValueError("it is another one")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise _damage(storage, key(number), "it is no record of a commit") from None
    return found


def _is_record(name: str) -> bool:
    return re.fullmatch(r"\d{8}\.json", name.removeprefix(COMMITS)) is not None


def _damage(storage: Storage, name: str, why: str) -> OutputDamaged:
    url = storage.url
    return OutputDamaged(
        f"the log in {url} is damaged ({name}: {why}): run orchard verify {url}, which mends what can be mended, "
        "or start over with --fresh."
    )
