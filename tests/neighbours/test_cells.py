"""Promises of the search by cells: what an image met in several cells becomes one row, however Spark cuts the rows."""

from itertools import pairwise
from typing import cast

import numpy as np
import pyarrow as pa
import pytest

from orchard.files import DataFile
from orchard.layout import NEIGHBOURS
from orchard.neighbours import cells
from orchard.neighbours.rows import SIDES, Job, Tally

_MET = pa.schema(
    [
        pa.field("path", pa.string()),
        pa.field("side", pa.int8()),
        pa.field("neighbours", pa.list_(pa.string())),
        pa.field("similarities", pa.list_(pa.float32())),
        pa.field("other", pa.float32()),
    ]
)
_ROWS = [
    ("a", SIDES["train"], ["d", "b"], [0.75, 0.5], 0.5),
    ("a", SIDES["train"], ["c", "e", "f", "g"], [0.75, 0.625, 0.25, 0.125], 0.625),
    ("b", SIDES["test"], [], [], -np.inf),
    ("c", SIDES["test"], ["a"], [0.25], -np.inf),
    ("c", SIDES["test"], [], [], -np.inf),
    ("c", SIDES["test"], ["b"], [0.5], 0.5),
    ("d", -1, [], [], -np.inf),
    ("d", -1, ["b"], [1.0], 1.0),
]


class _Staging:
    """Stands in for a `Job`: keeps what is staged."""

    def __init__(self) -> None:
        self.staged: list[pa.Table] = []

    def stage(self, rows: pa.Table) -> DataFile:
        self.staged.append(rows)
        return DataFile(f"{len(self.staged)}", rows.num_rows, 0, "")


@pytest.mark.parametrize("borders", [[], [1], [3, 4, 5], [2, 6, 7], list(range(1, len(_ROWS)))])
@pytest.mark.parametrize("part_rows", [1, 3, 100])
def test_rows_of_an_image_become_one_wherever_batches_end(
    borders: list[int], part_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cells, "PART_ROWS", part_rows)
    whole = pa.RecordBatch.from_pylist([dict(zip(_MET.names, row, strict=True)) for row in _ROWS], _MET)
    batches = [whole.slice(start, end - start) for start, end in pairwise([0, *borders, len(_ROWS)])]
    staging = _Staging()
    written = list(cells._merge(cast(Job, staging), frozenset("c"), iter([*batches, whole.slice(0, 0)])))
    rows = pa.concat_tables(staging.staged)
    assert rows.schema == NEIGHBOURS
    assert rows["path"].to_pylist() == ["a", "b", "c", "d"]
    assert rows["neighbours"].to_pylist() == [["c", "d", "e", "b", "f"], [], ["b", "a"], ["b"]]
    assert rows["similarities"].to_pylist() == [[0.75, 0.75, 0.625, 0.5, 0.25], [], [0.5, 0.25], [1.0]]
    tallies = [Tally.from_bytes(row) for batch in written for row in batch["tally"].to_pylist()]
    assert sum(int(tally.test.sum()) for tally in tallies) == 1, "b has no neighbour"
    assert sum(int(tally.other.sum()) for tally in tallies) == 1, "only a is trained on"
    assert {path: found for tally in tallies for path, found in tally.checked.items()} == {"c": [0.5, 0.25]}


def test_vectors_come_back_from_byte_strings_however_they_are_cut() -> None:
    rows = np.random.default_rng(0).normal(size=(7, 16)).astype(np.float16).astype(np.float32)
    strings = cells._binary(rows)
    np.testing.assert_array_equal(cells._vectors(strings), rows)
    np.testing.assert_array_equal(cells._vectors(strings.slice(2, 3)), rows[2:5])
    kept = strings.filter(pa.array([True, False, True, False, False, False, True]))
    np.testing.assert_array_equal(cells._vectors(kept), rows[[0, 2, 6]])
    assert len(cells._vectors(strings.slice(0, 0))) == 0
