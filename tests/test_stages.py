"""Keys of stages."""

import json
from pathlib import Path

import pyarrow as pa
import pytest

from orchard.features.regrouping import group_key, source_key
from orchard.files import digest_of
from orchard.layout import INVENTORY, Dataset
from orchard.output import Output
from orchard.stages import key_of, key_of_rows

ROWS: list[list[str | None]] = [["/photos/1.jpg", "shop"], ['/photos/ü "2".jpg', None], ["/photos/3.jpg", "märket"]]


@pytest.mark.parametrize("rows", [[], ROWS[:1], ROWS])
def test_a_key_of_rows_is_that_of_all_of_them_at_once(rows: list[list[str | None]]) -> None:
    assert key_of_rows(iter(rows)) == key_of(*rows)


def test_the_keys_of_groups_and_sources_are_those_that_outputs_remember(tmp_path: Path) -> None:
    output = Output(str(tmp_path))
    named = [{"path": path, "group": name, "source": name} for path, name in ROWS]
    images = [{"size": 1, "split": "train", "featurized": True, **row} for row in named]
    with output.writing():
        for some in (images[:2], images[2:]):  # in files of their own, and not in the order of the paths
            rows = pa.Table.from_pylist(some[::-1], INVENTORY)
            output.commit({Dataset.INVENTORY: [output.stage(Dataset.INVENTORY, rows)]})
    expected = digest_of(json.dumps(sorted(ROWS, key=lambda row: str(row[0]))).encode())
    assert group_key(output) == expected
    assert source_key(output) == expected
