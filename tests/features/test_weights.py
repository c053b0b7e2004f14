import os
import shutil
import stat
from pathlib import Path

import h5py
import numpy as np
import pytest

from conftest import S3Server
from orchard.errors import UsageError, WeightsUnavailable
from orchard.features.backbones import find
from orchard.features.conversion import build_artifact
from orchard.features.weights import brought, locate
from orchard.storage import S3Options, open_storage

WITHOUT_TOP = "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_0.35_224_no_top.h5"


@pytest.fixture
def empty_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home without Keras' files and a network without a way out."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for proxy in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(proxy, "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    return tmp_path


def test_weights_that_cannot_be_had_name_three_ways_out_and_leave_nothing_behind(empty_home: Path) -> None:
    with pytest.raises(WeightsUnavailable) as caught:
        build_artifact(find("MobileNetV2"), alpha=0.5)
    text = str(caught.value)
    assert "KERAS_HOME" in text and "--weights FILE" in text and "--backbone EfficientNetLite0" in text
    assert "MobileNetV2" in text and "\n" not in text
    # Keras writes its keras.json, whatever becomes of the download.
    assert [path.name for path in empty_home.rglob("*") if path.is_file()] == ["keras.json"]


def test_a_keras_home_that_cannot_be_written_to_is_still_looked_into(
    keras_home: Path, empty_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = empty_home / "keras-home"
    shutil.copytree(keras_home, home)
    (home / "models").chmod(stat.S_IRUSR | stat.S_IXUSR)
    monkeypatch.setenv("KERAS_HOME", str(home))
    try:
        artifact = build_artifact(find("MobileNetV2"), alpha=0.35)
    finally:
        (home / "models").chmod(stat.S_IRWXU)
    assert artifact.n_features == 1280
    assert artifact.alpha == 0.35
    assert artifact.weights_digest == locate(find("MobileNetV2"), str(home / "models" / WITHOUT_TOP)).digest()


def test_the_default_keras_home_is_looked_into_when_keras_home_lacks_the_file(
    keras_home: Path, empty_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(keras_home / "models", empty_home / ".keras" / "models")
    monkeypatch.setenv("KERAS_HOME", str(empty_home / "nowhere"))
    found = locate(find("MobileNetV2").with_alpha(0.35), "imagenet")
    assert found.path == empty_home / ".keras" / "models" / WITHOUT_TOP


def test_weights_from_a_file_are_the_same_as_by_name(keras_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    by_file = build_artifact(find("MobileNetV2"), alpha=0.35, weights=str(keras_home / "models" / WITHOUT_TOP))
    monkeypatch.setenv("KERAS_HOME", str(keras_home))
    by_name = build_artifact(find("MobileNetV2"), alpha=0.35)
    assert by_file.fingerprint() == by_name.fingerprint()
    assert by_file.parameters == by_name.parameters


def test_a_file_of_another_width_or_backbone_does_not_fit(keras_home: Path) -> None:
    with pytest.raises(UsageError, match="do not fit MobileNetV2"):
        build_artifact(find("MobileNetV2"), alpha=0.5, weights=str(keras_home / "models" / WITHOUT_TOP))
    with pytest.raises(UsageError, match="do not fit EfficientNetLite0"):
        build_artifact(find("EfficientNetLite0"), weights=str(keras_home / "models" / WITHOUT_TOP))


def test_a_file_that_is_no_file_of_weights_is_refused(tmp_path: Path) -> None:
    (tmp_path / "broken.h5").write_bytes(b"<html>not found</html>")
    with h5py.File(tmp_path / "empty.h5", "w"):
        pass
    with h5py.File(tmp_path / "whole.h5", "w") as file:
        file["weights"] = np.zeros(10_000)
    (tmp_path / "cut off.h5").write_bytes((tmp_path / "whole.h5").read_bytes()[:10_000])
    for name in ("broken.h5", "empty.h5", "cut off.h5"):
        with pytest.raises(UsageError, match=f"{name} do not fit MobileNetV3Small"):
            build_artifact(find("MobileNetV3Small"), weights=str(tmp_path / name))


def test_a_file_that_cannot_be_a_file_of_weights_is_refused_before_anything_is_built(tmp_path: Path) -> None:
    backbone = find("MobileNetV2")
    with pytest.raises(UsageError, match="no such file"):
        locate(backbone, str(tmp_path / "missing.h5"))
    (tmp_path / "notes.txt").touch()
    with pytest.raises(UsageError, match="ends in"):
        locate(backbone, str(tmp_path / "notes.txt"))
    if os.geteuid() != 0:
        (tmp_path / "secret.h5").touch(mode=0)
        with pytest.raises(UsageError, match="cannot be read"):
            locate(backbone, str(tmp_path / "secret.h5"))


def test_random_weights_are_the_same_every_time_and_others_for_another_seed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def parameters(cache: str, seed: int) -> bytes:
        monkeypatch.setenv("ORCHARD_CACHE", str(tmp_path / cache))  # so that nothing comes out of a cache
        return build_artifact(find("MobileNetV3Small"), weights="random", alpha=0.75, seed=seed).parameters

    first = parameters("a", 1)
    assert parameters("b", 1) == first
    assert not np.array_equal(np.frombuffer(parameters("c", 2), "u1"), np.frombuffer(first, "u1"))


def test_weights_in_a_bucket_are_brought_here(
    s3_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (s3_server.root / "weights").mkdir(exist_ok=True)
    s3 = S3Options(s3_server.endpoint, "us-east-1")
    network, content = find("MobileNetV2").with_alpha(0.35), b"weights as they are"
    open_storage("s3a://weights", s3).write(f"home/models/{WITHOUT_TOP}", content)
    file = brought(network, f"s3a://weights/home/models/{WITHOUT_TOP}", s3)
    path = locate(network, file).path
    assert path is not None and path.read_bytes() == content
    with pytest.raises(UsageError, match="there is no such object"):
        brought(network, "s3a://weights/none.h5", s3)
    # A Keras home in a bucket: by name, as from any other.
    monkeypatch.setenv("KERAS_HOME", "s3a://weights/home")
    assert brought(network, "imagenet", s3) == "imagenet"
    found = locate(network, "imagenet")
    assert found.path is not None
    assert (found.description, found.path.read_bytes()) == ("imagenet", content)
    # What it lacks is looked for where else it may be.
    monkeypatch.setenv("KERAS_HOME", "s3a://weights/elsewhere")
    assert brought(network, "imagenet", s3) == "imagenet"
    assert locate(network, "imagenet").path is None
