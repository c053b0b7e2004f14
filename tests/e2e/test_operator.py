"""The Spark operator runs the same image and arguments as a SparkApplication."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.cluster import Namespace, Server, get, kubectl, until

OPERATOR_NAMESPACE = os.environ.get("ORCHARD_E2E_OPERATOR_NAMESPACE", "spark-jobs")
"""A namespace whose SparkApplications the operator of the cluster looks after."""


@pytest.fixture(scope="module")
def looked_after(s3: Server) -> Iterator[Namespace]:
    """The operator's namespace, with the keys of a new bucket."""
    if get("crd", "sparkapplications.sparkoperator.k8s.io") is None:
        pytest.skip("this cluster has no Spark operator")
    kubectl("-n", OPERATOR_NAMESPACE, "delete", "secret", "s3", "--ignore-not-found")
    keys = {"AWS_ACCESS_KEY_ID": s3.access_key, "AWS_SECRET_ACCESS_KEY": s3.secret_key}
    literals = (f"--from-literal={key}={value}" for key, value in keys.items())
    kubectl("-n", OPERATOR_NAMESPACE, "create", "secret", "generic", "s3", *literals)
    namespace = Namespace(OPERATOR_NAMESPACE, s3.bucket("orchard-e2e-operator"))
    yield namespace
    for release in namespace.releases:
        namespace.uninstall(release)
    kubectl("-n", OPERATOR_NAMESPACE, "delete", "secret", "s3")


def end(namespace: Namespace, application: str) -> str:
    """Wait for a SparkApplication's end; return its state."""

    def state() -> str | None:
        found = namespace.get("sparkapplication", application)
        now = found.get("status", {}).get("applicationState", {}).get("state", "") if found else ""
        return now if now in ("COMPLETED", "FAILED", "SUBMISSION_FAILED") else None

    return until("the application's end", state, 400, every=3)


def test_a_spark_application_completes_and_can_be_scaled(looked_after: Namespace, sample: Path) -> None:
    namespace = looked_after
    namespace.bucket.upload(sample, "photos")
    namespace.install(
        *("grove", namespace.bucket.url("photos"), namespace.bucket.url("out")),
        *("mode=operator", "executor.instances=1", "operator.retryIntervalSeconds=15"),
        "settings.classifiers=linear_discriminant",
    )
    # Its driver is killed: between two drivers the job is there, and says what happened.
    until("the executors' set", lambda: namespace.get("statefulset", "spark-s-grove-0"))
    driver = namespace.pods("grove", "driver")[0]["metadata"]["name"]
    kubectl("-n", namespace.name, "exec", driver, "--", "pkill", "-KILL", "orchard|java", check=False)
    rerun = until(
        "the operator to plan another driver",
        lambda: found if "another is started" in (found := namespace.orchard("status", "grove").out) else None,
        120,
    )
    assert "state      pending" in rerun
    until("the second driver", lambda: "restarts   1" in namespace.orchard("status", "grove").out, 120)
    until("the executors' set", lambda: namespace.get("statefulset", "spark-s-grove-0"))
    kubectl("-n", namespace.name, "scale", "statefulset/spark-s-grove-0", "--replicas=2")
    # The operator gives its application's labels to all pods.
    until("an executor that is called one", lambda: namespace.pods("grove", "executor"))
    assert len(namespace.pods("grove", "driver")) == 1

    assert end(namespace, "grove") == "COMPLETED"
    metrics = namespace.bucket.json("out/metrics.json")
    assert metrics["images"]["featurized"] == 540
    assert "state      completed" in namespace.orchard("status", "grove").out


def test_the_operator_starts_an_application_of_a_schedule(looked_after: Namespace, sample: Path) -> None:
    namespace = looked_after
    namespace.bucket.upload(sample / "Test", "photos")
    namespace.install(
        *("dawn", namespace.bucket.url("photos"), namespace.bucket.url("dawn")),
        *("mode=operator", "schedule.cron=* * * * *", "executor.instances=1"),
        *("settings.classifiers=linear_discriminant", "settings.max_rejected=5"),
    )

    def last_run() -> str | None:
        schedule = namespace.get("scheduledsparkapplication", "dawn")
        return schedule.get("status", {}).get("lastRunName") if schedule else None

    first = until("the first application", last_run, 120)
    # No other one: this machine has no room for it.
    kubectl(
        *("-n", namespace.name, "patch", "scheduledsparkapplication/dawn", "--type=merge"),
        '-p={"spec":{"suspend":true}}',
    )
    assert end(namespace, first) == "COMPLETED"
    assert namespace.bucket.json("dawn/metrics.json")["images"]["featurized"] > 0
    # The schedule's name stands for its newest application.
    status = namespace.orchard("status", "dawn", check=True).out
    assert "state      completed" in status and "restarts   0" in status
    assert "its schedule is suspended" in namespace.orchard("cancel", "dawn", check=True).out
    assert namespace.get("sparkapplication", first) is None
