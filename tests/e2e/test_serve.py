"""The model's server in a cluster answers as `orchard predict` does, and rolls to a new model failing no one."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from e2e.cluster import IMAGE, ORCHARD, Namespace, command, kubectl, until

# Asks the Service again and again, each time over a new connection, until it is told to stop; then says what came back.
CLIENT = """
import collections, http.client, json, pathlib, sys, time
photo, found = sys.stdin.buffer.read(), collections.Counter()
began = time.time()
while time.time() - began < 600 and not pathlib.Path("/tmp/stop").exists():
    try:
        connection = http.client.HTTPConnection("oracle-serve", 80, timeout=30)
        connection.request("POST", "/v1/predict", photo, {"Content-Type": "image/jpeg"})
        answer = connection.getresponse()
        text = answer.read()
        found[json.loads(text)["model"] if answer.status == 200 else f"status {answer.status}"] += 1
        connection.close()
    except OSError as error:
        found[f"{type(error).__name__}: {error}"] += 1
    if sum(found.values()) == 1:
        print(text.decode(), flush=True)
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def models(
    namespace: Namespace, sample: Path, local_run: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """Two outputs, of all labels and of some, made here and copied to the bucket."""
    some = tmp_path_factory.mktemp("models") / "some"
    labels = sorted(path.name for path in (sample / "Training").iterdir())
    flags = ("--labels", ",".join(labels[: len(labels) // 2]), "--classifiers", "linear_discriminant")
    command(*ORCHARD, "run", sample, "--output", some, *flags)
    found = {"all": local_run, "some": some}
    for name, folder in found.items():
        namespace.bucket.upload(folder, name)
    return found


def _serve(namespace: Namespace, model: str) -> None:
    flags = {
        "mode": "none",
        "serve.enabled": "true",
        "serve.model": namespace.bucket.url(model),
        "serve.replicas": "2",
        "serve.resources.requests.cpu": "100m",
    }
    namespace.install("oracle", "", "", *(f"{key}={value}" for key, value in flags.items()))
    kubectl("-n", namespace.name, "rollout", "status", "deployment/oracle-serve", "--timeout=180s")


def _ask(namespace: Namespace, path: str, photo: Path | None = None) -> Any:
    """Ask through the API server's proxy to the Service."""
    url = f"/api/v1/namespaces/{namespace.name}/services/oracle-serve:http/proxy{path}"
    if photo is None:
        return json.loads(kubectl("get", "--raw", url).out)
    return json.loads(kubectl("create", "--raw", url, "-f", photo).out)


@pytest.fixture(scope="module")
def serving(namespace: Namespace, models: dict[str, Path]) -> dict[str, Path]:
    _serve(namespace, "all")
    return models


def test_the_server_knows_the_model_of_the_bucket(namespace: Namespace, serving: dict[str, Path]) -> None:
    folder = json.loads((serving["all"] / "model" / "current.json").read_text())["folder"]
    labels = json.loads((serving["all"] / folder / "labels.json").read_text())
    assert _ask(namespace, "/v1/model")["labels"] == labels
    assert kubectl("-n", namespace.name, "get", "endpoints", "oracle-serve", "-o", "json").out.count('"ip"') == 2


@pytest.mark.usefixtures("serving")
def test_no_server_is_more_privileged_than_restricted(namespace: Namespace) -> None:
    pods = namespace.pods("oracle", "serve")
    assert len(pods) == 2
    for pod in pods:
        assert "kube-api-access" not in json.dumps(pod["spec"]["volumes"])
        (container,) = pod["spec"]["containers"]
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}


@pytest.mark.usefixtures("serving")
def test_helm_test_asks_it(namespace: Namespace) -> None:
    tested = command("helm", "test", "oracle", "-n", namespace.name, "--logs", "--timeout=180s")
    assert '"predictions"' in tested.out


def test_a_roll_to_a_new_model_fails_no_request(namespace: Namespace, serving: dict[str, Path], sample: Path) -> None:
    label = sorted(path.name for path in (sample / "Test").iterdir())[0]
    photo = sorted((sample / "Test" / label).iterdir())[0]
    (local,) = (
        json.loads(line)
        for line in command(*ORCHARD, "predict", serving["all"], photo, "--format", "jsonl").out.splitlines()
    )
    before = _ask(namespace, "/v1/model")["digest"]
    client = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "client", "namespace": namespace.name},
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "securityContext": {"runAsNonRoot": True, "runAsUser": 185, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [
                {
                    "name": "client",
                    "image": IMAGE,
                    "command": ["sleep", "1200"],
                    "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
                    "resources": {"requests": {"cpu": "50m"}, "limits": {"memory": "256Mi"}},
                }
            ],
        },
    }
    kubectl("apply", "-f", "-", stdin=json.dumps(client))
    kubectl("-n", namespace.name, "wait", "--for=condition=Ready", "pod/client", "--timeout=60s")
    inside = ("-n", namespace.name, "exec", "client", "-i", "--")
    with (
        photo.open("rb") as content,
        subprocess.Popen(
            ["kubectl", *inside, "python3", "-c", CLIENT], stdin=content, stdout=subprocess.PIPE, text=True
        ) as asking,
    ):
        assert asking.stdout is not None
        (there,) = json.loads(asking.stdout.readline())["predictions"]
        _serve(namespace, "some")
        until("the old servers' end", lambda: len(namespace.pods("oracle", "serve")) == 2 or None, 120)
        kubectl(*inside, "touch", "/tmp/stop")  # noqa: S108 - the client's own
        found = json.loads(asking.stdout.readline())
    after = _ask(namespace, "/v1/model")["digest"]
    assert before != after
    assert found.keys() == {before, after}, found
    assert there["label"] == local["label"]
    assert there["top"][0]["confidence"] == pytest.approx(local["confidence"], abs=0.01)
    print(f"\nrolled to another model under load: {found[before]} + {found[after]} answers, none failed")


@pytest.mark.usefixtures("serving")
def test_a_model_that_is_not_there_is_one_sentence_and_the_old_one_goes_on(namespace: Namespace) -> None:
    flags = ("mode=none", "serve.enabled=true", f"serve.model={namespace.bucket.url('nowhere')}", "serve.replicas=1")
    namespace.install("oracle", "", "", *flags, "serve.resources.requests.cpu=100m")

    def sentence() -> str | None:
        for pod in namespace.pods("oracle", "serve"):
            for status in pod["status"].get("containerStatuses", []):
                for state in (status["state"], status["lastState"]):
                    if "terminated" in state and "holds no model" in state["terminated"].get("message", ""):
                        return str(state["terminated"]["message"])
        return None

    assert "make one with orchard run" in until("the sentence", sentence, 120)
    assert _ask(namespace, "/v1/model")["labels"]


def test_uninstall_leaves_nothing(namespace: Namespace) -> None:
    namespace.uninstall("oracle")
