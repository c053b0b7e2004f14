"""What a job's objects and its log say of it becomes a state, a sentence and an exit code."""

import json
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from kubernetes import client

from orchard.cluster import jobs, reasons
from orchard.cluster.follow import Display
from orchard.cluster.jobs import _Patience
from orchard.cluster.reasons import Hindrance
from orchard.cluster.state import Observation, Progress, json_line
from orchard.errors import ClusterError

NOW = datetime.now(UTC)
EMPTY: Any = SimpleNamespace(namespace="fruit", events=lambda _: [], evictions=lambda: [])


def line(event: str, **fields: Any) -> str:
    return json.dumps({"time": "t", "level": "info", "event": event, **fields})


def seen(conditions: list[Any] | None = None, *drivers: client.V1Pod) -> Observation:
    """Return an observation of these objects, without a cluster."""
    observation = Observation.__new__(Observation)
    status = client.V1JobStatus(conditions=conditions, start_time=NOW - timedelta(seconds=60))
    observation.name, observation.cluster = "peach", EMPTY
    observation.job = client.V1Job(metadata=client.V1ObjectMeta(name="peach-1", creation_timestamp=NOW), status=status)
    observation.drivers, observation.executors, observation.set = list(drivers), [], None
    observation.all_drivers = observation.drivers
    observation.application = None
    return observation


def driver(phase: str, name: str = "peach-1-a", *, code: int | None = None, **ended: Any) -> client.V1Pod:
    terminated = None if code is None else client.V1ContainerStateTerminated(exit_code=code, **ended)
    status = client.V1ContainerStatus(
        name="driver",
        image="orchard:1",
        image_id="",
        ready=False,
        restart_count=0,
        state=client.V1ContainerState(terminated=terminated),
    )
    limits = client.V1ResourceRequirements(limits={"memory": "2400Mi"})
    return client.V1Pod(
        metadata=client.V1ObjectMeta(name=name, creation_timestamp=NOW),
        spec=client.V1PodSpec(containers=[client.V1Container(name="driver", resources=limits)]),
        status=client.V1PodStatus(phase=phase, container_statuses=[status]),
    )


def condition(kind: str, message: str = "") -> client.V1JobCondition:
    return client.V1JobCondition(type=kind, status="True", message=message, last_transition_time=NOW)


def test_a_driver_that_waits_runs_completes_or_fails() -> None:
    assert seen().state == "pending"
    assert seen(None, driver("Running")).state == "running"
    done = seen([condition("Complete")], driver("Succeeded", code=0))
    assert (done.state, done.exit_code) == ("completed", 0)
    failed = seen([condition("Failed")], driver("Failed", code=3, message="There is no image."))
    assert (failed.state, failed.exit_code, failed.why_failed()) == ("failed", 3, "There is no image.")


@pytest.mark.parametrize(("end", "phase", "code"), [("Failed", "Failed", 137), ("Complete", "Succeeded", 0)])
def test_executors_that_outlive_the_last_driver_are_told(
    monkeypatch: pytest.MonkeyPatch, end: str, phase: str, code: int
) -> None:
    ended = seen([condition(end)], driver(phase, code=code))
    monkeypatch.setattr(ended, "progress", Progress)
    assert "executors" not in str(ended.status().reason)
    spec = client.V1StatefulSetSpec(replicas=2, selector=client.V1LabelSelector(), template=client.V1PodTemplateSpec())
    ended.set = client.V1StatefulSet(
        metadata=client.V1ObjectMeta(), spec=spec, status=client.V1StatefulSetStatus(replicas=2)
    )
    assert str(ended.status().reason).endswith(
        "Its executors still keep their nodes: orchard cancel peach deletes them with the job."
    )
    ended.set.metadata.deletion_timestamp = NOW
    assert "executors" not in str(ended.status().reason)


def test_a_driver_that_is_being_deleted_is_told_and_whether_another_follows() -> None:
    ends = seen(None, driver("Running"))
    ends.progress = Progress  # type: ignore[method-assign]
    assert ends.status().reason is None
    ends.drivers[0].metadata.deletion_timestamp = NOW
    assert ends.status().reason == (
        "The driver's pod is being deleted: the driver commits the finished tasks and ends; another is started."
    )
    ends.job = None  # helm uninstall deletes it at once, and its pods when they have ended
    assert ends.status().reason == "The job is being deleted: the driver commits the finished tasks and ends."


def test_a_pod_that_fits_on_no_node_says_what_to_do() -> None:
    pod = driver("Pending")
    said = (
        "0/1 nodes are available: 1 Insufficient cpu. no new claims to deallocate, preemption: 0/1 nodes are available."
    )
    held = client.V1PodCondition(type="PodScheduled", status="False", reason="SchedulingGated", message="It is gated.")
    pod.status.conditions = [held]
    found = reasons.of_pod(pod)
    assert found and found.sentence == f"pod {pod.metadata.name} is held back by a queue such as Kueue, or a person"
    pod.status.conditions = [client.V1PodCondition(type="PodScheduled", status="False", message=said)]
    reason = reasons.of_pod(pod)
    assert reason is not None
    assert reason.sentence == (
        "pod peach-1-a fits on no node: 0/1 nodes are available: 1 Insufficient cpu: let the pod ask for less, or add "
        "a node"
    )


def test_a_cordoned_node_is_to_be_uncordoned_and_the_pod_is_right_as_it_is() -> None:
    pod = driver("Pending")
    for said, remedy in (
        ("1 node(s) were unschedulable", "let pods on the nodes again (kubectl uncordon), or add a node"),
        (
            "1 Insufficient cpu, 1 node(s) were unschedulable",
            "let the pod ask for less and let pods on the nodes again (kubectl uncordon), or add a node",
        ),
        (
            "1 node(s) had untolerated taint(s)",
            "correct what it names (node selector, taint, claim), or add a node",
        ),
    ):
        message = f"0/2 nodes are available: {said}. preemption: 0/2 nodes are available."
        pod.status.conditions = [client.V1PodCondition(type="PodScheduled", status="False", message=message)]
        found = reasons.of_pod(pod)
        assert found and found.sentence.endswith(f"0/2 nodes are available: {said}: {remedy}")


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (
            'persistentvolumeclaim "photos" not found. not found',
            'persistentvolumeclaim "photos" not found',
        ),
        (
            "pod has unbound immediate PersistentVolumeClaims. preemption: 0/1 nodes are available",
            "unbound immediate PersistentVolumeClaims",
        ),
    ],
)
def test_no_other_node_helps_a_pod_without_its_claim(said: str, told: str) -> None:
    pod = driver("Pending")
    said = f"0/1 nodes are available: {said}."
    pod.status.conditions = [client.V1PodCondition(type="PodScheduled", status="False", message=said)]
    found = reasons.of_pod(pod)
    remedy = "create the claim and its volume, or correct its name"
    assert found and found.sentence == f"pod peach-1-a fits on no node: {told}: {remedy}"


@pytest.mark.parametrize(
    "cause",
    [
        'error looking up service account fruit/nobody: serviceaccount "nobody" not found',
        "no PriorityClass with name nosuch was found",
        'pod rejected: RuntimeClass "nosuch" not found',
    ],
)
def test_what_a_pod_names_and_is_not_there_is_to_be_created(cause: str) -> None:
    assert reasons.of_refusal(f'Error creating: pods "peach-1-a" is forbidden: {cause}') == Hindrance(
        f"Kubernetes refuses the pod ({cause}): create what is missing, or correct its name", definite=True
    )


@pytest.mark.parametrize("deleted", [None, NOW])
def test_a_run_whose_executors_somebody_scaled_to_none_says_what_it_waits_for(deleted: datetime | None) -> None:
    waits = seen(None, driver("Running"))
    waits.progress = Progress  # type: ignore[method-assign]
    waits.set = client.V1StatefulSet(
        metadata=client.V1ObjectMeta(name="spark-s-peach-0", deletion_timestamp=deleted),
        spec=client.V1StatefulSetSpec(replicas=0, selector={}, service_name="s", template={}),
        status=client.V1StatefulSetStatus(replicas=0),
    )
    said = "Executors are missing: they were scaled to none, and the run waits for some: orchard scale peach 2 lets it"
    assert (waits.status().reason or "").startswith(said) == (deleted is None)


def lose_node(pod: client.V1Pod) -> client.V1Pod:
    """Make of a pod what the cluster makes of it whose node does not answer: all else is as the node said last."""
    pod.spec.node_name = "node-7"
    pod.status.conditions = [
        client.V1PodCondition(type="Ready", status="False"),
        client.V1PodCondition(type="ContainersReady", status="True"),
    ]
    return pod


@pytest.mark.parametrize("deleted", [None, NOW])
def test_a_driver_whose_node_is_gone_is_not_said_to_commit(deleted: datetime | None) -> None:
    lost = seen(None, lose_node(driver("Running")))
    lost.progress = Progress  # type: ignore[method-assign]
    lost.drivers[0].metadata.deletion_timestamp = deleted
    assert lost.status().reason == (
        "The driver's node node-7 does not answer: bring it back, or take it out of the cluster (kubectl delete node "
        "node-7); the run goes on then, with another driver where this one has ended."
    )


def test_a_driver_that_ended_with_its_node_says_so() -> None:
    # The rest of its log is all that there is of it, and says nothing of its end.
    ended = seen(None, driver("Failed", code=255, reason="Unknown", message=line("progress", stage="extract")))
    assert ended.why_ended("peach-1-a") == "The driver's pod peach-1-a failed: its node restarted meanwhile."


def test_an_executor_whose_node_is_gone_is_missing() -> None:
    works = seen(None, driver("Running"))
    works.progress = Progress  # type: ignore[method-assign]
    works.executors = [lose_node(driver("Running", "spark-s-peach-0-0"))]
    works.set = client.V1StatefulSet(
        metadata=client.V1ObjectMeta(name="spark-s-peach-0", creation_timestamp=NOW),
        spec=client.V1StatefulSetSpec(replicas=1, selector={}, service_name="s", template={}),
        status=client.V1StatefulSetStatus(replicas=1, ready_replicas=0),
    )
    assert works.status().reason == (
        "Executors are missing: pod spark-s-peach-0-0 is on the node node-7, which does not answer: bring it back, or "
        "take it out of the cluster (kubectl delete node node-7)."
    )


def test_between_two_drivers_a_job_is_pending() -> None:
    assert seen(None, driver("Failed", code=4)).state == "pending"
    assert seen(None, driver("Failed", code=4), driver("Running", "peach-1-b")).state == "running"


def test_a_job_whose_driver_has_succeeded_is_not_pending_again_until_it_is_complete() -> None:
    assert seen(None, driver("Running")).state == "running"
    assert seen(None, driver("Succeeded", code=0)).state == "running"


def test_a_driver_whose_pod_is_gone_counts_as_a_start() -> None:
    again = seen(None, driver("Running", "peach-1-c"))
    again.job.status.failed, again.job.status.active = 2, 1
    again.progress = Progress  # type: ignore[method-assign]
    assert again.status().restarts == 2


def test_so_does_one_that_a_drained_node_took_which_its_job_does_not_count() -> None:
    again = seen(None, driver("Running", "peach-1-b"))
    again.job.metadata.uid, again.job.status.active = "2", 1
    made = [
        SimpleNamespace(reason="SuccessfulCreate", count=1, involved_object=SimpleNamespace(uid=uid)) for uid in "122"
    ]
    again.cluster = SimpleNamespace(namespace="fruit", events=lambda _: made, evictions=lambda: [])  # type: ignore[assignment]
    again.progress = Progress  # type: ignore[method-assign]
    assert again.status().restarts == 1
    assert again.status().reason == (
        "An earlier driver's pod was deleted, by a person or as its node was drained or lost; this one goes on from "
        "what is committed."
    )


def test_a_driver_whose_pod_was_deleted_is_told_of_until_the_next_one_is_there() -> None:
    waits = seen()
    waits.progress = Progress  # type: ignore[method-assign]
    assert waits.status().reason is None  # its first driver is on its way
    waits.job.status.failed = 1
    assert waits.status().reason == (
        "The driver's pod was deleted, by a person or as its node was drained or lost, and another is started."
    )


def test_an_exit_code_that_is_not_orchards_is_the_clusters() -> None:
    killed = seen([condition("Failed", "too many retries")], driver("Failed", code=137, reason="OOMKilled"))
    assert killed.exit_code == 4
    assert "2400Mi" in str(killed.why_failed())
    assert "driver.memoryOverhead, or tune.resources.memoryOverhead" in str(killed.why_failed())
    killed.drivers[0].metadata.labels = {"app.kubernetes.io/managed-by": "orchard"}
    assert "give it more (--driver-memory-overhead)" in str(killed.why_failed())


def test_a_driver_that_was_killed_without_a_word_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    killed = seen([condition("Failed", "too many retries")], driver("Failed", code=137))
    monkeypatch.setattr(killed, "progress", Progress)
    assert killed.status().reason == (
        "The driver's pod peach-1-a failed: exit code 137: orchard retry peach goes on from what is committed."
    )
    assert str(killed.why_again()).endswith("failed: exit code 137."), "the Job starts another by itself"
    lost = seen([condition("Failed")], driver("Failed", code=137, reason="ContainerStatusUnknown"))
    assert "its node restarted meanwhile: orchard retry peach goes on" in str(lost.why_failed())
    starved = driver("Failed", code=137, reason="OOMKilled")
    for ended in (driver("Failed", code=3, message="There is no image."), starved):
        assert "retry" not in str(seen([condition("Failed")], ended).why_failed())


def test_a_driver_that_its_node_evicts_says_why_and_not_that_it_was_interrupted() -> None:
    evicted = driver("Failed", code=143, message="interrupted; what was committed is kept, start again to go on.")
    evicted.status.reason = "Evicted"
    evicted.status.message = "Pod ephemeral local storage usage exceeds the total limit of containers 10Mi. "
    told = "The driver's pod peach-1-a failed: Pod ephemeral local storage usage exceeds the total limit of containers "
    more = "10Mi: give it more (driver.ephemeralStorage.limit)."
    assert seen(None, evicted).why_again() == f"A driver failed, and another is started: {told}{more}"
    failed = seen([condition("Failed")], evicted)
    failed.progress = lambda: Progress.read(["orchard: interrupted; start again to go on."])  # type: ignore[method-assign]
    assert failed.status().reason == f"{told}{more}"
    evicted.status.message = "The node was low on resource: memory. "
    assert str(failed.why_failed()).endswith("low on resource: memory: give it a node with more room.")


def test_a_job_whose_pods_are_gone_says_what_its_condition_says() -> None:
    assert seen([condition("Failed", "It is a bad day.")]).why_failed() == "The job failed: It is a bad day."


def test_a_job_that_ran_too_long_is_told_so_whatever_a_driver_before_said() -> None:
    overdue = condition("Failed", "Job was active longer than specified deadline")
    overdue.reason = "DeadlineExceeded"
    of_operator = driver("Failed", code=143, message="interrupted; what was committed is kept, start again to go on.")
    of_operator.status.reason = "DeadlineExceeded"
    for job in (seen([overdue], driver("Failed", code=4, message="S3 is away.")), seen(None, of_operator)):
        assert job.why_failed() == (
            "The job ran longer than its activeDeadlineSeconds and was stopped: raise it, or orchard retry peach goes "
            "on from what is committed, for as long again."
        )


def test_the_sentence_is_found_among_the_last_lines_of_a_log() -> None:
    message = f"{line('finished')}\norchard: The bucket is missing.\nstray"
    assert (
        seen([condition("Failed")], driver("Failed", code=4, message=message)).why_failed() == "The bucket is missing."
    )


@pytest.mark.parametrize(
    "last",
    [
        line("progress", stage="extract", done=7),
        "26/11/30 07:14:38 INFO SparkContext: Successfully stopped SparkContext (Uptime: 6484 ms)",  # the operator's
    ],
)
def test_a_driver_that_was_killed_at_work_is_not_said_to_have_failed_by_its_last_progress(last: str) -> None:
    message = f"{line('started', stage='extract')}\n{last}\n"
    killed = seen(None, driver("Failed", code=137, message=message))
    assert killed.why_again() == (
        "A driver failed, and another is started: The driver's pod peach-1-a failed: exit code 137."
    )


def test_an_executor_with_the_labels_of_the_operators_application_is_no_driver() -> None:
    labels = {"app.kubernetes.io/component": "driver"}
    driver_pod, executor = driver("Running"), driver("Running", "spark-s-peach-0-0")
    driver_pod.metadata.labels, executor.metadata.labels = labels, labels | {"spark-role": "executor"}
    found = {"pods": [driver_pod, executor], "jobs": []}
    cluster: Any = SimpleNamespace(
        batch=SimpleNamespace(list_namespaced_job="jobs"),
        core=SimpleNamespace(list_namespaced_pod="pods"),
        apps=SimpleNamespace(read_namespaced_stateful_set=None, read_namespaced_deployment=None),
        namespace="fruit",
        find=lambda function, **_: found[function],
        call=lambda *_: None,
        application=lambda name: {**application("RUNNING"), "metadata": {"name": name}},
    )
    observation = Observation(cluster, "peach")
    assert (observation.drivers, observation.executors) == ([driver_pod], [executor])


def test_progress_is_what_the_last_lines_say() -> None:
    progress = Progress.read(
        [
            "Picked up JAVA_TOOL_OPTIONS",
            line("started", stage="extract", done=0, total=10),
            line("executors", executors=3),
            line("progress", stage="extract", done=4, total=10, per_second=2.0, seconds_left=3.0),
            line("listed 10"),
            "orchard: Something failed.",
        ]
    )
    assert (progress.stage, progress.done, progress.total, progress.seconds_left) == ("extract", 4, 10, 3.0)
    assert (progress.executors, progress.sentence) == (3, "Something failed.")


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"event"', '"event"', "null"])
def test_a_line_that_is_not_orchards_is_no_event(text: str) -> None:
    assert json_line(text) is None


def test_what_hinders_a_run_is_its_reason_until_it_gets_further() -> None:
    waiting = [
        line("progress", stage="list", done=4, total=10),
        line("the store does not answer", reason="s3 does not answer"),
        line("progress", stage="list", done=4, total=10),  # still at it
    ]
    assert Progress.read(waiting).reason == "s3 does not answer"
    assert Progress.read([*waiting, line("progress", stage="list", done=5, total=10)]).reason is None
    assert Progress.read([*waiting, line("started", stage="extract")]).reason is None


def test_no_other_driver_is_promised_where_a_job_starts_none() -> None:
    """The Job of a driver that was refused has not failed yet; an operator starts another whatever the code."""
    refused = seen(None, driver("Failed", code=3, message="orchard: s3 refuses the credentials."))
    assert refused.why_again() == "s3 refuses the credentials."
    refused.job = None
    assert refused.why_again() == "A driver failed, and another is started: s3 refuses the credentials."


def test_between_two_drivers_it_is_said_why_the_last_one_failed() -> None:
    waits = seen(None, driver("Failed", code=4, message="orchard: s3 does not answer."))
    assert waits.why_again() == "A driver failed, and another is started: s3 does not answer."
    assert seen().why_again() is None


def test_while_the_next_driver_works_it_is_still_said_why_the_last_one_failed() -> None:
    again = seen(None, driver("Failed", code=4, message="orchard: s3 does not answer."), driver("Running", "peach-1-b"))
    again.progress = Progress  # type: ignore[method-assign]
    assert again.status().reason == "An earlier driver failed: s3 does not answer."
    again.progress = lambda: Progress(reason="gcs does not answer")  # type: ignore[method-assign]
    assert again.status().reason == "gcs does not answer"


def application(state: str, attempts: int = 1, error: str = "", *, age: float = 0) -> dict[str, Any]:
    made = datetime.now(UTC) - timedelta(seconds=age)
    return {
        "metadata": {"creationTimestamp": made.isoformat(timespec="seconds")},
        "status": {"applicationState": {"state": state, "errorMessage": error}, "executionAttempts": attempts},
    }


@pytest.mark.parametrize(
    ("state", "means"),
    [
        ("PENDING_RERUN", "pending"),
        ("RUNNING", "running"),
        ("COMPLETED", "completed"),
        ("FAILED", "failed"),
        ("", "pending"),
    ],
)
def test_an_application_is_there_between_two_drivers(state: str, means: str) -> None:
    of_operator = seen()
    of_operator.job, of_operator.application = None, application(state, 3, "driver container failed with ExitCode: 3")
    assert of_operator.exists
    assert of_operator.state == means
    of_operator.progress = Progress  # type: ignore[method-assign]  # there is no pod with a log
    status = of_operator.status()
    assert (status.restarts, status.seconds) == (2, None)
    if means == "failed":
        assert (status.exit_code, status.reason) == (
            3,
            "The application failed: driver container failed with ExitCode: 3.",
        )
    if state == "PENDING_RERUN":
        assert "A driver failed, and another is started: driver container" in str(status.reason)


def test_an_application_without_a_reason_is_said_to_start_again_all_the_same() -> None:
    waits = seen()
    waits.job, waits.application = None, application("PENDING_RERUN")
    assert waits.why_again() == "A driver failed, and another is started: the operator does not say why."
    waits.application = application("PENDING_RERUN", 0)  # a change makes the operator count anew
    assert str(waits.why_again()).startswith("Its SparkApplication was changed: ")
    waits.drivers, waits.application = (
        [driver("Failed", code=143)],
        application("INVALIDATING"),
    )  # it was ended for that
    assert str(waits.why_again()).startswith("Its SparkApplication was changed: ")
    waits.drivers.clear()
    waits.application = application("SUBMITTED")
    assert waits.why_again() is None


@pytest.mark.parametrize(
    ("state", "age", "told"),
    [
        ("SUSPENDED", 0, "The driver cannot start: its SparkApplication is suspended: "),
        ("", 180, "The driver cannot start: the Spark operator has not taken it up: "),
        ("", 60, "None"),  # a busy operator takes a minute to submit it
    ],
)
def test_an_application_that_its_operator_does_not_start_says_why(state: str, age: float, told: str) -> None:
    waits = seen()
    waits.job, waits.application = None, application(state, 0, age=age)
    status = waits.status()
    assert (status.state, status.exit_code) == ("pending", None)
    assert str(status.reason).startswith(told)


def test_of_a_whole_log_that_the_operator_hands_on_one_line_is_told() -> None:
    whole = (
        "failed to run spark-submit: WARNING: Using incubator modules\n26/11/27 INFO Something: else\n"
        'Exception in thread "main" io.fabric8.kubernetes.client.KubernetesClientException\n\tat io.fabric8.Some\n'
        "Caused by: java.util.concurrent.TimeoutException\n\tat java.base\n26/11/27 INFO ShutdownHookManager: called\n"
    )
    waits = seen()
    waits.job, waits.application = None, application("SUBMISSION_FAILED", 1, whole)
    assert waits.why_again() == (
        "A driver cannot be submitted, and another is started: java.util.concurrent.TimeoutException."
    )
    whole += (
        "Caused by: io.fabric8.kubernetes.client.KubernetesClientException: Failure executing: POST at: "
        'https://10.96.0.1/api/v1/namespaces/fruit/pods. Message: pods "peach-driver" is forbidden: exceeded quota: '
        "q, requested: limits.memory=2400Mi. Received status: Status(apiVersion=v1, code=403)."
    )
    waits.application = application("FAILED", 1, whole)
    assert waits.why_failed() == (
        "The application failed: the namespace's quota does not allow the pod "
        "(exceeded quota: q, requested: limits.memory=2400Mi): ask for less."
    )


def executor(*, restarts: int, runs: float | None = None, **ended: Any) -> client.V1Pod:
    """Return an executor's pod that was started again, and has run for so many seconds since."""
    pod = driver("Running", "spark-s-peach-0-0")
    status = pod.status.container_statuses[0]
    status.restart_count, status.ready = restarts, runs is not None
    if runs is not None:
        running = client.V1ContainerStateRunning(started_at=datetime.now(UTC) - timedelta(seconds=runs))
        status.state = client.V1ContainerState(running=running)
    status.last_state = client.V1ContainerState(terminated=client.V1ContainerStateTerminated(**ended))
    return pod


def test_an_executor_that_was_killed_for_memory_is_told_of_when_it_works_again() -> None:
    works = seen(None, driver("Running"))
    works.executors = [executor(restarts=1, runs=5, exit_code=137, reason="OOMKilled")]
    assert works.executor_trouble() == (
        "An executor was lost: pod spark-s-peach-0-0 ran out of memory and was killed: give it more "
        "(executor.memoryOverhead, --executor-memory-overhead)."
    )


def test_an_executor_that_its_node_evicted_is_told_of_when_its_successor_works() -> None:
    works = seen(None, driver("Running"))
    works.executors = [driver("Running", "spark-s-peach-0-0")]

    def evicted(name: str, at: datetime) -> Any:
        message = "Pod ephemeral local storage usage exceeds the total limit of containers 100Mi. "
        of = SimpleNamespace(name=name)
        return SimpleNamespace(reason="Evicted", message=message, last_timestamp=at, involved_object=of)

    events = [evicted("spark-s-plum-0-0", NOW), evicted("spark-s-peach-0-0", NOW - timedelta(seconds=1))]
    works.cluster = SimpleNamespace(evictions=lambda: events)  # type: ignore[assignment]
    assert works.executor_trouble() is None  # another job's, and an earlier driver's
    events.append(evicted("spark-s-peach-0-0", NOW))
    assert works.executor_trouble() == (
        "An executor was lost: pod spark-s-peach-0-0 was evicted (Pod ephemeral local storage usage exceeds the total "
        "limit of containers 100Mi): give it more (executor.ephemeralStorage.limit)."
    )


def test_a_driver_of_the_operators_that_its_node_evicted_is_told_of_by_its_successor() -> None:
    """The operator deletes the pod of the one before, and makes another of its name."""
    again = seen(None, driver("Running", "peach-driver"))
    again.job, again.progress = None, Progress  # type: ignore[method-assign]
    born = NOW.isoformat()
    again.application = {"metadata": {"creationTimestamp": born}, "status": {"executionAttempts": 2}}
    assert again.why_before() is None  # the operator does not say why
    events = [
        SimpleNamespace(
            reason="Evicted",
            message="The node was low on resource: memory. ",
            last_timestamp=NOW + at,
            involved_object=SimpleNamespace(name=name),
        )
        for name, at in (("plum-driver", timedelta(0)), ("peach-driver", timedelta(hours=-1)))
    ]
    again.cluster = SimpleNamespace(evictions=lambda: events)  # type: ignore[assignment]
    assert again.why_before() is None  # another job's, and an earlier application's of its name
    events[1].last_timestamp = NOW + timedelta(seconds=9)
    assert again.why_before() == (
        "An earlier driver failed: pod peach-driver was evicted (The node was low on resource: memory): give it a node "
        "with more room."
    )


def test_an_executor_that_ends_at_its_start_says_why() -> None:
    said = (
        'Exception in thread "main" java.lang.IllegalArgumentException: System memory 466092032 must be at least '
        "471859200. Please increase heap size.\n\tat org.apache.spark.memory.UnifiedMemoryManager$.main"
    )
    assert reasons.of_end(executor(restarts=1, exit_code=1, message="connection refused")) is None  # once is no habit
    assert reasons.of_end(executor(restarts=2, exit_code=1, message="connection refused")) is not None
    reason = reasons.of_end(executor(restarts=1, exit_code=1, message=said))
    assert reason is not None and reason.definite
    assert "ends at its start (" in reason.sentence and "must be at least 471859200" in reason.sentence
    assert reasons.of_end(executor(restarts=2, runs=2, exit_code=1, message=said)) is not None  # ready, until it ends
    assert reasons.of_end(executor(restarts=5, runs=200, exit_code=1, message=said)) is None  # it works by now
    late: dict[str, Any] = {"started_at": NOW - timedelta(hours=1), "finished_at": NOW - timedelta(minutes=1)}
    assert reasons.of_end(executor(restarts=5, exit_code=1, message=said, **late)) is None  # no start, but its work
    assert reasons.of_end(executor(restarts=5, exit_code=143)) is None  # was told to end


def test_an_init_container_that_failed_is_named() -> None:
    pod = driver("Failed")
    terminated = client.V1ContainerStateTerminated(exit_code=1, message="cp: cannot stat '/weights': No such file")
    status = client.V1ContainerStatus(
        name="weights",
        image="i",
        image_id="",
        ready=False,
        restart_count=0,
        state=client.V1ContainerState(terminated=terminated),
    )
    pod.status.init_container_statuses = [status]
    assert seen([condition("Failed")], pod).why_failed() == (
        "The driver's pod peach-1-a failed: its init container weights ended with exit code 1 "
        "(cp: cannot stat '/weights': No such file)."
    )


def test_what_waiting_hardly_mends_is_waited_for_shortly() -> None:
    now = 0.0
    patience = _Patience(600, clock=lambda: now)
    missing = Hindrance("the image is missing", definite=True)
    assert patience.exhausted_by(missing) is None
    now = 19
    assert patience.exhausted_by(missing) is None
    now = 20
    assert patience.exhausted_by(missing) == "the image is missing"
    assert patience.exhausted_by(None) is None
    full = Hindrance("it fits on no node", definite=False)
    assert patience.exhausted_by(full) is None
    now = 619
    assert patience.exhausted_by(full) is None
    now = 620
    assert patience.exhausted_by(full) == "it fits on no node"


def test_the_result_goes_to_standard_output_and_the_rest_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    with Display() as display:
        for text in ("stray", line("started", stage="list"), "{", '  "report": 1', "}"):
            display.show(text)
        display.finish(succeeded=True)
    printed = capsys.readouterr()
    assert json.loads(printed.out) == {"report": 1}
    assert printed.err.splitlines() == ["stray", line("started", stage="list")]


def test_a_failed_driver_leaves_no_result(capsys: pytest.CaptureFixture[str]) -> None:
    with Display() as display:
        for text in ("Traceback", "orchard: It failed."):
            display.show(text)
        display.finish(succeeded=False)
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("", "Traceback\n")


def refused(message: str) -> client.CoreV1Event:
    return client.CoreV1Event(
        metadata=client.V1ObjectMeta(name="event", creation_timestamp=NOW),
        involved_object=client.V1ObjectReference(),
        type="Warning",
        reason="FailedCreate",
        message=message,
        last_timestamp=NOW,
    )


@pytest.mark.parametrize(
    ("whose", "said", "remedy"),
    [
        ("quota does", "exceeded quota: quota, requested: pods=1, used: pods=12, limited: pods=12", "ask for less"),
        ("quota does", "failed quota: quota: must specify limits.cpu for: driver", "set the chart's coreLimit"),
        ("limits do", "maximum cpu usage per Pod is 2. No limit is specified", "set the chart's coreLimit"),
        ("limits do", "maximum memory usage per Container is 1Gi, but limit is 1858Mi", "ask for less"),
        ("limits do", "cpu max limit to request ratio per Container is 2, but provided ratio is 4.000000", "bring its"),
        ("Pod Security does", 'violates PodSecurity "restricted:latest": runAsNonRoot != true (pod', "set the chart's"),
        ("limits do", "minimum ephemeral-storage usage per Pod is 1Gi, but request is 512Mi", "ask for more"),
    ],
)
def test_what_a_quota_refuses_is_said_of_driver_and_executors(whose: str, said: str, remedy: str) -> None:
    waits = seen()
    refusal = refused(f'pods "p" is forbidden: {said}')
    waits.cluster = SimpleNamespace(**vars(EMPTY) | {"events": lambda _: [refusal]})  # type: ignore[assignment]
    sentence = f"the namespace's {whose} not allow the pod ({said}): {remedy}"
    status = waits.status()
    assert (status.state, status.exit_code) == ("pending", 4)
    assert str(status.reason).startswith(f"The driver cannot start: {sentence}")
    works = seen(None, driver("Running"))
    works.cluster, works.progress = waits.cluster, Progress  # type: ignore[method-assign]
    wanted = client.V1StatefulSetSpec(replicas=3, selector={}, service_name="s", template={})
    works.set = client.V1StatefulSet(
        metadata=client.V1ObjectMeta(name="spark-s-peach-0", creation_timestamp=NOW),
        spec=wanted,
        status=client.V1StatefulSetStatus(replicas=1, ready_replicas=1),
    )
    reason = str(works.status().reason)
    assert reason.startswith(f"Executors are missing: {sentence}")
    assert reason.endswith("orchard scale peach to another number makes Kubernetes try at once.")


def test_a_default_limit_below_what_a_pod_requests_is_told_with_what_to_set() -> None:
    cause = (
        'spec.containers[0].resources.requests: Invalid value: "500m": must be less than or equal to cpu limit of 200m'
    )
    assert reasons.of_refusal(f'Error creating: Pod "peach-1-a" is invalid: {cause}') == Hindrance(
        f"the namespace's limits do not allow the pod ({cause}): set the chart's coreLimit and "
        "ephemeralStorage.limit of driver and executor",
        definite=True,
    )


def test_an_executor_that_spark_made_itself_is_said_to_wait() -> None:
    works = seen(None, driver("Running"))
    works.progress = Progress  # type: ignore[method-assign]
    waits = driver("Pending", "peach-exec-1")
    waits.status.conditions = [client.V1PodCondition(type="PodScheduled", status="False", message="0/1 nodes.")]
    works.executors = [driver("Running", "peach-exec-2"), waits]
    assert works.status().reason == (
        "Executors are missing: pod peach-exec-1 fits on no node: 0/1 nodes: correct what it names (node selector, "
        "taint, claim), or add a node."
    )
    works.executors.pop()
    assert works.status().reason is None


def test_a_job_that_a_queue_holds_says_so() -> None:
    held = seen()
    held.job.spec = client.V1JobSpec(suspend=True, template=client.V1PodTemplateSpec())
    status = held.status()
    assert (status.state, status.exit_code) == ("pending", None)
    assert "its Job is suspended" in str(status.reason)


@pytest.mark.parametrize(
    ("reason", "message", "told"),
    [
        (
            "FailedMount",
            'MountVolume.SetUp failed for volume "keys" : secret "keys" not found',
            'secret "keys" not found): create what is missing',
        ),
        (
            "FailedAttachVolume",
            'Multi-Attach error for volume "pvc-1" Volume is already used by pod(s) peach-0-b',
            "already used by pod(s) peach-0-b): free it",
        ),
        (
            "FailedCreatePodSandBox",
            "Failed to create pod sandbox: failed to assign an IP address to container",
            "failed to assign an IP address to container): mend network",
        ),
    ],
)
def test_what_a_node_cannot_do_for_a_pod_is_told_while_it_waits(reason: str, message: str, told: str) -> None:
    event = client.CoreV1Event(
        metadata=client.V1ObjectMeta(name="event"),
        involved_object=client.V1ObjectReference(),
        type="Warning",
        reason=reason,
        message=message,
        last_timestamp=NOW,
    )
    cluster: Any = SimpleNamespace(namespace="fruit", events=lambda _: [event])
    waiting = seen(None, driver("Pending"))
    waiting.cluster = cluster
    found = waiting.hindrance()
    assert found is not None and not found.definite
    assert told in found.sentence
    assert reasons.of_start(cluster, driver("Pending")) == found  # so the driver tells it of an executor
    assert reasons.of_start(cluster, driver("Running")) is None


@pytest.mark.parametrize("name", ["a/b", "Peach", "a,b=c", "", "1", "peach-", "p" * 64])
def test_no_cluster_is_asked_for_what_cannot_be_a_jobs_name(name: str) -> None:
    """It would answer with its rules for labels, or for all jobs at once."""
    without_answers: Any = SimpleNamespace(namespace="fruit")
    with pytest.raises(ClusterError, match=f"There is no job {name} in the namespace fruit: check the name"):
        jobs.report(without_answers, name)
    with pytest.raises(ClusterError, match=f"There is no job {name} "):
        jobs.scale(without_answers, name, 2)
