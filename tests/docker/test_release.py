"""A release can be had from any registry: image, chart, and how they came about. It is Debian's, on loopback."""

import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from orchard.version import VERSION

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).resolve().parents[2]
DOCKER = os.environ.get("DOCKER") or ("/usr/bin/docker" if Path("/usr/bin/docker").exists() else "docker")
BILL = b'{"bomFormat": "CycloneDX", "components": []}'
REVISION = "1" * 40
CONFIG = """
version: 0.1
log: {level: error}
storage: {filesystem: {rootdirectory: %s}}
http: {addr: "127.0.0.1:%d"}
"""


def _release_module() -> ModuleType:
    spec = importlib.util.spec_from_file_location("release", ROOT / "docker" / "release.py")
    assert spec and spec.loader
    sys.modules["release"] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


release = _release_module()


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A new registry, as host and path; the tools are on the PATH."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("PATH", f"{ROOT / '.tools' / 'bin'}{os.pathsep}{os.environ['PATH']}")
        for tool, way in (
            ("docker-registry", "apt-get install docker-registry"),
            ("helm", "make tools"),
            ("oras", "make .tools/bin/oras"),
        ):
            if shutil.which(tool) is None:
                (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(f"{tool} is missing: {way}")
        folder = tmp_path_factory.mktemp("registry")
        for variable in ("HELM_CONFIG_HOME", "HELM_CACHE_HOME", "DOCKER_CONFIG"):  # nobody's credentials
            environment.setenv(variable, str(folder / "home"))
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        (folder / "config.yml").write_text(CONFIG % (folder / "blobs", port))
        log = (folder / "log").open("wb")
        process = subprocess.Popen(["docker-registry", "serve", str(folder / "config.yml")], stdout=log, stderr=log)
        try:
            for _ in range(100):
                with socket.socket() as client:
                    if client.connect_ex(("127.0.0.1", port)) == 0:
                        break
                time.sleep(0.1)
            yield f"127.0.0.1:{port}/vision"
        finally:
            process.terminate()
            process.wait(10)
            log.close()


def tool(*words: object, cwd: Path | None = None) -> str:
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, check=False, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return done.stdout


def attached(name: str, folder: Path) -> dict[str, Any]:
    """Return what is attached to an image or chart, by media type."""
    found = json.loads(tool("oras", "discover", "--plain-http", "--format", "json", name))
    documents: dict[str, Any] = {}
    for number, artifact in enumerate(found.get("referrers") or found.get("manifests")):
        place = folder / str(number)
        tool(
            "oras",
            "pull",
            "--plain-http",
            "--output",
            place,
            f"{name.partition(':' + VERSION)[0]}@{artifact['digest']}",
        )
        (file,) = place.iterdir()
        documents[artifact["artifactType"]] = json.loads(file.read_text())
    return documents


def assert_released(registry: str, digest: str, revision: str, folder: Path) -> None:
    """Check an image and a chart that were released."""
    image, chart = f"{registry}/orchard:{VERSION}", f"{registry}/charts/orchard:{VERSION}"
    told = attached(image, folder / "image")
    assert told.keys() == {release.SBOM, release.PROVENANCE}
    assert told[release.SBOM] == json.loads(BILL)
    made = told[release.PROVENANCE]
    assert made["subject"] == [{"name": f"{registry}/orchard", "digest": {"sha256": digest.removeprefix("sha256:")}}]
    source, *locks = made["predicate"]["buildDefinition"]["resolvedDependencies"]
    assert source["digest"] == {"gitCommit": revision}
    assert [lock["uri"] for lock in locks] == ["file:requirements.lock", "file:docker/requirements.lock"]
    assert attached(chart, folder / "chart").keys() == {release.PROVENANCE}
    # As one installs it: with nothing said of the image.
    values = ("--set", "source=s3a://bucket/images,output=s3a://bucket/results")
    rendered = tool("helm", "template", "fruits", f"oci://{registry}/charts/orchard", "--plain-http", *values)
    (job,) = (manifest for manifest in yaml.safe_load_all(rendered) if manifest and manifest["kind"] == "Job")
    assert job["spec"]["template"]["spec"]["containers"][0]["image"] == image


def test_a_release_is_whole_in_its_registry_and_in_a_mirror(registry: str, tmp_path: Path) -> None:
    (tmp_path / "layer.tar").write_bytes(b"")
    (tmp_path / "config.json").write_text('{"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers"}}')
    target = f"{registry}/orchard:{VERSION}"
    config = "config.json:application/vnd.oci.image.config.v1+json"
    tool("oras", "push", "--plain-http", target, "--config", config, "layer.tar", cwd=tmp_path)
    digest = json.loads(tool("oras", "manifest", "fetch", "--plain-http", "--descriptor", target))["digest"]
    there = release.Registry(registry, plain_http=True)
    release.describe_image(there, digest, BILL, REVISION, uncommitted=True)
    release.release_chart(there, VERSION, uncommitted=True)
    assert_released(registry, digest, REVISION, tmp_path / "first")

    mirror = registry.replace("vision", "mirror")
    for name in ("orchard", "charts/orchard"):
        copy = ("oras", "copy", "--recursive", "--from-plain-http", "--to-plain-http")
        tool(*copy, f"{registry}/{name}:{VERSION}", f"{mirror}/{name}:{VERSION}")
    assert attached(f"{mirror}/orchard:{VERSION}", tmp_path / "mirrored").keys() == {release.SBOM, release.PROVENANCE}
    values = (
        "--set",
        "source=s3a://bucket/images,output=s3a://bucket/results,global.imageRegistry=mirror.internal:5000",
    )
    rendered = tool("helm", "template", "fruits", f"oci://{mirror}/charts/orchard", "--plain-http", *values)
    assert f"mirror.internal:5000/vision/orchard:{VERSION}" in rendered


def test_docker_pushes_what_is_released(registry: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if subprocess.run([DOCKER, "info"], capture_output=True, check=False).returncode:
        pytest.skip("there is no Docker engine: start one")
    root = BytesIO()
    with tarfile.open(fileobj=root, mode="w") as files:
        entry = tarfile.TarInfo("opt/orchard/sbom.cdx.json")
        entry.size = len(BILL)
        files.addfile(entry, BytesIO(BILL))
    name, other = "orchard-release-test:1", registry.replace("vision", "docker")
    label = f"LABEL {release.REVISION}={REVISION}"
    subprocess.run([DOCKER, "import", "--change", label, "-", name], input=root.getvalue(), check=True)
    try:
        words = [other, "--image", name, "--version", VERSION, "--docker", DOCKER, "--plain-http"]
        release.main([*words, "--uncommitted"])
    finally:
        tool(DOCKER, "image", "rm", name, f"{other}/orchard:{VERSION}")
    digest = capsys.readouterr().out.partition("@")[2].partition("\n")[0]
    assert_released(other, digest, REVISION, tmp_path)


def test_changes_that_are_in_no_commit_are_not_released_unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(release, "_git", lambda *_: " M Makefile")
    with pytest.raises(SystemExit, match="commit them, or say --uncommitted"):
        release.main(["registry.example.com", "--image", "orchard:1", "--version", VERSION])
