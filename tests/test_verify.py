"""An output that was damaged says so in one sentence, and is mended as far as it can be made again."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from orchard.datasets import batches, list_column
from orchard.errors import InputError, OrchardError, OutputDamaged
from orchard.features.artifact import Artifact, EngineName, Precision
from orchard.files import part
from orchard.layout import BACKBONE, DERIVED, EXTRACTED, LABELS, LOGISTIC_REGRESSION, REDUCTION, SCHEMAS, Dataset
from orchard.output import Output
from orchard.verify import verify

NETWORK = Artifact("N", 1.0, 8, 3, EngineName.OPENVINO, Precision.FLOAT32, "random", "d", b"<net/>", b"weights")
IDENTITY = {"backbone": "N"}
PATHS = [f"/photos/{label}/{n}.jpg" for label in "ab" for n in range(4)]


def rows(dataset: Dataset, paths: list[str]) -> pa.Table:
    found = [dict.fromkeys(SCHEMAS[dataset].names) | {"path": path, "featurized": True} for path in paths]
    table = pa.Table.from_pylist(found, SCHEMAS[dataset])
    for name in {"features", "pca_features"} & set(table.column_names):
        place = table.schema.get_field_index(name)
        table = table.set_column(place, table.schema.field(name), list_column(np.ones((len(paths), 3), np.float32)))
    return table


@pytest.fixture
def output(tmp_path: Path) -> Output:
    """Eight images in two commits, reduced and classified."""
    out = Output(str(tmp_path / "out"))
    with out.writing():
        out.commit({}, properties={"identity": IDENTITY}, parts={BACKBONE: NETWORK.to_bytes()})
        for half in (PATHS[:4], PATHS[4:]):
            out.commit({d: [out.stage(d, rows(d, half))] for d in (Dataset.FEATURES, Dataset.INVENTORY)})
        reduced = {Dataset.REDUCED: [out.stage(Dataset.REDUCED, rows(Dataset.REDUCED, PATHS))]}
        out.commit(reduced, properties={"reduction": {"key": "r"}}, parts={REDUCTION: b"reduction"})
        out.commit(
            {Dataset.PREDICTIONS: [out.stage(Dataset.PREDICTIONS, rows(Dataset.PREDICTIONS, PATHS))]},
            properties={"classification": {"key": "c"}},
            model=out.stage_model({LABELS: b"[]", LOGISTIC_REGRESSION: b"lr"}),
        )
    return out


def paths_of(output: Output, dataset: Dataset) -> list[str]:
    found: list[str] = Output(output.url).read(dataset, ["path"], SCHEMAS[dataset])["path"].to_pylist()
    return sorted(found)


def flip(path: Path) -> None:
    """Change one bit, early: most of a Parquet file so small are statistics, which nobody reads."""
    data = bytearray(path.read_bytes())
    data[len(data) // 4] ^= 4
    path.write_bytes(data)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "gone": Path.unlink,
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-9]),
    "a bit": flip,
    "empty": lambda path: path.write_bytes(b""),
    "other": lambda path: path.write_bytes(b"PAR1" + bytes(100) + b"PAR1"),
}


def file_of(output: Output, folder: str, name: str = "") -> Path:
    """The first file of a folder whose name ends so."""
    return Path(output.url, next(file.name for file in output.files(folder) if file.name.endswith(name)))


def test_an_output_that_is_whole_is_left_alone(output: Output) -> None:
    before = {path: path.read_bytes() for path in Path(output.url).rglob("*") if path.is_file()}
    verdict = verify(output)
    assert verdict == {"files": 13, "damage": [], "mended": True, "images_to_do_again": 0}
    assert {path: path.read_bytes() for path in Path(output.url).rglob("*") if path.is_file()} == before


def test_a_dry_run_only_reads(output: Output) -> None:
    """It neither waits for the lock, which takes a right to write, nor tidies up after a killed run."""
    folder = Path(output.url)
    left = folder / "_orchard" / "staging" / "killed" / "x"
    with output.writing():
        left.parent.mkdir(parents=True)
        left.write_bytes(b"of a killed run")
        before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        verdict = verify(Output(output.url), mend=False)
        assert verdict == {"files": 13, "damage": [], "mended": True, "images_to_do_again": 0}
        assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_what_another_run_replaces_during_a_dry_run_is_no_damage(output: Output) -> None:
    reader = Output(output.url)
    with output.writing():
        output.commit({}, replace=[Dataset.PREDICTIONS], properties={"classification": None})
    assert verify(reader, mend=False)["damage"] == []


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("dataset", [Dataset.FEATURES, Dataset.INVENTORY])
def test_images_of_a_damaged_file_are_done_again_and_the_others_kept(
    output: Output, dataset: Dataset, damage: str
) -> None:
    path = file_of(output, dataset)
    DAMAGES[damage](path)
    with pytest.raises(OutputDamaged, match=rf"{path.name} is damaged .*orchard verify"):
        out = Output(output.url)
        out.read(dataset, SCHEMAS[dataset].names, SCHEMAS[dataset])
    for checked in (False, True):
        with pytest.raises(OutputDamaged, match=rf"{path.name} is damaged .*orchard verify"):
            list(batches(output.storage, next(f for f in output.files(dataset) if path.match(f.name)), checked=checked))
    assert verify(Output(output.url), mend=False)["mended"] is False
    verdict = verify(Output(output.url))
    assert len(verdict["damage"]) == 1 and path.name in verdict["damage"][0]
    assert verdict["images_to_do_again"] == 4
    for name in (Dataset.FEATURES, Dataset.INVENTORY):
        assert paths_of(output, name) == sorted(PATHS[4:])
    mended = Output(output.url)
    assert not any(mended.files(name) for name in DERIVED)
    assert [mended.property(name) for name in ("identity", "reduction", "classification")] == [IDENTITY, None, None]
    assert mended.part(BACKBONE) == NETWORK.to_bytes()
    assert verify(mended)["damage"] == []


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize(
    ("folder", "name", "forgotten"),
    [
        ("reduced", "", {"reduction", "classification"}),
        ("predictions", "", {"classification"}),
        ("_orchard/parts/", "reduction.npz", {"reduction", "classification"}),
        ("_orchard/parts/", "backbone", {"classification"}),
        ("model/", "labels.json", {"classification"}),
        ("model/", "manifest.json", {"classification"}),
    ],
)
def test_what_a_later_stage_made_is_dropped_to_be_made_again(
    output: Output, folder: str, name: str, forgotten: set[str], damage: str
) -> None:
    DAMAGES[damage](file_of(output, folder, name))
    verdict = verify(Output(output.url))
    assert verdict["damage"] and verdict["mended"] and verdict["images_to_do_again"] == 0
    mended = Output(output.url)
    assert {name for name in ("reduction", "classification") if mended.property(name) is None} == forgotten
    assert paths_of(output, Dataset.FEATURES) == sorted(PATHS)
    # A whole model answers until there is a new one; a part and the model's copy may be two names of one file.
    is_whole = folder in ("reduced", "predictions") or (folder == "_orchard/parts/" and damage == "gone")
    assert (mended.model_folder is not None) is is_whole
    assert verify(mended)["damage"] == []


def test_files_that_nobody_committed_are_removed(output: Output) -> None:
    stray = Path(output.url, part(Dataset.FEATURES))
    shutil.copyfile(file_of(output, "features"), stray)
    verdict = verify(Output(output.url))
    assert verdict["damage"] == [f"{stray} was never committed."]
    assert not stray.exists()
    assert paths_of(output, Dataset.FEATURES) == sorted(PATHS)


@pytest.mark.parametrize("name", ["features/part-00000-tid-1.snappy.parquet", "model/mine.h5", "reduced/y=1/a.parquet"])
def test_files_of_others_are_told_and_stay(output: Output, name: str) -> None:
    """Somebody has put a table of their own beside the output's: it is not Orchard's to delete."""
    theirs = Path(output.url, name)
    theirs.parent.mkdir(exist_ok=True)
    theirs.write_bytes(b"theirs")
    for _ in range(2):
        verdict = verify(Output(output.url))
        assert verdict["damage"] == [f"{theirs} is not Orchard's, but readers of its folder read it: take it away."]
        assert not verdict["mended"] and verdict["images_to_do_again"] == 0
    with output.writing():
        output.start_over({"fresh": 1})
    assert theirs.read_bytes() == b"theirs"


def test_files_that_readers_skip_are_no_damage_and_stay(output: Output) -> None:
    """A file manager leaves one where somebody has looked."""
    skipped = [Path(output.url, name) for name in ("features/.DS_Store", "model/.DS_Store", "reduced/_SUCCESS")]
    for path in skipped:
        path.write_bytes(b"theirs")
    assert verify(Output(output.url))["damage"] == []
    assert all(path.exists() for path in skipped)


def records(output: Output) -> list[Path]:
    return sorted(Path(output.url, "_orchard", "commits").iterdir())


def _edit(path: Path) -> None:
    record = json.loads(path.read_text())
    record["properties"]["x"] = 1
    path.write_text(json.dumps(record))


LOG_DAMAGES: dict[str, Callable[[Path], object]] = DAMAGES | {
    "edited": _edit,
    "no object": lambda path: path.write_text("[1, 2]"),
    "no record": lambda path: path.write_text("{}"),
    "another type": lambda path: path.write_text(json.dumps(json.loads(path.read_text()) | {"add": 3})),
}


@pytest.mark.parametrize("damage", LOG_DAMAGES)
@pytest.mark.parametrize("place", [1, 2, -1])
def test_a_damaged_log_is_noticed_by_everyone_and_written_anew(output: Output, place: int, damage: str) -> None:
    LOG_DAMAGES[damage](records(output)[place])
    with pytest.raises(OutputDamaged, match=r"the log .* is damaged .*orchard verify"):
        Output(output.url).files(Dataset.FEATURES)
    with pytest.raises(OutputDamaged), Output(output.url).writing():
        pass
    verdict = verify(Output(output.url))
    assert verdict["mended"] and verdict["images_to_do_again"] == 0
    mended = Output(output.url)
    assert paths_of(mended, Dataset.FEATURES) == paths_of(mended, Dataset.INVENTORY) == sorted(PATHS)
    assert mended.property("identity") == IDENTITY
    assert mended.part(BACKBONE) == NETWORK.to_bytes()
    assert not any(mended.files(name) for name in DERIVED)
    assert verify(mended)["damage"] == []


def test_a_copy_that_somebody_has_made_is_no_part_of_a_log_that_is_written_anew(output: Output) -> None:
    """Its rows would be there twice, so that all of its images were worked on again."""
    copy = Path(output.url, "features", "copy.parquet")
    shutil.copyfile(file_of(output, "features"), copy)
    DAMAGES["gone"](records(output)[1])
    verdict = verify(Output(output.url))
    assert verdict["mended"] and verdict["images_to_do_again"] == 0
    assert paths_of(Output(output.url), Dataset.FEATURES) == sorted(PATHS)
    assert copy.exists()


@pytest.mark.parametrize("damage", LOG_DAMAGES)
def test_a_new_start_never_depends_on_what_was_there(output: Output, damage: str) -> None:
    for record in records(output):
        LOG_DAMAGES[damage](record)
    file_of(output, "features").unlink()
    with pytest.raises(OutputDamaged, match="--fresh"):
        Output(output.url).files(Dataset.FEATURES)
    again = Output(output.url)
    with again.writing(unchecked=True):
        again.start_over({"fresh": 1})
        again.commit({d: [again.stage(d, rows(d, PATHS[:2]))] for d in EXTRACTED[::2]})
    assert paths_of(again, Dataset.FEATURES) == PATHS[:2]
    assert [path.name for path in records(again)] != []
    assert verify(Output(output.url))["damage"] == []


def test_a_log_of_a_later_version_is_refused_in_one_sentence(output: Output) -> None:
    last = records(output)[-1]
    last.write_text(json.dumps(json.loads(last.read_text()) | {"format": 99}))
    with pytest.raises(OrchardError, match=r"later version of Orchard \(format 99.*upgrade Orchard"):
        Output(output.url)


def test_rows_that_do_not_agree_are_done_again(output: Output) -> None:
    with output.writing():
        extra: Any = [output.stage(Dataset.FEATURES, rows(Dataset.FEATURES, [PATHS[0], "/photos/a/unknown.jpg"]))]
        output.commit({Dataset.FEATURES: extra})
    verdict = verify(Output(output.url))
    assert "agree about 7 images" in verdict["damage"][0]
    assert verdict["images_to_do_again"] == 1
    assert paths_of(output, Dataset.FEATURES) == paths_of(output, Dataset.INVENTORY) == sorted(PATHS[1:])


def test_an_empty_output_has_nothing_to_verify(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no results"):
        verify(Output(str(tmp_path)))
