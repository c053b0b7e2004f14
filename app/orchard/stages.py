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
        name: its name in progress and ``metrics.json``.
        remembered: the output's property in which the work records its key.
        key: digest of its input and settings.
        work: does the work and commits; gets the session, and a function to report progress to.
        total: number of rows or images that progress counts to; None: unknown.
        again: whether it is done in any case.
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
    """Return a digest like `key_of` for many values, such as those of all images; one is in memory at a time."""
    digest = hashlib.blake2b(b"[", digest_size=16)
    for number, row in enumerate(rows):
        digest.update((", " if number else "").encode() + json.dumps(row, sort_keys=True).encode())
    digest.update(b"]")
    return digest.hexdigest()


def feature_names(output: Output) -> list[str]:
    """Return the names of all files of features and views, which identify their content."""
    files = (file for dataset in (Dataset.FEATURES, Dataset.VIEWS) for file in output.files(dataset))
    return sorted(file.name for file in files if file.rows)
