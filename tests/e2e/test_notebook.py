"""The example notebook on executors in a cluster, with a pod of its own, as JupyterHub gives one to each person."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from e2e.cluster import IMAGE, REPOSITORY, Namespace, kubectl, until

NOTEBOOK = REPOSITORY / "docs" / "example.ipynb"
PERSISTENCE = "persistence.output"


@pytest.fixture
def home(namespace: Namespace) -> Iterator[str]:
    """A claim that many pods may mount and anybody may write to, as the hub's shared homes; a folder of the node."""
    path = f"/var/tmp/{namespace.name}"  # noqa: S108 -- the node's
    storage = {"accessModes": ["ReadWriteMany"], "storageClassName": ""}
    volume = {"capacity": {"storage": "1Gi"}, "hostPath": {"path": path, "type": "DirectoryOrCreate"}}
    bound = {"claimRef": {"namespace": namespace.name, "name": "home"}, "persistentVolumeReclaimPolicy": "Retain"}
    claim = {"volumeName": namespace.name, "resources": {"requests": {"storage": "1Gi"}}}
    metadata = {"name": "home", "namespace": namespace.name}
    made: list[dict[str, Any]] = [
        {"kind": "PersistentVolume", "metadata": {"name": namespace.name}, "spec": storage | volume | bound},
        {"kind": "PersistentVolumeClaim", "metadata": metadata, "spec": storage | claim},
    ]
    kubectl("apply", "-f", "-", stdin=yaml.safe_dump_all({"apiVersion": "v1", **each} for each in made))
    as_root(namespace, path, "rm -rf /home/* && chmod 1777 /home")
    yield "home"
    as_root(namespace, path, "rm -rf /home/*")
    kubectl("delete", "persistentvolume", namespace.name, "--wait=false")


def as_root(namespace: Namespace, path: str, script: str) -> None:
    """Run a script on a folder of the node, mounted at ``/home``, in a namespace that lets root do so."""
    name = f"{namespace.name}-root"
    kubectl("delete", "namespace", name, "--ignore-not-found", "--wait")
    kubectl("create", "namespace", name)
    container = {
        "name": "root",
        "image": IMAGE,
        "command": ["sh", "-c", script],
        "securityContext": {"runAsUser": 0},
        "volumeMounts": [{"name": "home", "mountPath": "/home"}],
    }
    volume = {"name": "home", "hostPath": {"path": path, "type": "DirectoryOrCreate"}}
    spec = {"restartPolicy": "Never", "containers": [container], "volumes": [volume]}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "root", "namespace": name}, "spec": spec}
    kubectl("apply", "-f", "-", stdin=json.dumps(pod))
    kubectl("-n", name, "wait", "--for=jsonpath={.status.phase}=Succeeded", "pod/root", "--timeout=60s")
    kubectl("delete", "namespace", name, "--wait=false")


def test_the_example_notebook_runs_on_executors(namespace: Namespace, home: str) -> None:
    on = ("-n", namespace.name)
    # Service accounts, role and settings are the chart's; its Job gives the pod, in which the cells run.
    claim = (f"{PERSISTENCE}.existingClaim={home}", f"{PERSISTENCE}.mountPath=/home/shared", "executor.instances=2")
    rendered = list(yaml.safe_load_all(namespace.render("hub", "/home/shared/photos", "/home/shared/out", *claim)))
    (job,) = [each for each in rendered if each and each["kind"] == "Job"]
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    code = "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    script = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "cells"}, "data": {"cells.py": code}}
    kubectl(*on, "apply", "-f", "-", stdin=yaml.safe_dump_all([*(o for o in rendered if o and o is not job), script]))

    pod = job["spec"]["template"]
    (container,) = pod["spec"]["containers"]
    del container["args"]
    container["command"] = ["tini", "-s", "--", "python3", "/cells/cells.py"]
    container["env"].append({"name": "TMPDIR", "value": "/home/shared"})  # where the notebook puts its photos
    container["volumeMounts"].append({"name": "cells", "mountPath": "/cells"})
    pod["spec"]["volumes"].append({"name": "cells", "configMap": {"name": "cells"}})
    pod["metadata"]["name"] = "hub-person"
    kubectl(*on, "apply", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "Pod", **pod}))

    until("executors", lambda: len(namespace.pods("hub", "executor")) == 2)
    phase = until("the notebook's end", lambda: ended(namespace), 400, every=3)
    printed = kubectl(*on, "logs", "hub-person").out
    assert phase == "Succeeded", printed[-3000:]
    assert "truncated" in printed
    assert "linear_discriminant" in printed and "logistic_regression" in printed
    assert "report.html" in printed


def ended(namespace: Namespace) -> str | None:
    """Return the phase in which the notebook's pod has ended."""
    phase = str(namespace.get("pod", "hub-person")["status"]["phase"])
    return phase if phase in {"Succeeded", "Failed"} else None
