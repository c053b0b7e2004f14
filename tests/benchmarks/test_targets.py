"""The script that runs the same images on each target: what it gets, waits for and prints."""

import importlib.util
import subprocess
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from conftest import REPOSITORY, S3Server

BENCHMARKS = REPOSITORY / "benchmarks"


@pytest.fixture(scope="module")
def targets() -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        spec = importlib.util.spec_from_file_location("targets", BENCHMARKS / "targets.py")
        assert spec and spec.loader
        module: ModuleType = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        yield module


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    for part in ("Training", "Test"):
        (tmp_path / "repository" / "fruits" / part / "Lemon").mkdir(parents=True)
        (tmp_path / "repository" / "fruits" / part / "Lemon" / "1.jpg").write_bytes(b"a lemon")
    return tmp_path / "repository"


def test_an_archive_and_a_repository_are_fetched_once(targets: Any, dataset: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        for path in dataset.rglob("*.jpg"):
            archive.write(path, path.relative_to(dataset))
    address = (tmp_path / "all.zip").as_uri()
    found = targets.fetch(address, tmp_path / "kept")
    assert (found / "Test" / "Lemon" / "1.jpg").read_bytes() == b"a lemon"
    (tmp_path / "all.zip").unlink()
    assert targets.fetch(address, tmp_path / "kept") == found
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@example.com", "-C", str(dataset)]
    for words in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "--message=all"]):
        subprocess.run([*git, *words], check=True)
    assert (targets.fetch(str(dataset), tmp_path / "cloned") / "Training" / "Lemon").is_dir()


def test_what_cannot_be_had_leaves_nothing_behind(targets: Any, dataset: Path, tmp_path: Path) -> None:
    for address in ((tmp_path / "none.zip").as_uri(), str(tmp_path / "nowhere.git")):
        with pytest.raises(OSError, match=r"none|nowhere|exist"):
            targets.fetch(address, tmp_path / "kept")
    with pytest.raises(OSError, match="no folders Training and Test"):
        targets.split(dataset / "fruits" / "Test")
    assert not (tmp_path / "kept").exists()


def test_a_job_is_asked_for_as_submit_says(targets: Any) -> None:
    said = "s-1 is submitted; next: orchard status s-1 --cluster-id j-1\n"
    assert targets.followed(said) == ["s-1", "--cluster-id", "j-1"]
    with pytest.raises(SystemExit, match="named no job"):
        targets.followed("")


def test_each_target_has_its_flags(targets: Any) -> None:
    given = ["emr-ec2=--cluster-id j-1", "kubernetes=--namespace a", "emr-ec2=--tags 'a=b c'"]
    assert targets.flags_of(given) == {
        "emr-ec2": ["--cluster-id", "j-1", "--tags", "a=b c"],
        "kubernetes": ["--namespace", "a"],
    }
    with pytest.raises(SystemExit, match="not TARGET=FLAGS"):
        targets.flags_of(["moon=--fast"])


def test_rows_say_what_a_run_found_and_what_the_notebooks_flow_took(targets: Any) -> None:
    metrics = {
        "images": {"featurized": 4000},
        "seconds": {"total": 20.0},
        "images_per_second": 298.0,
        "headline": {"measure": "all", "accuracy": 0.98, "accuracy_interval": [0.97, 0.99], "test_rows": 900},
    }
    made = {"usage": {"total": {"core_hours": 0.0118, "cost": 0.0008}}, "settings": {"backbone": "MobileNetV2"}}
    shown = targets.row("local", targets.figures(metrics, made, 21.24))
    assert shown[:5] == ("local", "4,000", "21.2", "20.0", "298.0")
    assert shown[5:] == ("0.0118", "0.0008", "0.980 (0.970 to 0.990)", "900 test images, all")
    unlabelled = targets.figures(metrics | {"headline": None}, made | {"usage": {"total": {"core_hours": 1}}}, 1)
    assert targets.row("local", unlabelled)[-3:] == ("-", "-", "-")
    assert {len(each) for each in (*targets.notebooks(), shown)} == {len(targets.HEADERS)}
    table = (BENCHMARKS / "README.md").read_text()
    for images, seconds, rate in targets.NOTEBOOKS:
        assert f"| {images:,} images" in table
        assert f" | {seconds} | " in table
        assert f"outputs, images/s once started | {rate} | " in table


def test_images_alone_are_copied_and_none_twice(
    targets: Any,
    dataset: Path,
    s3_server: S3Server,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server.endpoint)
    (dataset / "fruits" / "readme.md").write_text("no image")
    bucket = s3_server.bucket()
    for _ in range(2):
        targets.upload(dataset / "fruits", f"s3a://{bucket}/images")
    assert [line[0] for line in capsys.readouterr().out.splitlines()] == ["2", "0"]
    copied = s3_server.root / bucket / "images"
    assert {str(path.relative_to(copied)) for path in copied.rglob("*.*")} == {
        "Training/Lemon/1.jpg",
        "Test/Lemon/1.jpg",
    }
