"""The status of a job in a cluster, from its Job, pods, executors' set, events and log."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, Literal

from orchard.cluster import reasons
from orchard.cluster.client import MANAGED_BY, MANAGER, Cluster, Forbidden, Log
from orchard.cluster.manifests import INSTANCE
from orchard.errors import ClusterError

_NAME = "app.kubernetes.io/name"
_BEGUN = {"orchard/submit": "begun"}
"""Annotation of a Job for which `orchard submit` has not made everything yet; it is suspended so long."""
SAYING = "orchard: "
"""Before the sentence with which the command line fails."""
_AT_WORK = re.compile(r"\d\d/\d\d/\d\d [\d:]{8} (?:INFO|WARN) ")
"""How a line of Spark's log begins that tells of no error."""
_MEANT = (1, 2, 3, 4, 130, 143)
"""Exit codes that Orchard itself gives; any other is the container's end, not the run's."""
_FINAL = (1, 2, 3)
"""Exit codes after which a Job starts no other driver, by its podFailurePolicy."""

JobState = Literal["pending", "running", "completed", "failed", "serving", "scheduled", "suspended"]
"""Without a job: `serving`, all servers of the release are ready; `scheduled`, its schedule waits for its time;
`suspended`, its schedule starts nothing."""
_OF_APPLICATION: dict[str, JobState] = {
    "RUNNING": "running",
    "SUCCEEDING": "completed",
    "COMPLETED": "completed",
    "FAILED": "failed",
}
"""A SparkApplication's states; in any other it waits for something."""
_TAKEN_UP_SECONDS = 120.0
"""So long an operator may take to submit an application; it says nothing of it before, and is slow when it is busy."""
_OVERDUE = "DeadlineExceeded"
_FORGOTTEN = ("Unknown", "ContainerStatusUnknown")
"""What a node says of a container that it does not find again when it is back."""
_BY_WHOM = ", by a person or as its node was drained or lost"
NOT_TAKEN_UP = "the Spark operator has not taken it up: check that it runs and watches the namespace {}"


class NoJob(ClusterError):
    """A release that has no job now: it serves a model, or is a schedule. `how` says how that is.

    `state` is None if something is wrong with it.
    """

    def __init__(self, how: str, remedy: str, state: JobState | None) -> None:
        super().__init__(f"{how}; {remedy}.")
        self.how, self.state = how, state


@dataclass(frozen=True)
class Status:
    """A job's status, as `orchard status` shows it."""

    name: str
    namespace: str
    state: JobState
    reason: str | None
    """Why it failed, does not start, lacks executors, or was started again."""
    stage: str | None
    done: int | None
    total: int | None
    per_second: float | None
    seconds_left: float | None
    executors_wanted: int | None
    executors_ready: int | None
    executors_registered: int | None
    restarts: int | None
    seconds: float | None
    exit_code: int | None
    servers: str | None = None
    """How the servers of the release are, beside its job; None if it has none."""

    @classmethod
    def without_job(cls, name: str, namespace: str, state: JobState, sentence: str) -> "Status":
        """Return the status of a release that has no job now, and with which all is well."""
        nothing: dict[str, Any] = {field.name: None for field in fields(cls)}
        return cls(**{**nothing, "name": name, "namespace": namespace, "state": state, "reason": sentence})

    def to_dict(self) -> dict[str, Any]:
        """Return the fields for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Progress:
    """The driver's progress, by its log."""

    stage: str | None = None
    done: int | None = None
    total: int | None = None
    per_second: float | None = None
    seconds_left: float | None = None
    executors: int | None = None
    sentence: str | None = None
    """The sentence with which it failed."""
    reason: str | None = None
    """The problem that has stopped its progress; None: there is none."""

    @classmethod
    def read(cls, lines: Iterable[str]) -> "Progress":
        """Read the progress from the last lines of a driver's log."""
        at: dict[str, Any] = {}
        executors = sentence = reason = None
        for text in lines:
            if text.startswith(SAYING):
                sentence = text.removeprefix(SAYING)
            line = json_line(text)
            if line is None:
                continue
            if line["event"] == "executors":
                executors = line.get("executors")
            elif "stage" in line:
                if line["event"] != "progress" or line.get("done") != at.get("done"):
                    reason = None
                at = line
            reason = line.get("reason", reason)
        known = {name: at.get(name) for name in ("stage", "done", "total", "per_second", "seconds_left")}
        return cls(**known, executors=executors, sentence=sentence, reason=reason)


def json_line(text: str) -> dict[str, Any] | None:
    """Return a line of Orchard's log; None if `text` is something else."""
    if not text.startswith("{"):
        return None
    try:
        line = json.loads(text)
    except ValueError:
        return None
    return line if isinstance(line, dict) and "event" in line else None


class Observation:
    """A job's objects as they were at one moment. Works for `orchard submit`, the chart and the operator alike."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        self.cluster, self.name = cluster, name
        ours = f"{INSTANCE}={name},{_NAME}=orchard"
        jobs = cluster.find(cluster.batch.list_namespaced_job, label_selector=ours)
        pods = sorted(cluster.find(cluster.core.list_namespaced_pod, label_selector=ours), key=_born)
        self.jobs = [job for job in jobs if _component(job) == "driver"]
        self.job: Any = max(self.jobs, key=_born, default=None)
        self.application = cluster.application(name) if self.job is None else None
        self.all_drivers = [pod for pod in pods if _component(pod) == "driver"]
        """Those of all runs; a schedule keeps the pods of earlier ones, and some may run beside the newest."""
        self.drivers = [pod for pod in self.all_drivers if self.is_of_this_run(pod)]
        self.executors = [pod for pod in pods if _component(pod) == "executor"]
        self.set = executor_set(cluster, name)

    @property
    def exists(self) -> bool:
        """Whether the job exists."""
        return self.job is not None or bool(self.drivers) or self.application is not None

    @property
    def driver(self) -> Any:
        """The newest driver pod of the newest run; None if there is none."""
        return self.drivers[-1] if self.drivers else None

    @property
    def state(self) -> JobState:
        """The job's state, or the state of its driver if the operator made it."""
        condition = self._finished()
        if condition:
            return "completed" if condition.type in ("Complete", "SuccessCriteriaMet") else "failed"
        phase = self.driver.status.phase if self.driver else "Pending"
        if self.application is not None and (told := self._application_state()):
            return "running" if told == "SUBMITTED" and phase == "Running" else _OF_APPLICATION.get(told, "pending")
        if self.job is None and phase in ("Succeeded", "Failed"):
            return "completed" if phase == "Succeeded" else "failed"
        # A Job is complete some seconds after its pod has succeeded, and starts no other meanwhile.
        return "running" if phase in ("Running", "Succeeded") else "pending"

    @property
    def exit_code(self) -> int | None:
        """0 if completed; if failed, the driver's exit code, or 4 if the cluster ended it; None if it has not ended."""
        if self.state == "completed":
            return 0
        if self.state != "failed":
            return None
        ended = _ended(self.driver)
        told = re.search(r"ExitCode: (\d+)", self._application_error())
        code = ended.exit_code if ended else int(told[1]) if told else 4
        return code if code in _MEANT else 4

    def why_failed(self) -> str | None:
        """Return the sentence with which a failed job ended."""
        condition, again = self._finished(), f"orchard retry {self.name} goes on from what is committed"
        if _OVERDUE in (condition and condition.reason, self.driver and self.driver.status.reason):
            stopped = "The job ran longer than its activeDeadlineSeconds and was stopped"
            return f"{stopped}: raise it, or {again}, for as long again."
        if self.driver is not None and (why := self.why_ended(self.driver.metadata.name)):
            return f"{why.removesuffix('.')}: {again}." if _ended_silently(self.driver) else why
        if error := self._application_error():
            return f"The application failed: {error}."
        return f"The job failed: {condition.message.rstrip('.')}." if condition and condition.message else None

    def why_ended(self, pod_name: str) -> str | None:
        """Return the sentence with which a driver failed; None if it did not, or its pod is gone."""
        pod = next((pod for pod in self.drivers if pod.metadata.name == pod_name), None)
        if pod is None or pod.status.phase != "Failed":
            return None
        ended = _ended(pod)
        if ended and ended.reason == "OOMKilled":
            limit = (pod.spec.containers[0].resources.limits or {}).get("memory", "its limit")
            chart = "driver.memoryOverhead, or tune.resources.memoryOverhead of a driver that tunes"
            by = "--driver-memory-overhead" if is_managed(pod) else chart
            return f"The driver needed more memory than {limit} and was killed: give it more ({by})."
        evicted = _is_evicted(pod)
        if not evicted and ended and ended.message and (said := _last_sentence(ended.message)):
            return said
        if not evicted and ended is None and (before := reasons.of_preparation(pod)):
            return f"The driver's pod {pod_name} failed: {before}."
        how = "no reason given"
        if ended:
            how = "its node restarted meanwhile" if ended.reason in _FORGOTTEN else f"exit code {ended.exit_code}"
        why = pod.status.message or pod.status.reason or how
        why = why.rstrip(". ")
        remedy = f": {reasons.relief(why, 'driver')}" if pod.status.reason == "Evicted" else ""
        return f"The driver's pod {pod_name} failed: {why}{remedy}."

    def hindrance(self) -> reasons.Hindrance | None:
        """Return why the driver does not start; None if it runs or is starting normally."""
        if self.driver is not None and self.driver.status.phase == "Pending":
            return reasons.of_start(self.cluster, self.driver)
        if self.job is not None and self.state == "pending":
            if is_begun(self.job):
                return reasons.Hindrance(
                    "`orchard submit` was cut off before everything was made: give the same command again, or "
                    f"`orchard cancel {self.name}`",
                    definite=False,
                )
            if self.job.spec is not None and self.job.spec.suspend:
                return reasons.Hindrance(
                    "its Job is suspended: a queue such as Kueue, or a person, holds it", definite=False
                )
            since = _born(self.driver or self.job)  # what kept back an earlier driver is past
            return self._refusal(self.job, since)
        return self._operators_hindrance()

    def _operators_hindrance(self) -> reasons.Hindrance | None:
        """Return why the operator does not start the application, if there is one."""
        if self.application is None:
            return None
        told = self._application_state()
        if told in ("SUSPENDING", "SUSPENDED"):
            return reasons.Hindrance(
                "its SparkApplication is suspended: a queue such as Kueue, or a person, holds it", definite=False
            )
        if not told and (datetime.now(UTC) - _made(self.application)).total_seconds() > _TAKEN_UP_SECONDS:
            return reasons.Hindrance(NOT_TAKEN_UP.format(self.cluster.namespace), definite=False)
        return None

    def why_again(self) -> str | None:
        """Return why a job waits for another driver, or for its end; None if it waits for its first driver."""
        state, error = self._application_state(), self._application_error()
        if state == "INVALIDATING" or (state == "PENDING_RERUN" and not self._counted()):  # it counts anew
            return "Its SparkApplication was changed: the operator ends its driver and starts another."
        if self.driver is not None and (why := self.why_ended(self.driver.metadata.name)):
            # A Job counts as failed some seconds after its pod has.
            ended = _ended(self.driver) if self.job is not None else None
            return why if ended and ended.exit_code in _FINAL else f"A driver failed, and another is started: {why}"
        if error or state in ("FAILING", "PENDING_RERUN"):
            what = "cannot be submitted" if state == "SUBMISSION_FAILED" else "failed"
            return f"A driver {what}, and another is started: {error or 'the operator does not say why'}."
        if self.driver is None and self._job_counts():
            return f"The driver's pod was deleted{_BY_WHOM}, and another is started."
        return None

    def why_before(self) -> str | None:
        """Return why the driver before the newest one ended; None if there was none, or nothing is known of it."""
        why = self.why_ended(self.drivers[-2].metadata.name) if len(self.drivers) > 1 else None
        if why is None and self.job is not None and self._attempts > len(self.drivers) > 0:
            return f"An earlier driver's pod was deleted{_BY_WHOM}; this one goes on from what is committed."
        if self.application is not None and self.driver is not None and self._attempts > 1:
            evictions = self._evictions({self.driver.metadata.name})
            evicted = reasons.of_eviction(evictions, _made(self.application), "driver")
            return f"An earlier driver failed: {evicted.sentence}." if evicted else None
        return f"An earlier driver failed: {why}" if why else None

    def leaving(self) -> str | None:
        """Return a sentence if the driver's node is lost, or its pod is being deleted, alone or with its job."""
        pod = self.driver
        if pod is None or pod.status.phase != "Running":
            return None
        if node := reasons.lost_node(pod):
            return (
                f"The driver's node {node} does not answer: {reasons.RETURN.format(node)}; the run goes on then, with "
                "another driver where this one has ended."
            )
        if not pod.metadata.deletion_timestamp:
            return None
        is_deleted = self.application is None and (self.job is None or self.job.metadata.deletion_timestamp)
        what = "The job is" if is_deleted else "The driver's pod is"
        then = "" if is_deleted else "; another is started"
        return f"{what} being deleted: the driver commits the finished tasks and ends{then}."

    def pause(self) -> str | None:
        """Return why the driver does not start, is lost or is being deleted: its log does not say so."""
        if self.state == "pending":
            hindrance = self.hindrance()
            return f"The driver cannot start: {hindrance.sentence}." if hindrance else None
        return self.leaving()

    def executor_trouble(self) -> str | None:
        """Return why an executor was restarted or replaced; None if none was."""
        reason = next(filter(None, map(reasons.of_end, self.executors)), None) or self._eviction()
        return f"An executor was lost: {reason.sentence}." if reason else None

    def _eviction(self) -> reasons.Hindrance | None:
        """Return why a node evicted an executor of the newest driver; its successor has the same name, and no trace."""
        if self.driver is None:
            return None
        return reasons.of_eviction(self._evictions({pod.metadata.name for pod in self.executors}), _born(self.driver))

    def _evictions(self, names: set[str]) -> Iterator[Any]:
        return (event for event in self.cluster.evictions() if event.involved_object.name in names)

    def _survivors(self) -> str | None:
        """Return a sentence on executors that are there after the last driver, which could not delete them.

        They belong to its pod, which Kubernetes keeps.
        """
        others = {pod.metadata.uid for pod in self.all_drivers if not self.is_of_this_run(pod)}
        if self.set is None or self.set.metadata.deletion_timestamp or is_owned(self.set, others):
            return None
        return f"Its executors still keep their nodes: orchard cancel {self.name} deletes them with the job."

    def _lacks_pods(self) -> bool:
        """Whether pods of the executors' set are refused; Kubernetes tries again ever more rarely."""
        return self.set is not None and bool((self.set.status.replicas or 0) < self.set.spec.replicas)

    def _pausing(self) -> reasons.Hindrance | None:
        """Return that somebody has scaled the executors to none; None if there are some, or nobody has."""
        if self.set is None or self.set.spec.replicas or self.set.metadata.deletion_timestamp:
            return None
        sentence = f"they were scaled to none, and the run waits for some: orchard scale {self.name} 2 lets it go on"
        return reasons.Hindrance(sentence, definite=False)

    def executor_hindrance(self, since: datetime | None = None) -> reasons.Hindrance | None:
        """Return why there are fewer executors than requested; only events after `since` count."""
        if self.set is not None and (self.set.status.ready_replicas or 0) >= self.set.spec.replicas:
            return None
        for pod in self.executors:
            if reason := reasons.of_start(self.cluster, pod):
                return reason
        if not self._lacks_pods():
            return None  # all are there and start
        return self._refusal(self.set, since or _born(self.set))

    def _refusal(self, maker: Any, since: datetime) -> reasons.Hindrance | None:
        events = self.cluster.events(maker.metadata.name)
        return reasons.of_events(event for event in events if reasons.seen(event) >= since)

    def progress(self) -> Progress:
        """Return the progress of the newest driver, from its log."""
        if self.driver is None:
            return Progress()
        return Progress.read(Log(self.cluster, self.driver.metadata.name).lines())

    def status(self) -> Status:
        """Return the job's status, for people and programs."""
        state, progress = self.state, self.progress()
        hindrance = self.hindrance() if state == "pending" else None
        if hindrance is None and state == "running":
            hindrance = self._pausing() or self.executor_hindrance()
        reason, code = None, self.exit_code
        if state == "failed":
            said = None if self.driver and _is_evicted(self.driver) else progress.sentence
            reason = " ".join(filter(None, (said or self.why_failed(), self._survivors())))
        elif state == "completed":
            reason = self._survivors()
        elif state == "pending":
            reason = self.why_again()
        elif state == "running":
            reason = progress.reason or self.executor_trouble() or self.why_before()
            if leaving := self.leaving():
                reason, hindrance = leaving, None
        if hindrance:
            who = "The driver cannot start" if state == "pending" else "Executors are missing"
            reason = f"{who}: {hindrance.sentence}."
            if state == "running" and hindrance.definite and self._lacks_pods():
                again = f"orchard scale {self.name} to another number makes Kubernetes try at once."
                reason = f"{reason} Once there is room, {again}"
            code = 4 if state == "pending" and hindrance.definite else None
        return Status(
            name=self.name,
            namespace=self.cluster.namespace,
            state=state,
            reason=reason,
            stage=progress.stage,
            done=progress.done,
            total=progress.total,
            per_second=progress.per_second,
            seconds_left=progress.seconds_left if state == "running" else None,
            executors_wanted=self.set.spec.replicas if self.set else None,
            executors_ready=(self.set.status.ready_replicas or 0) if self.set else None,
            executors_registered=progress.executors if state == "running" else None,
            restarts=max(len(self.drivers), self._attempts) - 1,
            seconds=self._seconds(),
            exit_code=code,
        )

    def is_of_this_run(self, pod: Any) -> bool:
        """Whether a pod belongs to this run; a schedule keeps the pods of earlier runs."""
        labels = pod.metadata.labels or {}
        if self.job is not None:
            return labels.get("batch.kubernetes.io/job-name") in (None, self.job.metadata.name)
        if self.application is not None:
            return labels.get("sparkoperator.k8s.io/app-name") in (None, self.application["metadata"]["name"])
        return True

    def _finished(self) -> Any:
        return end_of(self.job) if self.job else None

    def _application_state(self) -> str:
        return str(((self.application or {}).get("status") or {}).get("applicationState", {}).get("state") or "")

    def _application_error(self) -> str:
        status = (self.application or {}).get("status") or {}
        error = str(status.get("applicationState", {}).get("errorMessage") or "")
        refusal = reasons.of_spark(error)
        return refusal.sentence if refusal else reasons.last_words(error)

    def _counted(self) -> int:
        """Return how many drivers the operator counts."""
        return int(((self.application or {}).get("status") or {}).get("executionAttempts") or 0)

    def _job_counts(self) -> int:
        """Return how many drivers the Job counts."""
        status = self.job.status if self.job is not None else None
        return sum(getattr(status, kind, None) or 0 for kind in ("failed", "succeeded", "active"))

    @cached_property
    def _attempts(self) -> int:
        """Return how many drivers the Job or the operator counts: pods that were deleted or evicted may be gone."""
        if self.job is None:
            return max(1, self._counted())
        uid = self.job.metadata.uid
        # The Job does not count a drained node's; events of an earlier Job of its name are there for an hour, too.
        events = self.cluster.events(self.job.metadata.name)
        made = [event for event in events if event.reason == "SuccessfulCreate" and event.involved_object.uid == uid]
        return max(1, self._job_counts(), sum(event.count or 1 for event in made))

    def _seconds(self) -> float | None:
        thing = self.job or self.driver
        started = thing.status.start_time if thing else None
        if started is None:
            return None
        ended = self._finished()
        container = _ended(self.driver)
        end = ended.last_transition_time if ended else container.finished_at if container and not self.job else None
        return float(round(((end or datetime.now(UTC)) - started).total_seconds(), 1))


def executor_set(cluster: Cluster, name: str, *, must_see: bool = False) -> Any:
    """Return the StatefulSet or Deployment of a job's executors; None if there is none.

    Raises Forbidden, with `must_see`, if the caller may see neither kind.
    """
    kinds = {
        f"spark-s-{name}-0": cluster.apps.read_namespaced_stateful_set,
        f"spark-d-{name}-0": cluster.apps.read_namespaced_deployment,
    }
    refusals: list[Forbidden] = []
    for set_name, read in kinds.items():
        try:
            if found := cluster.call(read, set_name, cluster.namespace):
                return found
        except Forbidden as error:  # who may scale one kind need not see the other
            refusals.append(error)
    if must_see and len(refusals) == len(kinds):
        raise refusals[0]
    return None


def _component(thing: Any) -> str | None:
    labels = thing.metadata.labels or {}
    return labels.get("spark-role") or labels.get(
        reasons.COMPONENT
    )  # the operator gives executors its application's labels


def _born(thing: Any) -> datetime:
    born: datetime = thing.metadata.creation_timestamp
    return born


def _made(application: dict[str, Any]) -> datetime:
    """Return when an object of the operator's was made, which comes as it is in JSON."""
    return datetime.fromisoformat(application["metadata"]["creationTimestamp"])


def is_owned(thing: Any, owners: set[str]) -> bool:
    """Whether one of `owners`, by their uids, owns it."""
    return any(owner.uid in owners for owner in thing.metadata.owner_references or [])


def is_managed(thing: Any) -> bool:
    """Whether `orchard submit` made it."""
    return (thing.metadata.labels or {}).get(MANAGED_BY) == MANAGER


def end_of(job: Any) -> Any:
    """Return the condition by which a Job has ended; None if it has not."""
    conditions = (job.status and job.status.conditions) or []
    return next((c for c in conditions if c.type in ("Complete", "Failed") and c.status == "True"), None)


def begun(job: Mapping[str, Any]) -> dict[str, Any]:
    """Return a Job's manifest whose pod does not start, as what it needs is not there yet."""
    metadata = {**job["metadata"], "annotations": {**job["metadata"].get("annotations", {}), **_BEGUN}}
    return {**job, "metadata": metadata, "spec": {**job["spec"], "suspend": True}}


def is_begun(job: Any) -> bool:
    """Whether a Job is as `begun` has made it."""
    return bool((job.metadata.annotations or {}).items() >= _BEGUN.items())


def _is_evicted(pod: Any) -> bool:
    """Whether its node has ended a pod: the pod says why, and what ran in it only that it was interrupted."""
    return pod.status.reason is not None


def _ended(pod: Any) -> Any:
    """Return how the container of a pod ended; None while it has not."""
    statuses = (pod.status.container_statuses or []) if pod else []
    return statuses[0].state.terminated if statuses else None


def _ended_silently(pod: Any) -> bool:
    """Whether the driver of a pod was killed and neither it nor its node says why."""
    ended = _ended(pod)
    if ended is None or ended.reason == "OOMKilled" or _is_evicted(pod):
        return False
    return not (ended.message and _last_sentence(ended.message))


def _last_sentence(message: str) -> str | None:
    """Return the sentence that the driver left, or the last line of its log if it could leave none.

    None if it was killed while it worked: the last line tells of that work, or of how Spark stopped.
    """
    lines = message.strip().splitlines() or [message]
    said = [line for line in lines if line.startswith(SAYING)]
    last = (said or lines)[-1]
    return None if json_line(last) or _AT_WORK.match(last) else last.removeprefix(SAYING)
