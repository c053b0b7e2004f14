"""EMR on EC2: what a node installs, by the script that it runs, and what its steps are called with."""

import hashlib
import importlib.util
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from types import ModuleType
from typing import Any

import boto3
import pytest
from moto import mock_aws

from conftest import REPOSITORY

EMR = REPOSITORY / "emr"
MAIN = REPOSITORY / "docker" / "main.py"


@pytest.fixture(scope="module")
def bundling() -> ModuleType:
    spec = importlib.util.spec_from_file_location("bundle", EMR / "bundle.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def bundle(bundling: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Orchard's own wheel, and no dependency, so that no index is asked."""
    folder = tmp_path_factory.mktemp("bundle")
    (folder / "lock").write_text("")
    wheel = ["wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(REPOSITORY)]
    subprocess.run([sys.executable, "-m", "pip", "--quiet", *wheel], check=True)
    (own,) = folder.glob("*.whl")
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    made: Path = bundling.make(folder, folder / "lock", version, own)
    assert made.read_bytes() == bundling.make(folder / "again", folder / "lock", version, own).read_bytes()
    return made


def bootstrap(tmp_path: Path, bundle: Path, digest: str) -> subprocess.CompletedProcess[str]:
    """Run the bootstrap script where `aws s3 cp` is a copy of a file."""
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "aws").write_text('#!/bin/sh\nexec cp "$4" "$5"\n')
    (tools / "aws").chmod(0o755)
    path = f"{tools}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {"PATH": path, "ORCHARD_HOME": str(tmp_path / "home"), "HOME": str(tmp_path)}
    command = [str(EMR / "bootstrap.sh"), str(bundle), digest]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_a_node_installs_the_bundle_without_an_index(tmp_path: Path, bundle: Path) -> None:
    done = bootstrap(tmp_path, bundle, hashlib.sha256(bundle.read_bytes()).hexdigest())
    assert done.returncode == 0, done.stderr
    home = tmp_path / "home"
    where = "import orchard; print(orchard.__path__[0])"
    found = subprocess.run([home / "bin" / "python", "-Ic", where], capture_output=True, text=True, check=True)
    assert found.stdout.startswith(str(home))
    assert (home / "main.py").read_text() == MAIN.read_text()


def test_a_bundle_that_is_not_the_one_submitted_is_refused(tmp_path: Path, bundle: Path) -> None:
    done = bootstrap(tmp_path, bundle, "0" * 64)
    assert done.returncode == 1
    assert "is not what was submitted" in done.stderr
    assert not (tmp_path / "home").exists()


def test_the_bundle_holds_what_a_step_begins_with(bundle: Path) -> None:
    with tarfile.open(bundle) as tar:
        assert {"main.py", "python-version"} < set(tar.getnames())


@pytest.mark.parametrize(("python", "scipy"), [("3.11", "1.17.1"), ("3.12", "1.18.1")])
def test_a_bundle_is_made_for_the_nodes_whatever_makes_it(bundling: Any, python: str, scipy: str) -> None:
    """The bundle's Python and machine decide which of a package's versions are in it, not those of who runs pip."""
    lock = (REPOSITORY / "docker" / "requirements.lock").read_text()
    kept = bundling.for_nodes(lock, python)
    pinned = dict(line.rstrip("\\ ").split("==") for line in kept.splitlines() if "==" in line)
    assert pinned["scipy"] == scipy
    assert {"keras", "tensorflow-cpu"} < pinned.keys()
    assert not {"pyspark", "py4j", "tensorflow"} & pinned.keys()
    assert " ; " not in kept
    assert all(f"\n{name}==" in lock for name in ("pyspark", "py4j", "tensorflow"))


def test_the_bundle_goes_to_s3_with_its_script(bundling: Any, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    with mock_aws():
        client = boto3.client("s3", region_name="us-east-1")
        client.create_bucket(Bucket="orchard")
        bundling.upload("s3://orchard/emr/", [bundle, *(EMR / name for name in bundling.FILES)])
        keys = {each["Key"] for each in client.list_objects_v2(Bucket="orchard")["Contents"]}
    assert keys == {f"emr/{bundle.name}", "emr/bootstrap.sh", "emr/configuration.json"}


def test_spark_works_with_what_the_script_installs() -> None:
    configuration = {each["Classification"]: each for each in json.loads((EMR / "configuration.json").read_text())}
    spark = configuration["spark-defaults"]["Properties"]
    (exported,) = configuration["spark-env"]["Configurations"]
    assert spark["spark.pyspark.python"] == exported["Properties"]["PYSPARK_PYTHON"] == "/opt/orchard/bin/python"
    assert "home=${ORCHARD_HOME:-/opt/orchard}" in (EMR / "bootstrap.sh").read_text()


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--data_source", "/nowhere/photos", "--output_uri", "/nowhere/out", "--limit", "5"], 3, "/nowhere/photos"),
        (["--data_source", "/nowhere/photos"], 2, "need each other"),
    ],
)
def test_steps_name_source_and_output_as_they_did(words: list[str], code: int, said: str) -> None:
    done = subprocess.run([sys.executable, MAIN, *words], capture_output=True, text=True, check=False)
    assert (done.returncode, said in done.stderr) == (code, True), done.stderr
