import hashlib
import json
import os
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from orchard.errors import OrchardError
from orchard.features.artifact import Artifact, EngineName, Precision
from orchard.features.backbones import find
from orchard.features.conversion import build_artifact, cache_folder, start_build
from orchard.vocabulary import Fit

LITE = find("EfficientNetLite0")


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ORCHARD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_the_second_build_comes_out_of_the_cache(own_cache: Path) -> None:
    first = build_artifact(LITE)
    assert len(list(own_cache.iterdir())) == 1
    build = start_build(LITE, precision=Precision.BFLOAT16)
    assert build._process is None, "nothing is built"
    assert build.result() == replace(first, precision=Precision.BFLOAT16)


def test_a_damaged_cache_entry_is_built_again(own_cache: Path) -> None:
    artifact = build_artifact(find("MobileNetV3Small"), weights="random")
    (entry,) = own_cache.iterdir()
    good = entry.read_bytes()
    for damaged in (good[:1000], good[:-1] + bytes([good[-1] ^ 1])):
        entry.write_bytes(damaged)
        assert build_artifact(find("MobileNetV3Small"), weights="random") == artifact
        assert entry.read_bytes() == good


def test_other_settings_have_another_entry_and_another_fingerprint(own_cache: Path) -> None:
    small = find("MobileNetV3Small")
    artifacts = [
        build_artifact(small, weights="random"),
        build_artifact(small, weights="random", seed=1),
        build_artifact(small, weights="random", alpha=0.75),
        build_artifact(small, weights="random", precision=Precision.BFLOAT16),
    ]
    artifacts.append(replace(artifacts[0], engine=EngineName.TENSORFLOW))
    assert len({artifact.fingerprint() for artifact in artifacts}) == 5
    assert len(list(own_cache.iterdir())) == 3  # one file serves both precisions


@pytest.mark.usefixtures("own_cache")
def test_a_network_of_before_there_was_a_choice_stretches_and_keeps_its_fingerprint() -> None:
    artifact = build_artifact(find("MobileNetV3Small"), weights="random")
    line, _, payload = artifact.to_bytes().partition(b"\n")
    header = json.loads(line)
    del header["fit"]
    before = Artifact.from_bytes(json.dumps(header).encode() + b"\n" + payload)
    assert before == artifact and before.fit is Fit.STRETCH
    # What 0.1.0 made of these settings.
    settings = (
        f"version=1 backbone=MobileNetV3Small alpha=1.0 size=224 engine=openvino precision=float32 "
        f"weights={artifact.weights_digest}"
    )
    assert before.fingerprint() == hashlib.blake2b(settings.encode(), digest_size=16).hexdigest()
    padding = replace(artifact, fit=Fit.PAD)
    assert Artifact.from_bytes(padding.to_bytes()) == padding
    assert padding.fingerprint() != artifact.fingerprint()


def test_a_cache_that_cannot_be_written_to_costs_time_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()  # not even root writes below a file
    monkeypatch.setenv("ORCHARD_CACHE", str(tmp_path / "file" / "cache"))
    assert build_artifact(find("MobileNetV3Small"), weights="random").n_features == 576


def test_the_cache_lies_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("ORCHARD_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "orchard"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "orchard"


def test_an_artifact_travels_by_pickle() -> None:
    artifact = build_artifact(LITE)
    assert pickle.loads(pickle.dumps(artifact)) == artifact  # noqa: S301 - our own bytes
    assert artifact.topology[:20] not in repr(artifact).encode()  # nor does it flood a log


@pytest.mark.usefixtures("own_cache")
def test_starting_a_build_does_not_wait_for_it() -> None:
    build = start_build(LITE)
    assert build._process is not None and build._process.poll() is None, "it is at work"
    assert build.result() is build.result()


@pytest.mark.usefixtures("own_cache")
def test_a_cancelled_build_leaves_no_process_and_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    build = start_build(LITE)
    build.cancel()
    assert build._process is not None and build._process.poll() is not None
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.usefixtures("own_cache")
def test_a_build_that_breaks_off_says_so_in_one_sentence() -> None:
    build = start_build(LITE)
    assert build._process is not None
    build._process.kill()
    with pytest.raises(OrchardError, match="Building EfficientNetLite0 broke off with code -9"):
        build.result()


def test_the_driver_imports_neither_keras_nor_tensorflow() -> None:
    script = (
        "import sys; from orchard.features.conversion import *; from orchard.features.backbones import find;"
        "build_artifact(find('EfficientNetLite0'));"
        "assert not {'keras', 'tensorflow', 'openvino'} & set(sys.modules), sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True, env=dict(os.environ))


@pytest.mark.usefixtures("own_cache")
def test_a_keras_home_with_other_conventions_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "keras.json").write_text('{"image_data_format": "channels_first", "floatx": "float16", "backend": "jax"}')
    usual = build_artifact(LITE)
    monkeypatch.setenv("KERAS_HOME", str(home))
    monkeypatch.setenv("ORCHARD_CACHE", str(tmp_path / "other"))
    assert build_artifact(LITE) == usual
