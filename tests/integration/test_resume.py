"""A second start does what is left to do, once, and nothing else."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from orchard import runlog
from orchard.classification import stage as classification
from orchard.errors import ClusterError, InputError, OutputDamaged, SettingsChanged, StorageError, UsageError
from orchard.features.worker import Job, Task, TaskReport, featurize
from orchard.inference.model import Model
from orchard.output import Output
from orchard.pipeline import Pipeline
from orchard.report import stage as reporting
from orchard.settings import load
from orchard.storage import S3Options
from orchard.verify import verify
from results import assert_same_results

from .conftest import Result, paint

Run = Callable[..., Result]


def test_an_unchanged_input_is_left_alone(run: Run, painted: Path) -> None:
    first = run(painted, classifiers="linear_discriminant")
    files = {path: path.stat().st_mtime_ns for path in first.folder.rglob("*.parquet")}
    commits = sorted((first.folder / "_orchard" / "commits").iterdir())
    report = (first.folder / "report.html").stat().st_mtime_ns
    started = time.monotonic()
    second = run(painted, classifiers="linear_discriminant")
    assert time.monotonic() - started < 5
    assert first.metrics["images"]["decoded"] == 90
    assert second.metrics["images"]["decoded"] == 0
    assert {path: path.stat().st_mtime_ns for path in second.folder.rglob("*.parquet")} == files
    assert (second.folder / "report.html").stat().st_mtime_ns == report
    assert sorted((second.folder / "_orchard" / "commits").iterdir()) == commits
    assert second.metrics["classifiers"] == first.metrics["classifiers"]


def test_new_images_are_added_and_only_they_are_decoded(run: Run, photos: Path) -> None:
    before = run(photos).features()
    paint(photos / "Training" / "Lemon #2" / "new.jpg", (230, 210, 40), 999)
    after = run(photos)
    after.assert_adds_up(91)
    assert after.metrics["images"]["decoded"] == 1
    assert after.metrics["pca"]["train_rows"] == 73
    features = after.features()
    assert {path: features[path] for path in before} == before


def test_a_replaced_image_is_computed_again(run: Run, photos: Path) -> None:
    before = run(photos).features()
    path = photos / "Training" / "Lemon #2" / "+frame 1.jpg"
    paint(path, (0, 0, 0), 7)
    after = run(photos)
    after.assert_adds_up(90)
    assert after.metrics["images"]["decoded"] == 1
    changed = [name for name, features in after.features().items() if features != before[name]]
    assert changed == [str(path)]


def test_of_a_manifest_what_changed_is_done_again_and_nothing_else(run: Run, photos: Path) -> None:
    rows = {
        path: [path.parent.name, "test" if path.parent.parent.name == "Test" else "train"]
        for path in sorted(photos.glob("*/*/*.jpg"))
    }
    manifest = photos / "list.csv"

    def write() -> None:
        lines = [f'"{path.relative_to(photos)}","{label}",{split}' for path, (label, split) in rows.items()]
        manifest.write_text("\n".join(["path,label,split", *lines, "gone.jpg,Lemon #2,train", ""]))

    settings = {"classifiers": "linear_discriminant"}
    write()
    first = run(manifest, **settings)
    first.assert_adds_up(91)
    before = first.features()
    assert [row["reason"] for row in first.table("rejected").to_pylist()] == ["unreadable"]
    assert run(manifest, **settings).metrics["images"]["decoded"] == 0

    relabelled, moved, replaced = list(rows)[20], list(rows)[50], list(rows)[80]
    rows[relabelled][0] = "_Plum 50%" if rows[relabelled][0] != "_Plum 50%" else "Lemon #2"
    rows[moved][1] = "test"
    paint(replaced, (0, 0, 0), 7)
    write()
    again = run(manifest, **settings)
    again.assert_adds_up(91)
    assert again.metrics["images"]["decoded"] == 1, "the one that was replaced"
    after = again.features()
    assert [path for path in after if after[path] != before[path]] == [str(replaced)]
    for dataset in ("features", "reduced", "inventory", "predictions"):
        found = {row["path"]: row for row in again.table(dataset).to_pylist()}
        for path, (label, split) in rows.items():
            assert (found[str(path)]["label"], found[str(path)]["split"]) == (label, split)
    assert again.metrics["pca"]["train_rows"] == 71
    assert again.metrics["classifiers"]["linear_discriminant"]["test_rows"] == 19
    assert run(manifest, **settings).metrics["images"]["decoded"] == 0

    paint(photos / "gone.jpg", (230, 210, 40), 1)
    back = run(manifest)
    back.assert_adds_up(91)
    assert (back.metrics["images"]["decoded"], back.metrics["images"]["rejected"]) == (1, 0)


def test_results_inside_the_source_are_no_images(run: Run, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(photos)
    (photos / "again").symlink_to(".")
    for decoded in (90, 0):
        inside = run(".", output="photos/out")
        inside.assert_adds_up(90)
        assert inside.metrics["images"]["decoded"] == decoded
    run(".", output="elsewhere").assert_adds_up(90)  # neither are those of others
    with pytest.raises(UsageError, match="is where the images are"):
        run(photos, output="photos")
    assert not (photos / "_orchard").exists()


def test_a_layout_that_may_not_be_meant_and_twins_of_two_labels_are_said(run: Run, tmp_path: Path) -> None:
    for number, place in enumerate(["Red/Apple", "Green/Apple", "Green/Pear"] * 2):
        paint(tmp_path / "photos" / place / f"{number}.jpg", (160, 20, 40), number % 3)  # the second three are twins
    (tmp_path / "photos/Red/Apple/2.jpg").write_bytes((tmp_path / "photos/Green/Pear/2.jpg").read_bytes())
    result = run(tmp_path / "photos")
    result.assert_adds_up(7)
    warnings = " ".join(result.metrics["warnings"])
    assert "2 folders became one label 'Apple': Green/Apple, Red/Apple; --label-level 2" in warnings
    assert "3 images have the same bytes as one of another label" in warnings
    assert result.metrics["conflicts"]["images"] == 3
    page = (result.folder / "report.html").read_text()
    assert "became one label" in page and "another label" in page
    deeper = run(tmp_path / "photos", label_level=2)
    deeper.assert_adds_up(7)
    assert set(deeper.metrics["labels"]) == {"Green/Apple", "Green/Pear", "Red/Apple"}
    assert deeper.metrics["images"]["decoded"] == 0
    assert "became one label" not in " ".join(deeper.metrics["warnings"])


def test_a_mended_image_leaves_the_quarantine(run: Run, photos: Path) -> None:
    path = photos / "Training" / "Lemon #2" / "broken.jpg"
    path.write_text("<html>")
    assert run(photos).metrics["images"]["rejected"] == 1
    paint(path, (230, 210, 40), 3)
    mended = run(photos)
    mended.assert_adds_up(91)
    assert mended.metrics["images"]["rejected"] == 0


def test_rejected_images_are_tried_again_on_request(run: Run, photos: Path) -> None:
    assert run(photos, max_pixels=100).metrics["images"]["rejected"] == 90
    assert run(photos).metrics["images"]["decoded"] == 0
    again = run(photos, retry_rejected=True)
    again.assert_adds_up(90)
    assert again.metrics["images"]["rejected"] == 0


def test_images_that_are_gone_are_refused_and_pruned_on_request(run: Run, photos: Path) -> None:
    run(photos)
    for image in sorted((photos / "Training" / "Lemon #2").iterdir())[:4]:
        image.unlink()
    with pytest.raises(UsageError, match=r"4 images.*--prune"):
        run(photos)
    pruned = run(photos, prune=True)
    pruned.assert_adds_up(86)
    assert pruned.metrics["images"]["decoded"] == 0
    assert pruned.metrics["pca"]["train_rows"] == 68


@pytest.mark.parametrize(
    "changed",
    [
        {"backbone": "MobileNetV2", "weights": "random"},
        {"weights": "random"},
        {"engine": "tensorflow"},
        {"fit": "pad"},
        {"test_views": "3"},
    ],
)
def test_settings_that_would_mix_features_are_refused(run: Run, photos: Path, changed: dict[str, str]) -> None:
    first = run(photos, limit=6)
    with pytest.raises(SettingsChanged, match="--fresh"):
        run(photos, **changed)
    assert run(photos, limit=6).features() == first.features()


def test_fresh_starts_over(run: Run, photos: Path) -> None:
    run(photos, limit=30)
    again = run(photos, limit=9, fresh=True, weights="random")
    again.assert_adds_up(9)
    assert again.metrics["images"]["decoded"] == 9


def test_drivers_of_one_job_start_over_once(run: Run, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(photos, limit=30)
    monkeypatch.setenv("ORCHARD_JOB_UID", "one")
    assert run(photos, limit=30, fresh=True).metrics["images"]["decoded"] == 30
    assert run(photos, limit=30, fresh=True).metrics["images"]["decoded"] == 0
    monkeypatch.setenv("ORCHARD_JOB_UID", "another")
    assert run(photos, limit=30, fresh=True).metrics["images"]["decoded"] == 30


def test_the_first_driver_of_a_job_starts_over_an_output_that_was_empty(
    run: Run, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ORCHARD_JOB_UID", "one")
    assert run(photos, limit=30, fresh=True).metrics["images"]["decoded"] == 30
    assert run(photos, limit=30, fresh=True).metrics["images"]["decoded"] == 0


def test_fresh_keeps_what_is_there_when_the_source_is_missing(run: Run, photos: Path) -> None:
    before = run(photos, limit=6).features()
    with pytest.raises(InputError):
        run(photos / "nowhere", fresh=True)
    assert run(photos, limit=6).features() == before


def test_other_reduction_settings_reuse_the_features(run: Run, painted: Path) -> None:
    run(painted)
    other = run(painted, components=5)
    assert other.metrics["images"]["decoded"] == 0
    assert other.metrics["pca"]["k"] == 5
    assert {len(row) for row in other.table("reduced")["pca_features"].to_pylist()} == {5}


def _start(source: Path, output: Path, *flags: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "orchard", "run", str(source), "--output", str(output), *flags]
    return subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True)


def _wait_for(condition: Callable[[], Any], process: subprocess.Popen[str]) -> None:
    for _ in range(1200):
        if condition():
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    raise AssertionError("waited in vain")


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """1,500 images: enough for several commits."""
    folder = tmp_path_factory.mktemp("many")
    for number in range(60):
        paint(folder / "source" / f"{number}.jpg", (number * 4, 90, 40), number)
    for number in range(1500):
        target = folder / "many" / f"label {number % 10}" / f"{number}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder / "source" / f"{number % 60}.jpg", target)
    return folder / "many"


def test_a_killed_run_is_resumed_where_it_stopped(run: Run, many: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = _start(many, out)
    _wait_for(lambda: list(out.glob("features/*.parquet")), process)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    every = {"variance": 0.9, "classifiers": "linear_discriminant,logistic_regression,random_forest"}
    resumed = run(many, **every)
    resumed.assert_adds_up(1500)
    assert 0 < resumed.metrics["images"]["decoded"] < 1500
    whole = run(many, "whole", **every)
    assert_same_results(resumed.folder, whole.folder)


def test_an_interrupted_run_exits_with_130_and_keeps_what_was_committed(many: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = _start(many, out)
    _wait_for(lambda: list(out.glob("features/*.parquet")), process)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "start again to go on" in errors
    assert "Traceback" not in errors
    assert list(out.glob("features/*.parquet"))
    assert not [path for path in (out / "_orchard" / "staging").rglob("*") if path.is_file()]


def test_what_had_finished_before_an_error_is_committed(
    run: Run, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def last_fails(job: Job, task: Task) -> TaskReport:
        if task.number < 2:
            return featurize(job, task)
        while len(list(Path(job.storage.url, job.staging, "inventory").glob("*"))) < 2:
            time.sleep(0.05)
        time.sleep(0.3)  # four times: the reports of the other two are on their way
        raise StorageError("The storage is gone: bring it back.")

    monkeypatch.setattr("orchard.features.extraction.featurize", last_fails)
    with pytest.raises(StorageError, match=r"^The storage is gone: bring it back\.$"):
        run(photos)
    monkeypatch.undo()
    resumed = run(photos)
    resumed.assert_adds_up(90)
    assert resumed.metrics["images"]["decoded"] == 90 - 64


def test_workers_that_die_cost_a_retry_and_no_row(many: Path, tmp_path: Path, run: Run) -> None:
    out = tmp_path / "out"
    process = _start(many, out, "--master", "local[2]", "--components", "4", "--classifiers", "")

    def workers() -> list[int]:
        """This run's worker processes."""
        listing = subprocess.run(["ps", "-eo", "pid,ppid,args"], capture_output=True, text=True, check=True).stdout
        lines = [line.split(maxsplit=2) for line in listing.splitlines()[1:]]
        return [int(pid) for pid, parent, args in lines if int(parent) == process.pid and "orchard.processes" in args]

    _wait_for(lambda: list(out.glob("features/*.parquet")), process)
    killed = 0
    for pid in workers()[:1]:
        os.kill(pid, signal.SIGKILL)
        killed += 1
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert killed == 1
    result = run(many, components=4)  # nothing is left to do
    assert result.metrics["images"]["decoded"] == 0
    result.assert_adds_up(1500)


def test_a_fresh_start_that_was_cut_off_goes_on(many: Path, tmp_path: Path) -> None:
    """As a cluster does that tries a job again with the same arguments, and has no name for the job."""
    out = tmp_path / "out"
    process = _start(many, out, "--fresh", "--components", "4", "--classifiers", "")
    _wait_for(lambda: list(out.glob("inventory/*.parquet")), process)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    kept = pq.read_table(out / "inventory").num_rows
    flags = ["--fresh", "--components", "4", "--classifiers", "", "--json"]
    second = _start(many, out, *flags)
    result, errors = second.communicate(timeout=300)
    assert second.returncode == 0, errors
    decoded = json.loads(result)["metrics"]["images"]["decoded"]
    assert 0 < decoded <= 1500 - kept
    # Its progress is that of the whole, and counts what is committed.
    said = [json.loads(text) for text in runlog.lines(str(out), S3Options())]
    started, *_, finished = [line for line in said if line.get("stage") == "extract"]
    assert (started["done"], started["total"]) == (1500 - decoded, 1500)
    assert (finished["event"], finished["done"]) == ("finished", 1500)
    Result(out, json.loads((out / "metrics.json").read_text())).assert_adds_up(1500)


def test_a_report_is_written_again_on_request_and_after_an_upgrade(
    run: Run, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = run(photos).folder / "report.html"
    page.write_text("old")
    run(photos)
    assert page.read_text() == "old"  # nothing has changed
    with Pipeline(str(page.parent), load({"classifiers": ""}), must_exist=True) as pipeline:
        pipeline.report(again=True)
    assert "<svg" in page.read_text()
    page.write_text("old")
    monkeypatch.setattr(reporting, "version", lambda: "another")
    run(photos)
    assert "<svg" in page.read_text()


def test_a_model_never_mixes_two_runs(run: Run, photos: Path, spark: Any) -> None:
    """Other components, a new class, another classifier: an answer from one run's parts, or what to run."""
    linear = {"classifiers": "linear_discriminant"}
    folder = str(run(photos, components=8, **linear).folder)
    first = Model.load(folder)
    assert len(first.labels) == 3
    for frame in range(5):
        paint(photos / "Training" / "Kiwi" / f"{frame}.jpg", (90, 160, 40), 500 + frame)
        paint(photos / "Test" / "Kiwi" / f"{frame}.jpg", (90, 160, 40), 600 + frame)
    with Pipeline(folder, load({"components": 8}), spark) as pipeline:
        pipeline.extract(str(photos))
    assert Model.load(folder).digest == first.digest  # the model of before, whole
    run(photos, components=8, classifiers="random_forest")
    with pytest.raises(InputError, match=r"has no linear classifier.*orchard classify"):
        Model.load(folder)
    run(photos, components=5, **linear)
    assert "Kiwi" in Model.load(folder).labels
    shutil.rmtree(photos / "Training" / "Kiwi")
    shutil.rmtree(photos / "Test" / "Kiwi")
    run(photos, components=5, prune=True, **linear)
    assert Model.load(folder).labels == first.labels


def test_a_classifier_that_fails_costs_no_other_one(run: Run, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    all_of_them = {"classifiers": "linear_discriminant,logistic_regression,random_forest", "components": 4}
    trained: list[str] = []
    do = classification._do

    def failing(spark: Any, output: Any, classifier: Any, *args: Any, **options: Any) -> Any:
        trained.append(str(classifier))
        if classifier == "random_forest" and trained.count("random_forest") == 1:
            raise ClusterError("out of memory")
        return do(spark, output, classifier, *args, **options)

    monkeypatch.setattr(classification, "_do", failing)
    with pytest.raises(ClusterError):
        run(photos, **all_of_them)
    folder = photos.parent / "out"
    first = Model.load(str(folder))
    assert len(first.labels) == 3
    again = run(photos, **all_of_them)
    assert trained == ["linear_discriminant", "logistic_regression", "random_forest", "random_forest"]
    assert list(again.metrics["classifiers"]) == ["linear_discriminant", "logistic_regression", "random_forest"]
    names = again.table("predictions")["classifier"].to_pylist()
    assert len(names) == 270 and set(names) == set(again.metrics["classifiers"])
    assert verify(Output(str(folder)))["damage"] == []
    assert Model.load(str(folder)).digest == first.digest, "whoever answered goes on answering"


@pytest.mark.parametrize("part", ["statistics.npz", "reduction.npz"])
def test_a_part_that_is_damaged_is_made_again_from_the_features(run: Run, painted: Path, part: str) -> None:
    settings = {"classifiers": "linear_discriminant", "components": 4}
    first = run(painted, **settings)
    before = Model.load(str(first.folder))
    (damaged,) = (first.folder / "_orchard" / "parts").rglob(part)
    damaged.write_bytes(damaged.read_bytes()[:-50])
    assert part in " ".join(verify(Output(str(first.folder)))["damage"])
    again = run(painted, **settings)
    assert again.metrics["images"]["decoded"] == 0
    assert verify(Output(str(first.folder)))["damage"] == []
    np.testing.assert_allclose(Model.load(str(first.folder)).weights, before.weights, rtol=1e-3, atol=1e-4)


def test_a_damaged_file_is_named_and_what_it_held_is_featurized_again(run: Run, photos: Path) -> None:
    first = run(photos)
    features = first.features()
    file = sorted((first.folder / "features").iterdir())[0]
    lost = pq.read_table(file).num_rows
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(OutputDamaged, match=rf"{file.name} is damaged.*orchard verify"):
        run(photos)
    verdict = verify(Output(str(first.folder)))
    assert verdict["images_to_do_again"] == lost
    again = run(photos)
    again.assert_adds_up(90)
    assert again.metrics["images"]["decoded"] == lost
    assert again.features() == features
