"""A stage: work that is repeated when its key, a digest of its input and settings, changes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchard.files import digest_of
from orchard.layout import Dataset
from orchard.output import Output

if TYPE_CHECKING:  # workers import the stages, and need neither
    from orchard.progress import Advance
    from orchard.spark.session import Session


@dataclass(frozen=True)
class Stage:
    """A stage over an output.

    Attributes:
        name: as progress and ``metrics.json`` call it.
        remembered: the output's property in which the work leaves its key.
        key: what input and settings come to.
        work: does it and commits; gets what gives Spark, and what to tell of its progress.
        total: rows or images that the progress counts up to; None: unknown.
        again: whether it is to be done in any case.
    """

    name: str
    remembered: str
    key: str
    work: Callable[[Session, Advance], object]
    total: int | None = None
    again: bool = False

    def is_done(self, output: Output) -> bool:
        """Whether the output holds its results."""
        return not self.again and output.recall(self.remembered).get("key") == self.key


def key_of(*values: object) -> str:
    """Return a digest of values that JSON can write."""
    return digest_of(json.dumps(values, sort_keys=True).encode())


def key_of_rows(rows: Iterable[object]) -> str:
    """Return what `key_of` returns of so many values, of which one is in memory at a time: of millions of images."""
    digest = hashlib.blake2b(b"[", digest_size=16)
    for number, row in enumerate(rows):
        digest.update((", " if number else "").encode() + json.dumps(row, sort_keys=True).encode())
    digest.update(b"]")
    return digest.hexdigest()


def feature_names(output: Output) -> list[str]:
    """Return the names of the files of the features, those of views too, which tell them from others."""
    files = (file for dataset in (Dataset.FEATURES, Dataset.VIEWS) for file in output.files(dataset))
    return sorted(file.name for file in files if file.rows)
