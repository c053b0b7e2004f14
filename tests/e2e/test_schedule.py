"""A schedule in a tenant's bounds: what the CronJob starts completes as a job does, and may create nothing else."""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from e2e.cluster import IMAGE, REPOSITORY, Namespace, kubectl, until

ADMISSION = REPOSITORY / "k8s" / "tenant" / "admission.yaml"


@pytest.fixture(scope="module")
def tenant(namespace: Namespace) -> Iterator[Namespace]:
    """The namespace, with the admission rules of `k8s/tenant` in force."""
    on = ("namespace", namespace.name)
    kubectl("annotate", *on, f"orchard/image={IMAGE.rpartition(':')[0]}", "orchard/s3-secret=s3")
    kubectl("label", *on, "orchard/executors=bounded")
    kubectl("apply", "-f", ADMISSION)
    yield namespace
    kubectl("delete", "-f", ADMISSION, "--wait=false")


def as_driver(tenant: Namespace, manifest: dict[str, Any]) -> str:
    """Return what the API server says to the nightly driver that would create an object."""
    account = f"system:serviceaccount:{tenant.name}:nightly-driver"
    words = ("-n", tenant.name, "create", "--dry-run=server", "--validate=false", "--as", account, "-f", "-")
    done = kubectl(*words, stdin=yaml.safe_dump(manifest), check=False)
    return done.out + done.err


def executors(**changes: Any) -> dict[str, Any]:
    """Return a set such as Spark makes it, with changes of its pods' specification."""
    container = {"name": "executor", "image": IMAGE, "envFrom": [{"secretRef": {"name": "s3"}}]}
    account = {"serviceAccountName": "nightly-executor", "automountServiceAccountToken": False}
    pod = {**account, "containers": [container], "volumes": [{"name": "tmp", "emptyDir": {}}], **changes}
    labels = {"spark-role": "executor"}
    spec: dict[str, Any] = {
        "serviceName": "none",
        "selector": {"matchLabels": labels},
        "template": {"metadata": {"labels": labels}},
    }
    made = {"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "spark-s-nightly-0"}, "spec": spec}
    return made | {"spec": spec | {"template": spec["template"] | {"spec": pod}}}


def running(tenant: Namespace) -> str | None:
    """Return the name of the schedule's driver once it runs."""
    found = [pod for pod in tenant.pods("nightly", "driver") if pod["status"]["phase"] == "Running"]
    return found[0]["metadata"]["name"] if found else None


def test_a_scheduled_run_completes_and_the_next_one_decodes_nothing(tenant: Namespace, sample: Path) -> None:
    tenant.bucket.upload(sample / "Test", "photos")
    kept = ("schedule.cron=0 3 1 1 *", "schedule.successfulJobsHistoryLimit=2")
    flags = (*kept, "settings.classifiers=linear_discriminant", "settings.max_rejected=5")
    tenant.install("nightly", tenant.bucket.url("photos"), tenant.bucket.url("out"), *flags)
    # The rules are in force before the driver makes its executors.
    wrong = executors(serviceAccountName="nightly-driver")
    until("the rules", lambda: "executors run as" in as_driver(tenant, wrong), 30)
    measured = []
    for run in ("first", "second"):
        job = f"nightly-{run}"
        kubectl("-n", tenant.name, "create", "job", "--from=cronjob/nightly", job)
        if run == "first":
            # The driver that takes the place of a lost one has the settings of its run, not those of the next.
            pod = until("the driver", lambda: running(tenant), 120)
            tenant.install(
                "nightly", tenant.bucket.url("photos"), tenant.bucket.url("out"), *flags, "settings.components=4"
            )
            kubectl("-n", tenant.name, "delete", "pod", pod)
        kubectl("-n", tenant.name, "wait", "--for=condition=complete", f"job/{job}", "--timeout=400s", timeout=420)
        measured.append(tenant.bucket.json("out/metrics.json"))
    assert measured[0]["images"]["featurized"] > 0 and measured[1]["images"]["decoded"] == 0
    assert measured[0]["pca"]["k"] > 4 == measured[1]["pca"]["k"]
    # Of a schedule the newest run is meant, whatever other runs are kept.
    status = tenant.orchard("status", "nightly", check=True).out
    assert "state      completed" in status and "restarts   0" in status
    tenant.orchard("retry", "nightly", check=True)
    made = tenant.get("job", "nightly-second")
    assert [owner["name"] for owner in made["metadata"]["ownerReferences"]] == ["nightly"]
    assert "its schedule starts the next one" in tenant.orchard("cancel", "nightly", check=True).out
    assert tenant.get("job", "nightly-first") and not tenant.get("job", "nightly-second")


def test_a_driver_creates_the_set_of_its_executors_and_nothing_else(tenant: Namespace) -> None:
    assert "created (server dry run)" in as_driver(tenant, executors())
    other = copy.deepcopy(executors())
    other["metadata"]["name"] = "spark-s-evening-0"
    container = executors()["spec"]["template"]["spec"]["containers"][0]
    for manifest, sentence in (
        (other, "the set of its own executors alone: spark-s-nightly-0"),
        (executors(serviceAccountName="nightly-driver"), "executors run as nightly-executor, without a token"),
        (executors(automountServiceAccountToken=True), "without a token"),
        (executors(containers=[container | {"image": "busybox:1"}]), "executors run the image"),
        (executors(containers=[container, container | {"name": "other"}]), "executors have one container"),
        (executors(volumes=[{"name": "keys", "secret": {"secretName": "other"}}]), "executors mount"),
        (executors(containers=[container | {"envFrom": [{"secretRef": {"name": "other"}}]}]), "read no Secret but"),
    ):
        assert sentence in as_driver(tenant, manifest), manifest
    # With dynamicAllocation a role allows it pods: not here.
    on = ("-n", tenant.name)
    kubectl(*on, "create", "role", "pods", "--verb=create", "--resource=pods")
    account = f"--serviceaccount={tenant.name}:nightly-driver"
    kubectl(*on, "create", "rolebinding", "pods", "--role=pods", account)
    restricted = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    user = {"runAsNonRoot": True, "runAsUser": 185, "seccompProfile": {"type": "RuntimeDefault"}}
    limits = {"limits": {"memory": "64Mi", "cpu": "100m"}}
    container = {"name": "any", "image": IMAGE, "securityContext": restricted, "resources": limits}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "any"}}
    pod["spec"] = {"securityContext": user, "containers": [container]}
    assert "the set of its executors and no pods itself" in as_driver(tenant, pod)
    tenant.uninstall("nightly")
