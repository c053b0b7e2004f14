"""An output of an earlier version goes on: no image is decoded again, and what could be mixed is made again.

``tests/data/output-format-1.tar.xz`` was written by version 0.1.0 (commit 8bbdd9c) from 16 pictures of one colour and a
web page, with MobileNet of width 0.25 and weights that repeat, so that it is small.
"""

import tarfile
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

import orchard
from orchard import log
from orchard.errors import InputError
from orchard.inference.model import Model
from orchard.layout import FEATURES, Dataset
from orchard.output import Output
from orchard.verify import verify

PACKED = Path(__file__).parents[1] / "data" / "output-format-1.tar.xz"


@pytest.fixture
def old(tmp_path: Path) -> Path:
    with tarfile.open(PACKED) as packed:
        packed.extractall(tmp_path, filter="data")
    return tmp_path / "format-1"


def test_it_can_be_read_as_it_is(old: Path) -> None:
    output = Output(str(old))
    assert output.read(Dataset.FEATURES, ["path"], FEATURES).num_rows == 16
    with pytest.raises(InputError, match=r"earlier version of Orchard.*orchard run SOURCE"):
        Model.load(str(old))


def test_a_dry_run_before_the_upgrade_finds_it_whole_and_changes_nothing(old: Path) -> None:
    before = {path: path.read_bytes() for path in old.rglob("*") if path.is_file()}
    assert verify(Output(str(old)), mend=False)["damage"] == []
    assert {path: path.read_bytes() for path in old.rglob("*") if path.is_file()} == before


def test_one_commit_upgrades_it_and_the_later_stages_are_done_again(old: Path, spark: Any) -> None:
    features = pq.read_table(old / "features")
    accuracy = 1.0
    with Output(str(old)).writing():
        pass
    upgraded = sorted((old / "_orchard" / "commits").iterdir())
    assert len(upgraded) == 12
    with Output(str(old)).writing():  # once
        pass
    assert sorted((old / "_orchard" / "commits").iterdir()) == upgraded
    assert log.load(Output(str(old)).storage).format == log.FORMAT
    assert verify(Output(str(old)))["damage"] == []
    assert pq.read_table(old / "features").equals(features)

    orchard.reduce(spark, str(old))
    orchard.classify(spark, str(old), classifiers="linear_discriminant")
    assert pq.read_table(old / "features").equals(features)
    assert Model.load(str(old)).labels == ("Lemon", "Plum")
    assert Model.load(str(old)).metrics["classifiers"]["linear_discriminant"]["accuracy"] == accuracy
    assert verify(Output(str(old)))["damage"] == []


def test_a_killed_writer_of_an_earlier_version_loses_nothing(old: Path) -> None:
    """Its last commit was made, and its files still lay in staging."""
    output = Output(str(old))
    (rejected,) = output.files(Dataset.REJECTED)
    record = log.load(output.storage).pending
    assert record is not None and record["format"] == 1
    inventory = sorted((old / "inventory").iterdir())
    with output.writing():
        pass
    assert sorted((old / "inventory").iterdir()) == inventory
    assert (old / rejected.name).exists()
