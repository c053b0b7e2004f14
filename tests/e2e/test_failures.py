"""What cannot work ends quickly, with one sentence and a nonzero exit, and leaves nothing running."""

import json
import time
from pathlib import Path

import pytest

from e2e.cluster import ENDPOINT, IMAGE, S3_NAMESPACE, Namespace, Server, kubectl, until


@pytest.fixture(scope="module")
def photos(namespace: Namespace, sample: Path) -> str:
    namespace.bucket.upload(sample, "photos")
    return namespace.bucket.url("photos")


def assert_ends(namespace: Namespace, release: str, code: int, *words: str) -> None:
    """Check that a release's job fails without a second try, that `status` says why, and that nothing runs on."""
    assert namespace.finish(release, timeout=240) == "Failed"
    status = namespace.orchard("status", release)
    assert status.code == code, status.out + status.err
    reason = next(line for line in status.out.splitlines() if line.startswith("reason"))
    assert all(word in reason for word in words), reason
    assert "restarts   0" in status.out
    # Each may use its whole minute of grace, beside other tests.
    until("executors to go", lambda: not namespace.pods(release, "executor"), 240)
    running = [pod for pod in namespace.pods(release) if pod["status"]["phase"] in ("Pending", "Running")]
    assert not running
    namespace.uninstall(release)


def test_values_that_cannot_be_right_are_refused_before_anything_is_made(namespace: Namespace, photos: str) -> None:
    refused = namespace.install("wrong", photos, namespace.bucket.url("out"), "executor.instances=many", check=False)
    assert refused.code != 0
    assert "instances" in refused.err
    assert not namespace.left("wrong")


def test_a_missing_bucket(namespace: Namespace) -> None:
    namespace.install("nobucket", "s3a://there-is-none/photos", namespace.bucket.url("out"))
    assert_ends(namespace, "nobucket", 3, "there-is-none", "does not exist")


def test_a_store_that_comes_later_wrong_keys_and_another_try_when_they_are_mended(
    namespace: Namespace, sample: Path, s3: Server
) -> None:
    keys = ("--from-literal=AWS_ACCESS_KEY_ID=orchard", "--from-literal=AWS_SECRET_ACCESS_KEY=guessed")
    on = ("-n", namespace.name)
    kubectl(*on, "create", "secret", "generic", "guessed", *keys)
    namespace.bucket.upload(sample / "Test", "few")
    namespace.install(
        *("late", namespace.bucket.url("few"), namespace.bucket.url("late"), "s3.existingSecret=guessed"),
        *(f"s3.endpoint=http://late.{S3_NAMESPACE}.svc.cluster.local:7070", "executor.instances=1"),
        *("settings.classifiers=linear_discriminant", "settings.max_rejected=5", "settings.storage_timeout=90"),
    )
    # The store has no name yet: for a minute, of the minute and a half that it is given.
    until("the reason", lambda: "does not answer" in namespace.orchard("status", "late").out, 120)
    time.sleep(60)
    assert namespace.phase("late") == "Running"
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "late", "namespace": S3_NAMESPACE}}
    spec = {"selector": {"app": "s3"}, "ports": [{"port": 7070}]}
    kubectl("apply", "-f", "-", stdin=json.dumps(service | {"spec": spec}))
    # Now it answers, and refuses the keys.
    watched = namespace.orchard("status", "late", "--watch", timeout=120)
    assert watched.code == 3, watched.out + watched.err
    assert "refuses the credentials" in watched.out
    assert "restarts   0" in watched.out
    # The keys are mended: by itself nothing happens, nor by an upgrade with the same values.
    patch = {"stringData": {"AWS_SECRET_ACCESS_KEY": s3.secret_key}}
    kubectl(*on, "patch", "secret/guessed", "-p", json.dumps(patch))
    again = namespace.orchard("retry", "late")
    assert again.code == 0, again.err
    assert namespace.finish("late") == "Complete"
    assert namespace.orchard("retry", "late", "--json").code == 0  # finds all done
    # Without its pod, the log is in the output.
    assert namespace.finish("late") == "Complete"
    kubectl(*on, "delete", "pods", "-l", "app.kubernetes.io/instance=late,app.kubernetes.io/component=driver")
    environment = {"AWS_ACCESS_KEY_ID": s3.access_key, "AWS_SECRET_ACCESS_KEY": s3.secret_key}
    with pytest.MonkeyPatch.context() as patched:
        for name, value in environment.items():
            patched.setenv(name, value)
        log = namespace.orchard("logs", "late", "--s3-endpoint", s3.endpoint, check=True).out
    events = [json.loads(line) for line in log.splitlines()]
    assert any(event["event"].startswith("listed ") for event in events), log
    namespace.uninstall("late")


def test_what_keeps_spark_from_starting_is_said_with_its_reason(namespace: Namespace, photos: str) -> None:
    volume = ("extraVolumes[0].name=results,extraVolumes[0].emptyDir.medium=", "extraVolumeMounts[0].name=results")
    mount = ("extraVolumeMounts[0].mountPath=/results", "extraVolumeMounts[0].readOnly=true")
    namespace.install("tiny", photos, namespace.bucket.url("tiny"), "sparkConf.spark\\.executor\\.memory=450m")
    events = (f"eventLog.directory={namespace.bucket.url('nowhere')}", "eventLog.enabled=true")
    namespace.install("noevents", photos, namespace.bucket.url("noevents"), *events)
    namespace.install("readonly", photos, "/results/out", *volume, *mount)
    assert_ends(namespace, "readonly", 3, "/results/out", "Read-only file system")
    assert_ends(namespace, "noevents", 2, "event log's folder", "nowhere", "create it")
    assert_ends(namespace, "tiny", 3, "No executor can start", "ends at its start", "System memory")


def test_executors_go_with_a_driver_whose_jvm_was_killed(namespace: Namespace, photos: str) -> None:
    namespace.install("nojvm", photos, namespace.bucket.url("nojvm"), "backoffLimit=0")
    until("an executor", lambda: " registered" in namespace.orchard("status", "nojvm").out)
    driver = namespace.pods("nojvm", "driver")[0]["metadata"]["name"]
    kubectl("-n", namespace.name, "exec", driver, "--", "pkill", "-KILL", "java")
    # Kubernetes keeps the driver's pod, and with it what belongs to it.
    assert_ends(namespace, "nojvm", 4, "")


def test_executors_that_outlive_a_killed_driver_are_told(namespace: Namespace, photos: str) -> None:
    namespace.install("killed", photos, namespace.bucket.url("killed"), "backoffLimit=0")
    until("an executor", lambda: " registered" in namespace.orchard("status", "killed").out)
    driver = namespace.pods("killed", "driver")[0]["metadata"]["name"]
    kubectl("-n", namespace.name, "exec", driver, "--", "pkill", "-KILL", "orchard")
    assert namespace.finish("killed") == "Failed"
    told = namespace.orchard("status", "killed")
    assert "Its executors still keep their nodes: orchard cancel killed" in told.out, told.out
    namespace.orchard("cancel", "killed", check=True)
    until("executors to go", lambda: not namespace.pods("killed", "executor"), 240)
    namespace.uninstall("killed")


def test_a_quota_that_has_no_room_for_executors(namespace: Namespace, photos: str) -> None:
    namespace.install("noroom", photos, namespace.bucket.url("out"), "executor.memory=20g")
    assert_ends(namespace, "noroom", 3, "No executor can start", "quota")


def test_a_quota_that_has_no_room_for_the_driver(namespace: Namespace, photos: str) -> None:
    flags = ("--driver-memory-overhead", "30g", "--s3-secret", "s3", "--name", "nodriver", "--image", IMAGE)
    submitted = namespace.orchard("submit", photos, "--output", namespace.bucket.url("out"), *flags)
    assert submitted.code == 4
    assert "quota" in submitted.err.splitlines()[-1]
    until("nothing to be left", lambda: not namespace.left("nodriver"), 30)

    # A release is made all the same, and its job says what it waits for.
    namespace.install("nodriver", photos, namespace.bucket.url("out"), "driver.memoryOverhead=30g")
    told = until(
        "the reason", lambda: found if "quota" in (found := namespace.orchard("status", "nodriver")).out else None, 60
    )
    assert told.code == 4
    assert "The driver cannot start: the namespace's quota does not allow the pod" in told.out
    namespace.uninstall("nodriver")


def test_an_account_of_others_with_a_name_that_a_job_needs_is_left_alone(namespace: Namespace, photos: str) -> None:
    """It became the job's, and was deleted with it."""
    kubectl("-n", namespace.name, "create", "serviceaccount", "taken-executor")
    before = kubectl("-n", namespace.name, "get", "serviceaccount", "taken-executor", "-o", "json").out
    flags = ("--s3-secret", "s3", "--name", "taken", "--image", IMAGE)
    submitted = namespace.orchard("submit", photos, "--output", namespace.bucket.url("out"), *flags)
    assert submitted.code == 2
    assert "has a ServiceAccount taken-executor already" in submitted.err.splitlines()[-1]
    assert kubectl("-n", namespace.name, "get", "serviceaccount", "taken-executor", "-o", "json").out == before
    kubectl("-n", namespace.name, "delete", "serviceaccount", "taken-executor")


def test_an_image_that_cannot_be_pulled(namespace: Namespace, photos: str) -> None:
    flags = ("--s3-secret", "s3", "--name", "noimage", "--image", "orchard:there-is-none")
    submitted = namespace.orchard("submit", photos, "--output", namespace.bucket.url("out"), *flags)
    assert submitted.code == 4
    assert "orchard:there-is-none cannot be pulled" in submitted.err.splitlines()[-1]
    until("nothing to be left", lambda: not namespace.left("noimage"), 30)

    namespace.install("noimage", photos, namespace.bucket.url("out"), "image.tag=there-is-none")
    told = until(
        "the reason",
        lambda: found if "cannot be pulled" in (found := namespace.orchard("status", "noimage")).out else None,
    )
    assert told.code == 4
    no_log = namespace.orchard("logs", "noimage")
    assert no_log.code == 4 and "cannot be pulled" in no_log.err
    namespace.uninstall("noimage")


def test_a_comparison_that_is_submitted_is_followed_to_its_end(namespace: Namespace, photos: str) -> None:
    flags = (
        "--s3-secret",
        "s3",
        "--name",
        "peach",
        "--image",
        IMAGE,
        "--executors",
        "1",
        "--classifiers",
        "linear_discriminant",
    )
    small = ("--driver-core-request", "100m", "--executor-core-request", "100m")
    where = ("--s3-endpoint", ENDPOINT, "--s3-region", "us-east-1")
    what = (
        photos,
        "--output",
        namespace.bucket.url("peach"),
        "--command",
        "compare",
        "--backbones",
        "EfficientNetLite0",
    )
    done = namespace.orchard("submit", *what, *flags, *small, *where)
    assert done.code == 0, done.err[-2000:]
    assert any(json.loads(line).get("stage") == "extract" for line in done.err.splitlines() if line.startswith("{"))
    assert "compare.html" in namespace.orchard("logs", "peach").out
    assert "state      completed" in namespace.orchard("status", "peach").out
    assert namespace.bucket.json("peach/EfficientNetLite0/metrics.json")["images"]["featurized"] == 540
    (compared,) = namespace.bucket.json("peach/compare.json")["backbones"]
    assert compared["backbone"] == "EfficientNetLite0"
    cancelled = namespace.orchard("cancel", "peach")
    assert cancelled.code == 0
    assert not namespace.left("peach")
