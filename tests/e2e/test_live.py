"""A running job: more and fewer executors, and what happens when executors and drivers are killed."""

import json
import time
from pathlib import Path

import pyarrow.dataset as ds
import pytest

from e2e.cluster import Namespace, kubectl, until
from results import assert_same_results

IMAGES = 5
"""Copies of the sample: work for a minute or two, on executors of half a CPU each."""
ONE_CLASSIFIER = "settings.classifiers={linear_discriminant}"
SLOW = ("executor.instances=1", "executor.coreLimit=500m", "settings.precision=float32", ONE_CLASSIFIER)


@pytest.fixture(scope="module")
def photos(namespace: Namespace, sample: Path) -> str:
    """The sample several times, in one bucket: 2,710 files."""
    for copy in range(IMAGES):
        namespace.bucket.upload(sample, f"photos/{copy}")
    return namespace.bucket.url("photos")


@pytest.fixture
def undisturbed(namespace: Namespace, photos: str, tmp_path: Path) -> Path:
    """The results of a run over the same photos in which nothing was killed: that of the first test, if it has run."""
    if not namespace.bucket.holds("out/metrics.json"):
        namespace.install("calm", photos, namespace.bucket.url("out"), *SLOW)
        assert namespace.finish("calm") == "Complete"
        namespace.uninstall("calm")
    return namespace.bucket.download("out", tmp_path / "undisturbed")


def executors(namespace: Namespace, release: str) -> int:
    """Return how many executors the newest driver has registered."""
    return next((line["executors"] for line in reversed(namespace.events(release)) if line["event"] == "executors"), 0)


def started(namespace: Namespace, release: str) -> bool:
    """Return whether images are being featurized."""
    return any(line.get("stage") == "extract" and line.get("done", 0) > 0 for line in namespace.events(release))


def assert_nothing_lost(namespace: Namespace, output: str, folder: Path) -> None:
    """Check that every image is in the output exactly once."""
    out = namespace.bucket.download(output, folder)
    counts = json.loads((out / "metrics.json").read_text())["images"]
    assert counts["listed"] == 542 * IMAGES
    assert (counts["featurized"], counts["rejected"]) == (540 * IMAGES, 2 * IMAGES)
    for dataset, rows in (("features", 540), ("rejected", 2), ("inventory", 542)):
        paths = ds.dataset(out / dataset).to_table(columns=["path"])["path"].to_pylist()
        assert len(paths) == len(set(paths)) == rows * IMAGES, dataset


def assert_metrics(namespace: Namespace, release: str, cores: int) -> None:
    """Check what Prometheus would read of a driver while it featurizes images on executors of one core."""
    pod = namespace.pods(release, "driver")[0]["metadata"]["name"]

    def read() -> dict[str, float]:
        text = kubectl("get", "--raw", f"/api/v1/namespaces/{namespace.name}/pods/{pod}:4041/proxy/metrics").out
        lines = (line.rpartition(" ") for line in text.splitlines() if line and not line.startswith("#"))
        return {name: float(value) for name, _, value in lines}

    before, since = read(), time.time()
    time.sleep(5)
    after, now = read(), time.time()
    assert after['orchard_stage{stage="extract"}'] == after["orchard_lock_held"] == 1
    assert after["orchard_listed_images"] == 542 * IMAGES
    assert 0 < after['orchard_images_total{state="featurized"}'] <= 540 * IMAGES
    held = (after["orchard_core_seconds_total"] - before["orchard_core_seconds_total"]) / (now - since)
    assert held == pytest.approx(cores, rel=0.3)


def with_events(namespace: Namespace, release: str) -> tuple[str, ...]:
    """Return the values for an event log that can be read as it is."""
    folder = f"events/{release}"
    namespace.bucket.touch(f"{folder}/.keep")  # Spark wants the event log's folder to be there
    enabled = (f"eventLog.directory={namespace.bucket.url(folder)}", "eventLog.enabled=true")
    return (*enabled, "sparkConf.spark\\.eventLog\\.compress=false")


def tasks_run_in_vain(namespace: Namespace, release: str, folder: Path) -> int:
    """Return how many tasks Spark's event log says were lost or failed."""
    log = namespace.bucket.download(f"events/{release}", folder)
    lines = (line for file in log.rglob("*") if file.is_file() for line in file.read_text().splitlines())
    ends = [event for line in lines if (event := json.loads(line))["Event"] == "SparkListenerTaskEnd"]
    assert len(ends) > 20
    return sum(event["Task End Reason"]["Reason"] != "Success" for event in ends)


def test_kubectl_scales_a_running_job_up_and_down_and_no_work_is_lost(
    namespace: Namespace, photos: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    events = with_events(namespace, "live")
    installed = namespace.install("live", photos, namespace.bucket.url("out"), *SLOW, *events, "metrics.enabled=true")
    name = "spark-s-live-0"
    assert f"kubectl scale statefulset/{name}" in installed.out.replace("\n", " ") or name in installed.out
    until("features", lambda: started(namespace, "live"))
    asked = time.time()
    kubectl("-n", namespace.name, "scale", f"statefulset/{name}", "--replicas=3")
    until("three executors", lambda: executors(namespace, "live") == 3)
    registered = time.time() - asked
    first_task = until("a task on a new executor", lambda: _first_task(namespace, f"{name}-2"))
    assert_metrics(namespace, "live", cores=3)
    down = namespace.orchard("scale", "live", "1")
    assert down.code == 0, down.err
    until("one executor", lambda: len(namespace.pods("live", "executor")) == 1)
    noise = [event["message"] for event in namespace.get("events")["items"] if event["reason"] == "FailedPreStopHook"]
    assert not noise, noise
    assert namespace.finish("live") == "Complete"
    assert_nothing_lost(namespace, "out", tmp_path / "out")
    lost = tasks_run_in_vain(namespace, "live", tmp_path / "events")
    with capsys.disabled():
        print(
            f"\nscaled 1 -> 3: registered after {registered:.0f} s, first task on a new executor after "
            f"{first_task - asked:.0f} s; tasks run again: {lost}"
        )
    assert lost == 0
    assert namespace.orchard("scale", "live", "2").code == 4  # there is nothing to scale any more
    namespace.uninstall("live")


def test_a_driver_scales_by_the_images_that_are_left(namespace: Namespace, photos: str) -> None:
    bounds = ("autoscale.enabled=true", "autoscale.max=3", "autoscale.finishWithin=10s")
    namespace.install("pressed", photos, namespace.bucket.url("pressed"), *SLOW, *bounds)
    until("features", lambda: started(namespace, "pressed"))
    until("three executors", lambda: executors(namespace, "pressed") == 3)
    (told,) = [line for line in namespace.events("pressed") if line["event"] == "autoscaling"]
    assert (told["stage"], told["before"], told["wanted"]) == ("extract", 1, 3)
    namespace.uninstall("pressed")


def _first_task(namespace: Namespace, pod: str) -> float | None:
    log = kubectl("-n", namespace.name, "logs", pod, "--timestamps", check=False).out
    line = next((line for line in log.splitlines() if "Running task" in line), None)
    if line is None:
        return None
    stamp = line.split()[0].partition(".")[0]
    return time.mktime(time.strptime(f"{stamp} UTC", "%Y-%m-%dT%H:%M:%S %Z")) - time.timezone


def test_killed_executors_lose_nothing(
    namespace: Namespace, photos: str, undisturbed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = (*SLOW, *with_events(namespace, "tough"))
    namespace.install("tough", photos, namespace.bucket.url("tough"), *values)
    until("features", lambda: started(namespace, "tough"))
    on = ("-n", namespace.name)

    # Another number alone leaves the job as it is, and its driver scales it.
    driver = namespace.pods("tough", "driver")[0]["metadata"]["uid"]
    asked = time.time()
    namespace.install("tough", photos, namespace.bucket.url("tough"), *values, "executor.instances=2")
    # A pod that changes has its ConfigMaps renewed at once: nobody waits for the kubelet's next look, test_gitops does.
    kubectl(*on, "annotate", "pod", namespace.pods("tough", "driver")[0]["metadata"]["name"], "e2e=look")
    until("two executors", lambda: executors(namespace, "tough") == 2)
    assert [pod["metadata"]["uid"] for pod in namespace.pods("tough", "driver")] == [driver]
    with capsys.disabled():
        print(f"\nexecutor.instances 1 -> 2: registered {time.time() - asked:.0f} s after helm upgrade")

    # One executor's pod is deleted without grace: it is replaced.
    kubectl(*on, "delete", "pod", "spark-s-tough-0-1", "--grace-period=0", "--force")
    # The other runs out of memory: the kernel kills its JVM, and the container starts again.
    # Many small processes fill the memory, so that the JVM is the one to go.
    fill = (
        "import os, time; from pathlib import Path; from subprocess import check_output\n"
        "jvm = check_output(['pgrep', 'java'], text=True).split()[0]\n"
        "Path(f'/proc/{jvm}/oom_score_adj').write_text('1000')\n"
        "all(os.fork() for _ in range(30))\n"  # the children stop at the first, with 0
        "x = b'x' * (96 << 20); time.sleep(60)"
    )
    kubectl(*on, "exec", "spark-s-tough-0-0", "--", "python3", "-c", fill, check=False)
    until("the executor to be killed for memory", lambda: _ended_with(namespace, "spark-s-tough-0-0", "OOMKilled"), 60)
    told = until(
        "status to say so",
        lambda: found if "ran out of memory" in (found := namespace.orchard("status", "tough").out) else None,
        60,
    )
    assert "spark-s-tough-0-0 ran out of memory and was killed: give it more" in told
    assert namespace.finish("tough") == "Complete"
    assert_nothing_lost(namespace, "tough", tmp_path / "tough")
    assert_same_results(tmp_path / "tough", undisturbed)
    assert len(namespace.pods("tough", "driver")) == 1
    lost = tasks_run_in_vain(namespace, "tough", tmp_path / "events")
    with capsys.disabled():
        print(f"\ntwo executors of one core killed without notice: tasks run again: {lost}")
    assert lost <= 4, "more is lost than the executors had in hand"
    namespace.uninstall("tough")


def test_a_killed_driver_is_replaced_and_the_next_goes_on_where_it_was(
    namespace: Namespace, photos: str, undisturbed: Path, tmp_path: Path
) -> None:
    namespace.install("phoenix", photos, namespace.bucket.url("phoenix"), *SLOW)
    until("committed features", lambda: namespace.bucket.holds("phoenix/features/"))

    # Killed as by the kernel: its pod stays, and with it the executors' set. The next driver clears up.
    first = namespace.pods("phoenix", "driver")[0]["metadata"]["name"]
    kubectl("-n", namespace.name, "exec", first, "--", "pkill", "-KILL", "orchard", check=False)
    until("a second driver", lambda: len(namespace.pods("phoenix", "driver")) == 2)
    assert namespace.finish("phoenix") == "Complete"
    out = tmp_path / "phoenix"
    assert_nothing_lost(namespace, "phoenix", out)
    assert_same_results(out, undisturbed)
    decoded = json.loads((out / "metrics.json").read_text())["images"]["decoded"]
    assert 0 < decoded < 542 * IMAGES, "the second driver began again from nothing"
    status = namespace.orchard("status", "phoenix")
    assert status.code == 0
    assert "restarts   1" in status.out
    until("the executors to go", lambda: not namespace.pods("phoenix", "executor"))
    namespace.uninstall("phoenix")


def _ended_with(namespace: Namespace, pod: str, reason: str) -> bool:
    found = namespace.get("pod", pod)
    status = found["status"]["containerStatuses"][0] if found else {}
    ends = [status.get(state, {}).get("terminated", {}).get("reason") for state in ("state", "lastState")]
    return reason in ends
