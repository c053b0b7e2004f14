"""A real cluster (whatever ``KUBECONFIG`` names), an S3 server in it, and namespaces for releases."""

import json
import os
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.cluster import ORCHARD, S3_IMAGE, S3_NAMESPACE, Namespace, Server, command, kubectl, until
from orchard.images.sample import write_sample


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(item.fspath).parent == Path(__file__).parent:
            item.add_marker(pytest.mark.e2e)


@pytest.fixture(scope="session")
def cluster() -> None:
    """A cluster that answers, with Helm and kubectl here."""
    if not os.environ.get("KUBECONFIG"):
        pytest.skip("there is no cluster: set KUBECONFIG")
    for tool in ("helm", "kubectl"):
        if shutil.which(tool) is None:
            pytest.fail(f"{tool} is missing: make tools, and put .tools/bin on the PATH")
    kubectl("get", "nodes")


@pytest.fixture(scope="session")
def s3(cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:  # noqa: ARG001
    """An S3 server in the cluster, with new keys."""
    access, secret = "orchard", secrets.token_hex(16)
    manifest = (Path(__file__).parent / "s3.yaml").read_text()
    kubectl("delete", "namespace", S3_NAMESPACE, "--ignore-not-found", "--wait")
    for old, new in (("NAMESPACE", S3_NAMESPACE), ("IMAGE", S3_IMAGE), ("ACCESS", access), ("SECRET", secret)):
        manifest = manifest.replace(f"${{{old}}}", new)
    kubectl("apply", "-f", "-", stdin=manifest)
    kubectl("-n", S3_NAMESPACE, "rollout", "status", "deployment/s3", "--timeout=120s")
    log = tmp_path_factory.mktemp("s3") / "port-forward"
    forwarding = ["kubectl", "-n", S3_NAMESPACE, "port-forward", "service/s3", ":7070"]
    with log.open("w+") as output, subprocess.Popen(forwarding, stdout=output, stderr=output) as forward:
        try:
            port = until("the port to be forwarded", lambda: _port(log), 30)
            yield Server(f"http://127.0.0.1:{port}", access, secret)
        finally:
            forward.terminate()
            kubectl("delete", "namespace", S3_NAMESPACE, "--wait=false")


def _port(log: Path) -> str | None:
    text = log.read_text()
    return text.partition("127.0.0.1:")[2].partition(" ")[0] or None


@pytest.fixture(scope="session")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A generated, labelled sample: 540 images and two that cannot be decoded."""
    folder = tmp_path_factory.mktemp("photos") / "sample"
    write_sample(folder)
    return folder


@pytest.fixture(scope="session")
def local_run(sample: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of a run over the sample on this machine; read only."""
    output = tmp_path_factory.mktemp("local") / "out"
    command(*ORCHARD, "run", sample, "--output", output)
    return output


@pytest.fixture(scope="module")
def namespace(request: pytest.FixtureRequest, s3: Server) -> Iterator[Namespace]:
    """A new namespace for a module's tests: Pod Security ``restricted``, a quota, and the keys of a bucket."""
    name = f"orchard-e2e-{Path(request.path).stem.removeprefix('test_').replace('_', '-')}"
    kubectl("delete", "namespace", name, "--ignore-not-found", "--wait")
    kubectl("create", "namespace", name)
    kubectl("label", "namespace", name, "pod-security.kubernetes.io/enforce=restricted")
    hard = {"requests.cpu": "4", "limits.memory": "16Gi", "pods": "12"}
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "quota", "namespace": name}}
    kubectl("apply", "-f", "-", stdin=json.dumps(quota | {"spec": {"hard": hard}}))
    keys = {"AWS_ACCESS_KEY_ID": s3.access_key, "AWS_SECRET_ACCESS_KEY": s3.secret_key}
    kubectl(
        "-n",
        name,
        "create",
        "secret",
        "generic",
        "s3",
        *(f"--from-literal={key}={value}" for key, value in keys.items()),
    )
    yield Namespace(name, s3.bucket(name))
    if not os.environ.get("ORCHARD_E2E_KEEP"):
        kubectl("delete", "namespace", name, "--wait=false")
