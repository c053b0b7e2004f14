"""What is erased leaves no trace in an output, does not come back, and what was learned from it is named."""

import gzip
import hashlib
import json
import re
import shutil
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

import orchard
import orchard.layout
from orchard import erasure, models
from orchard.classification.judged import Judged, hashes
from orchard.classification.tuned_head import Head
from orchard.cli import cli
from orchard.errors import InputError, OutputDamaged, UsageError
from orchard.features.pending import find_pending
from orchard.files import parquet_bytes, part, stage_file
from orchard.images.erased import digest, without_erased
from orchard.images.sources import Listing
from orchard.inference.linear import Linear
from orchard.inference.model import Model
from orchard.layout import (
    BACKBONE,
    ERASED,
    INVENTORY,
    JUDGED,
    LABELS,
    LISTING,
    NEIGHBOURS,
    SUSPECT_LIST,
    TO_DO_AGAIN,
    Dataset,
)
from orchard.output import Output
from orchard.storage import S3Options
from orchard.verify import verify
from test_verify import IDENTITY, NETWORK, PATHS, rows

JUDGED_BY = Judged(
    Head(Linear(np.ones((2, 1), np.float32), np.zeros(2, np.float32)), ["a", "b"]),
    hashes(pa.array(PATHS[:3])),
    hashes(pa.array(PATHS[3:4])),
    np.arange(3, dtype=np.float32).reshape(1, 3, 1),
    np.zeros((1, 1), np.float32),
)
OLD_LOG = "logs/20200101T000000-abcdef/log-0001.jsonl"


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


def small(folder: Path) -> Output:
    """Eight images in every dataset, every file that names one, and a model."""
    out = Output(str(folder / "out"))
    near = [[path for path in PATHS if path != of][:3] for of in PATHS]
    neighbours = pa.table(
        {"path": PATHS, "neighbours": near, "similarities": [[0.9, 0.8, 0.7]] * len(PATHS)}, schema=NEIGHBOURS
    )
    text = "path,pc_1\n" + "".join(f'"{path}",1\n' for path in PATHS)
    first, second = PATHS[:2]
    review = {
        "first": [{"path": first, "like": None}, {"path": second, "like": first}],
        "clusters": {"largest": [[first, second]]},
    }
    with out.writing():
        csv = stage_file(
            out.storage, out.staging, part(Dataset.REDUCED_CSV, "csv.gz"), gzip.compress(text.encode()), len(PATHS)
        )
        tables = (Dataset.FEATURES, Dataset.INVENTORY, Dataset.REDUCED, Dataset.PREDICTIONS)
        out.commit(
            {
                **{dataset: [out.stage(dataset, rows(dataset, PATHS))] for dataset in tables},
                Dataset.NEIGHBOURS: [out.stage(Dataset.NEIGHBOURS, neighbours)],
                Dataset.REDUCED_CSV: [csv],
            },
            properties={
                "identity": IDENTITY,
                "listing": {"listed": len(PATHS), "warnings": [f"{first} is odd"]},
                "review": {"metrics": review},
            },
            parts={
                BACKBONE: NETWORK.to_bytes(),
                TO_DO_AGAIN: parquet_bytes(pa.table({"path": PATHS})).to_pybytes(),
                JUDGED: JUDGED_BY.to_bytes(),
            },
        )
        out.commit({}, model=out.stage_model({LABELS: b"[]"}))
        out.write(SUSPECT_LIST, f"path;label;like\n{first};x;\n{second};Mine;{first}\n".encode())
        out.write("metrics.json", first.encode())
        out.write(OLD_LOG, (json.dumps({"said": f"slow: {first}"}) + '\n{"said": "kept"}\n').encode())
    return out


def erased(out: Output, *images: str, **options: Any) -> erasure.Erasure:
    out = Output(out.url)
    with out.writing():
        return erasure.erase(out, erasure.find(out, images, S3Options(), **options))


def test_every_table_list_and_log_loses_an_image(tmp_path: Path) -> None:
    out = small(tmp_path)
    first, second = PATHS[:2]
    packed = {"features", "inventory", "neighbours", "predictions", "reduced", "reduced_csv", "_orchard"}
    assert folders(traces(out.url, first)) == packed | {"logs", "metrics.json", "review"}
    planned = erasure.find(out, [first], S3Options()).said
    before = content(out.url)
    assert content(out.url) == before

    found = erased(out, first)
    assert {**found, "erased": False} == planned
    assert found["rows"] == dict.fromkeys(sorted(packed - {"_orchard"}), 1)
    assert found["files"] == [OLD_LOG, "metrics.json", SUSPECT_LIST]
    assert found["neighbours_of_others"] == 7
    assert traces(out.url, first) == set()

    now = Output(out.url)
    assert now.storage.read(SUSPECT_LIST).decode() == f"path;label;like\n{second};Mine;\n"
    assert now.storage.read(OLD_LOG) == b'{"said": "kept"}\n'
    assert now.recall("listing") == {"listed": 7, "warnings": ["(erased) is odd"]}
    assert now.recall("review")["metrics"] == {
        "first": [{"path": second, "like": None}],
        "clusters": {"largest": [[second]]},
    }
    assert [now.rows(dataset) for dataset in (Dataset.REDUCED_CSV, Dataset.NEIGHBOURS)] == [7, 7]
    near = now.read(Dataset.NEIGHBOURS, ["neighbours", "similarities"], NEIGHBOURS).to_pylist()[0]
    assert near["similarities"] == pytest.approx([0.8, 0.7]) and near["neighbours"] == PATHS[2:4]
    judged = Judged.of(now)
    assert judged and (judged.features.tolist(), judged.held_out_features.tolist()) == ([[[1], [2]]], [[0]])
    assert hashes(pa.array(PATHS[1:4])).tolist() == [*judged.trained, *judged.held_out]
    assert now.model_folder == out.model_folder and models.current(now.storage).folder == now.model_folder
    assert verify(now)["damage"] == []
    again = erased(now, first)
    assert (again["images"], again["unknown"]) == (0, [first])


def test_all_below_a_folder_goes_and_what_is_not_there_is_told(tmp_path: Path) -> None:
    out = small(tmp_path)
    found = erased(out, "/photos/a/", "/nowhere/", "/none.jpg")
    assert (found["images"], found["unknown"], found["erased_before"]) == (4, ["/nowhere/", "/none.jpg"], [])
    assert Output(out.url).rows(Dataset.FEATURES) == 4
    assert erased(out, *PATHS)["images"] == 4
    assert erasure.find(out, ["/photos/\udce9.jpg"], S3Options()).paths == ["/photos/\\xe9.jpg"]  # as in listings
    assert verify(Output(out.url))["damage"] == []
    assert Output(out.url).files(Dataset.FEATURES)  # every reader can open it


@pytest.mark.parametrize("name", ["/photos", "/photos/a/0", "/photos/a/0.jp"])
def test_a_path_that_others_only_begin_with_changes_nothing_of_theirs(tmp_path: Path, name: str) -> None:
    out = small(tmp_path)
    assert any(path.startswith(name) for path in PATHS)
    before = {file: out.storage.read(file) for file in (OLD_LOG, SUSPECT_LIST)}
    found = erased(out, name)
    assert (found["images"], found["unknown"], found["files"]) == (0, [name], [])
    now = Output(out.url)
    assert {file: now.storage.read(file) for file in before} == before
    assert {key: now.recall(key) for key in ("listing", "review")} == {
        key: out.recall(key) for key in ("listing", "review")
    }


def test_what_has_an_age_goes_by_it(tmp_path: Path) -> None:
    out = small(tmp_path)
    ahead = OLD_LOG.replace("2020", "2099")  # a clock was
    out.storage.write(ahead, b"a log\n")
    plan = erasure.find(out, [], S3Options(), older_than=timedelta(days=365))
    assert (plan.paths, plan.said["files"]) == ([], [OLD_LOG, ahead])
    out = Output(out.url)
    with out.writing():
        plan = erasure.find(out, [], S3Options(), older_than=timedelta(seconds=-60))
        erasure.erase(out, plan, remember=False)
    assert plan.said["images"] == len(PATHS)
    assert traces(out.url, PATHS[0]) == set() and not out.storage.exists(SUSPECT_LIST)
    assert not out.storage.exists(ERASED)  # the source decides whether they come again
    assert Output(out.url).model_folder is not None


def test_later_runs_leave_it_out_and_say_so_until_it_may_come_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = small(tmp_path)
    erased(out, PATHS[0])
    assert PATHS[0].encode() not in out.storage.read(ERASED)
    nulls = {name: pa.nulls(len(PATHS), LISTING.field(name).type) for name in LISTING.names}
    listing = Listing(pa.table({**nulls, "path": PATHS}, schema=LISTING), warnings=["another"])
    left = without_erased(listing, out.storage)
    assert left.table["path"].to_pylist() == PATHS[1:]
    assert left.warnings == ["another", caplog.messages[-1]]
    assert caplog.messages[-1].startswith("1 image that the source still has was erased from this output and left out")
    with Output(out.url).writing():
        pass  # another writer does not forget it
    fresh = Output(out.url)
    with fresh.writing():
        fresh.start_over({"fresh": {}})
    assert without_erased(listing, out.storage).table.num_rows == len(PATHS) - 1
    only = Listing(listing.table.slice(0, 1))
    with pytest.raises(InputError, match=r"all 1 images that the source lists were erased .* --allow-again"):
        without_erased(only, out.storage)
    with fresh.writing():
        assert erasure.allow_again(fresh, [PATHS[0], PATHS[1]]) == 1
    assert without_erased(only, out.storage) is only
    out.storage.write(ERASED, b"{")
    with pytest.raises(OutputDamaged, match=r"erased\.json, which says what was erased, is damaged"):
        without_erased(only, out.storage)


def test_an_erased_image_that_a_version_without_erasure_took_in_again_is_told(tmp_path: Path) -> None:
    """It was said that the source does not list it, and that --prune drops it, which leaves its path in the log."""
    out = small(tmp_path)
    out.storage.write(ERASED, json.dumps({"paths": [digest(PATHS[0])]}).encode())
    nulls = {name: pa.nulls(len(PATHS), LISTING.field(name).type) for name in LISTING.names}
    listing = Listing(pa.table({**nulls, "path": PATHS, "version": ["1"] * len(PATHS)}, schema=LISTING))
    left = without_erased(listing, out.storage).table
    with pytest.raises(UsageError, match=rf"holds 1 images that were erased from it \(such as {PATHS[0]}\)"):
        find_pending(out, left, prune=False, retry_rejected=False, test_fraction=0.2, seed=1)


def test_files_of_others_beside_the_logs_of_runs_are_not_written_again(tmp_path: Path) -> None:
    out = small(tmp_path)
    for name in ("app.log", "nightly/log-0001.jsonl"):
        out.storage.write(f"logs/{name}", f"opened {PATHS[0]}\n".encode())
    found = orchard.erase(out.url, [PATHS[0]], dry_run=True)["files"]
    assert [name for name in found if name.startswith("logs/")] == [OLD_LOG]


def test_the_command_says_what_it_found_and_refuses_what_it_cannot_do(tmp_path: Path) -> None:
    out = small(tmp_path)
    said = CliRunner().invoke(cli, ["erase", out.url, PATHS[0], "--dry-run"]).output
    assert said.startswith("to erase   1 images: rows 1 of features, ")
    assert "logs/20200101T000000-abcdef/log-0001.jsonl" in said and "left       what has left this output: " in said
    assert (
        json.loads(CliRunner().invoke(cli, ["erase", out.url, PATHS[0], "--dry-run", "--json"]).output)["images"] == 1
    )
    folder = str(Path(PATHS[0]).parent)
    said = CliRunner().invoke(cli, ["erase", out.url, folder, f"{folder}x/", "--dry-run"]).output
    assert f"{folder}: no row names it; of a folder, write a slash at the end\n" in said
    assert f"{folder}x/: no row names it\n" in said
    words = ["erase", out.url, "--dry-run", PATHS[0]]
    assert CliRunner().invoke(cli, words, standalone_mode=False).return_value == 0
    assert CliRunner().invoke(cli, [*words, f"{PATHS[0]}x"], standalone_mode=False).return_value == 1
    erased(out, PATHS[0])
    again = CliRunner().invoke(cli, words, standalone_mode=False)  # as after a kill
    assert again.return_value == 0 and f"before     {PATHS[0]} was erased already\n" in again.output
    words = ["erase", out.url, "--allow-again", PATHS[0]]
    refused = CliRunner().invoke(cli, [*words, "/photos/a/"], standalone_mode=False)
    assert refused.return_value == 1 and "1 of the paths were not erased before: name each image" in refused.stderr
    assert Output(out.url).storage.read(ERASED) == b'{"paths": []}'
    erased(out, PATHS[1])
    allowed = CliRunner().invoke(cli, [*words[:-1], PATHS[1]], standalone_mode=False)
    assert (allowed.return_value, allowed.stderr) == (0, "")
    for words in ([], ["a.jpg", "--older-than", "1d"], ["a.jpg", "--allow-again", "--dry-run"], ["--older-than", "1y"]):
        assert CliRunner().invoke(cli, ["erase", out.url, *words]).exit_code
    with pytest.raises(InputError, match="holds no results"):
        orchard.erase(str(tmp_path / "nothing"), "a.jpg", dry_run=True)


@pytest.fixture
def out(trained: Path, tmp_path: Path) -> str:
    """A copy of the trained output, whose log of a run names an image."""
    shutil.copytree(trained, tmp_path / "out")
    return str(tmp_path / "out")


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
    everywhere = {"features", "inventory", "neighbours", "predictions", "reduced", "reduced_csv", "logs"}
    assert folders(traces(out, neighbour)) >= everywhere
    assert folders(traces(out, suspect)) >= {"_orchard", "review", "report.html", "metrics.json"}

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
    assert result.output == "images that may come again: 1\n"
    assert path in listed()


def test_a_list_that_was_saved_in_another_encoding_loses_its_lines_alone() -> None:
    from orchard.erasure import _without_suspects

    data = "path;label\n/a/é.jpg;x\n/a/b.jpg;y\n".encode("latin-1")
    assert _without_suspects(data, {"/a/b.jpg"}) == "path;label\n/a/é.jpg;x\n".encode("latin-1")
    assert _without_suspects(b"path,like\n/a/b.jpg,/c\n/c,/a/b.jpg\n", {"/a/b.jpg"}) == b"path,like\n/c,\n"
