"""What is erased leaves no trace in an output, does not come back, and what was learned from it is named."""

import gzip
import hashlib
import json
import os
import re
import shutil
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

import orchard
import orchard.layout
from orchard.cli import cli
from orchard.errors import InputError, OutputDamaged
from orchard.inference.model import Model
from orchard.layout import ERASED, INVENTORY, SUSPECT_LIST, Dataset
from orchard.output import Output
from orchard.verify import verify


@pytest.fixture
def out(trained: Path, tmp_path: Path) -> str:
    """A copy of the trained output, whose log of a run names an image."""
    shutil.copytree(trained, tmp_path / "out")
    return str(tmp_path / "out")


def traces(out: str, path: str) -> set[str]:
    """The files that hold a path, with what is packed in them."""
    found = set()
    for file in filter(Path.is_file, Path(out).rglob("*")):
        data = file.read_bytes()
        if file.suffix == ".parquet":
            data += json.dumps([row["path"] for row in pq.read_table(file).to_pylist()], ensure_ascii=False).encode()
            if "neighbours" in pq.read_schema(file).names:
                data += str(pq.read_table(file, columns=["neighbours"]).to_pylist()).encode()
        if file.suffix == ".gz":
            data = gzip.decompress(data)
        if path.encode() in data:
            found.add(str(file.relative_to(out)))
    return found


def folders(found: set[str]) -> set[str]:
    return {name.partition("/")[0] for name in found}


def content(out: str) -> dict[str, str]:
    return {str(file): hashlib.sha256(file.read_bytes()).hexdigest() for file in Path(out).rglob("*") if file.is_file()}


def chosen(out: str) -> tuple[str, str]:
    """A suspect, which the report shows, and a training image that is another one's neighbour."""
    output = Output(out)
    suspect = output.recall("review")["metrics"]["first"][0]["path"]
    near = output.read(Dataset.NEIGHBOURS, ["path", "neighbours"], orchard.layout.NEIGHBOURS).to_pylist()
    return suspect, next(row["neighbours"][0] for row in near if suspect not in (row["path"], row["neighbours"][0]))


def test_an_erased_image_leaves_no_trace_and_what_learned_from_it_is_named(out: str) -> None:
    suspect, neighbour = chosen(out)
    log = Path(out) / "logs" / "20200101T000000-abcdef" / "log-0001.jsonl"
    log.parent.mkdir(parents=True)
    log.write_text(json.dumps({"message": f"slow: {neighbour}"}) + "\n" + '{"message": "kept"}\n')
    listed = Path(out) / SUSPECT_LIST
    lines = [line.replace(",", ";") for line in listed.read_text().splitlines()]
    listed.write_text(
        "\n".join(lines[:1] + [re.sub("^([^;]*;[^;]*;[^;]*);", r"\1;Corrected", line) for line in lines[1:]])
    )
    before = content(out)
    everywhere = {"features", "inventory", "neighbours", "predictions", "reduced", "reduced_csv", "_orchard", "logs"}
    assert folders(traces(out, neighbour)) >= everywhere
    assert folders(traces(out, suspect)) >= {"review", "report.html", "metrics.json"}

    planned = orchard.erase(out, [suspect, neighbour], dry_run=True)
    assert content(out) == before
    found = orchard.erase(out, [suspect, neighbour])
    assert {**found, "erased": False} == planned
    assert (found["images"], found["unknown"], found["erased"]) == (2, [], True)
    assert found["rows"]["features"] == found["rows"]["inventory"] == found["rows"]["reduced_csv"] == 2
    assert found["neighbours_of_others"] >= 1
    assert set(found["files"]) >= {
        "metrics.json",
        "report.html",
        SUSPECT_LIST,
        "logs/20200101T000000-abcdef/log-0001.jsonl",
    }
    assert found["in_source"] == sorted([suspect, neighbour])
    model = Output(out).model_folder.split("/")[1][:12]  # type: ignore[union-attr]
    said = "\n".join(found["to_make_again"])
    assert re.search(
        f"scaler, PCA .*\nthe model {model}, .*\nfiles that orchard export made of the model {model}", said
    )

    assert not traces(out, suspect) and not traces(out, neighbour)
    assert (Path(out) / "report.html").exists() and log.read_text() == '{"message": "kept"}\n'
    assert "Corrected" in listed.read_text()
    metrics = json.loads((Path(out) / "metrics.json").read_text())
    assert metrics["images"]["listed"] == metrics["images"]["featurized"] == 2308
    verdict = verify(Output(out))
    assert verdict["damage"] == [] and verdict["images_to_do_again"] == 0
    assert Model.load(out).labels
    again = orchard.erase(out, [suspect])
    assert (again["images"], again["unknown"]) == (0, [suspect])


def test_a_later_run_leaves_it_out_and_says_so_until_it_may_come_again(spark: Any, out: str, trained: Path) -> None:
    _, path = chosen(out)
    orchard.erase(out, path)
    settings: dict[str, Any] = {"label_columns": ["colour"], "precision": "float32"}
    source = str(trained.parent / "fruits.csv")

    def listed() -> list[str]:
        orchard.extract(spark, source, out, **settings)
        found: list[str] = Output(out).read(Dataset.INVENTORY, ["path"], INVENTORY)["path"].to_pylist()
        return found

    assert path not in listed()
    warnings = json.loads((Path(out) / "metrics.json").read_text())["warnings"]
    assert any(re.match("1 image that the source still has was erased from this output", each) for each in warnings)
    assert path.encode() not in (Path(out) / ERASED).read_bytes()
    result = CliRunner().invoke(cli, ["erase", out, path, "--allow-again"])
    assert result.output == "1 images may come again\n"
    assert path in listed()


def test_all_below_a_folder_goes_and_a_copy_of_the_same_bytes_is_named(out: str) -> None:
    inventory = Output(out).read(Dataset.INVENTORY, ["path", "digest"], INVENTORY).to_pylist()
    folder = os.path.dirname(inventory[0]["path"]) + "/"  # noqa: PTH120 -- a path as it is listed
    below = [row["path"] for row in inventory if row["path"].startswith(folder)]
    found = orchard.erase(out, folder, dry_run=True)
    assert found["images"] == len(below) > 10
    assert orchard.erase(out, "/nowhere/", dry_run=True)["unknown"] == ["/nowhere/"]


def test_what_is_older_goes(out: str) -> None:
    old, new = (Path(out) / "logs" / run for run in ("20200101T000000-abcdef", "29990101T000000-abcdef"))
    for folder in (old, new):
        folder.mkdir(parents=True)
        (folder / "log-0001.jsonl").write_text("{}\n")
    found = orchard.erase(out, older_than=timedelta(days=365))
    assert (found["images"], found["files"]) == (0, ["logs/20200101T000000-abcdef/log-0001.jsonl"])
    assert not (old / "log-0001.jsonl").exists() and (new / "log-0001.jsonl").exists()
    path = Output(out).read(Dataset.INVENTORY, ["path"], INVENTORY)["path"][0].as_py()
    found = orchard.erase(out, older_than=timedelta(seconds=-60))
    assert found["images"] == 2310
    assert not traces(out, path) and not (Path(out) / SUSPECT_LIST).exists()
    assert Model.load(out).labels
    assert not (Path(out) / ERASED).exists()  # the source decides whether they come again
    assert verify(Output(out))["damage"] == []


def test_what_cannot_be_is_said(out: str, tmp_path: Path) -> None:
    for words in ([], ["a.jpg", "--older-than", "1d"], ["a.jpg", "--allow-again", "--dry-run"]):
        assert CliRunner().invoke(cli, ["erase", out, *words]).exit_code
    with pytest.raises(InputError, match="holds no results"):
        orchard.erase(str(tmp_path / "nothing"), "a.jpg", dry_run=True)
    (Path(out) / ERASED).write_text("{")
    with pytest.raises(OutputDamaged, match=r"erased\.json, which says what was erased, is damaged"):
        orchard.erase(out, "/a.jpg")


def test_a_list_that_was_saved_in_another_encoding_loses_its_lines_alone() -> None:
    from orchard.erasure import _without_suspects

    data = "path;label\n/a/é.jpg;x\n/a/b.jpg;y\n".encode("latin-1")
    assert _without_suspects(data, {"/a/b.jpg"}) == "path;label\n/a/é.jpg;x\n".encode("latin-1")
    assert _without_suspects(b"path,like\n/a/b.jpg,/c\n/c,/a/b.jpg\n", {"/a/b.jpg"}) == b"path,like\n/c,\n"
