"""Start, follow, scale and end a job, whether `orchard submit`, the chart or the operator started it."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from http import HTTPStatus
from itertools import pairwise
from typing import Any

from orchard.cluster import reasons, schedules, servers
from orchard.cluster.client import MANAGED_BY, MANAGER, OF_HELM, OPERATOR, Cluster, Forbidden, Log, Unreachable
from orchard.cluster.executors import DEFINITE_SECONDS
from orchard.cluster.follow import Display
from orchard.cluster.manifests import INSTANCE, JOB_NAME, KubernetesObject, as_meant
from orchard.cluster.reasons import Hindrance
from orchard.cluster.state import (
    NoJob,
    Observation,
    Status,
    begun,
    end_of,
    executor_set,
    is_begun,
    is_managed,
    is_owned,
)
from orchard.errors import ClusterError, UsageError

POLL_SECONDS = 1.0
WATCH_SECONDS = 3.0
AWAY_SECONDS = 300.0
"""How long the API server may be unreachable before following a job is given up."""
DELETE_SECONDS = 300.0
"""How long a deletion may take: driver and executors have grace periods, the driver's to commit."""
START_SECONDS = 600.0
"""How long to wait for the log of a pod that does not start."""

LONGEST_LABEL = 63
"""Kubernetes takes no longer value of a label, by which a job's objects are found."""
_OF_POD = ("controller-uid", "batch.kubernetes.io/controller-uid", "job-name", "batch.kubernetes.io/job-name")
"""Labels of a Job's pods that the next Job gives anew."""
_RERUN = "orchard/rerun"


class PodGone(ClusterError):
    """The pod whose log was requested no longer exists."""


def submit(cluster: Cluster, name: str, manifests: list[KubernetesObject]) -> None:
    """Apply the manifests of a job. The Job comes first, because it owns the rest: deleting it deletes everything.

    A finished job of the same name is replaced. A running job with the same settings is left as it is, except for the
    number of executors, which its driver follows; one whose submission was cut off is completed.

    Raises:
        UsageError: a job of the same name runs with other settings, or belongs to a Helm release; or an object that is
            not a job's has a name that is needed; or somebody else submits a job of the same name at this moment.
        ClusterError: the cluster refuses; the applied objects are deleted again.
    """
    job, *others = manifests
    before = Observation(cluster, name)
    if (before.exists and not _is_ours(before)) or _is_release(cluster, name):
        raise UsageError(
            f"{name} in the namespace {cluster.namespace} belongs to a Helm release or the Spark operator: "
            "change it there, or give this job another --name."
        )
    for manifest in others:  # they would be changed, and deleted with the job
        labels = cluster.labels(manifest)
        if labels is not None and labels.get(MANAGED_BY) != MANAGER:
            raise UsageError(
                f"The namespace {cluster.namespace} has a {manifest['kind']} {manifest['metadata']['name']} already, "
                "which orchard submit did not make: give this job another --name."
            )
    if before.job is not None and before.state in ("pending", "running"):
        if before.job.metadata.name != job["metadata"]["name"]:
            raise UsageError(
                f"{name} in the namespace {cluster.namespace} runs with other settings: "
                f"`orchard cancel {name}` first, or give this job another --name."
            )
        if not is_begun(before.job):
            _renumber(cluster, before, others)
            return
    elif before.exists:
        _delete(cluster, before)
    made = cluster.apply(begun(job))
    _give_way(cluster, name, made)
    try:
        for manifest in others:
            cluster.apply(_owned_by(made, manifest))
        cluster.apply({**job, "spec": {**job["spec"], "suspend": False}})
    except BaseException:
        _delete(cluster, Observation(cluster, name))
        raise


def _give_way(cluster: Cluster, name: str, made: Any) -> None:
    """Delete a Job that was just made, and raise UsageError, if another one of its name has not ended.

    Neither was there when the other was looked for. Both would have one output, one set of executors and the settings
    of the later one; so of two that see each other none stays.
    """
    others = (job for job in Observation(cluster, name).jobs if job.metadata.name != made.metadata.name)
    if any(end_of(job) is None and not job.metadata.deletion_timestamp for job in others):
        options = {"propagationPolicy": "Background", "preconditions": {"uid": made.metadata.uid}}
        cluster.call(cluster.batch.delete_namespaced_job, made.metadata.name, cluster.namespace, body=options)
        raise UsageError(
            f"{name} in the namespace {cluster.namespace} was submitted with other settings at the same moment: "
            f"`orchard status {name}` says whether it runs; then submit again, or give this one another --name."
        )


def _owned_by(job: Any, manifest: KubernetesObject) -> KubernetesObject:
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": job.metadata.name, "uid": job.metadata.uid}
    return {**manifest, "metadata": {**manifest["metadata"], "ownerReferences": [owner]}}


def _renumber(cluster: Cluster, seen: Observation, manifests: list[KubernetesObject]) -> None:
    """Tell the driver of a running job how many executors are wanted now."""
    name = f"{seen.name}-pods"
    (pods,) = (each for each in manifests if each["kind"] == "ConfigMap" and each["metadata"]["name"] == name)
    there = cluster.call(cluster.core.read_namespaced_config_map, name, cluster.namespace)
    if there is None or there.data.get("executors") != pods["data"].get("executors"):
        cluster.apply(_owned_by(seen.job, pods))


def follow(cluster: Cluster, name: str, *, start_timeout: float) -> Status:
    """Show a job's progress until it ends, through lost connections and driver restarts; return its final status.

    Raises:
        ClusterError: its driver cannot start, so the job was deleted; or somebody else has deleted it.
    """
    patience, contact = _Patience(start_timeout), _Contact()
    log: Log | None = None
    with Display() as display:
        while True:
            with contact.kept():
                seen = Observation(cluster, name)
                if not seen.exists:
                    raise _deleted(name, "followed")
                ended = seen.state in ("completed", "failed")
                if seen.driver is not None:
                    pod = seen.driver.metadata.name
                    if log is None or log.pod != pod:
                        if log is not None:
                            display.restart(seen.why_ended(log.pod))
                        log = Log(cluster, pod)
                    for text in log.lines(follow=not ended):
                        display.show(text)
                display.pause(None if ended else seen.pause())
                if ended:
                    status = seen.status()
                    display.finish(succeeded=status.exit_code in (0, 1))
                    return status
                if given_up := patience.exhausted_by(_hindrance(seen)):
                    _delete(cluster, seen)
                    raise ClusterError(f"The driver cannot start: {given_up}; the job was deleted.")
            time.sleep(POLL_SECONDS)


def report(cluster: Cluster, name: str) -> Status:
    """Return a job's status, or that of a release that only serves a model, or of a schedule that waits.

    Raises:
        ClusterError: there is no job of this name; or no job, and not all servers are ready; or the last run of a
            schedule did not succeed, and is not kept.
    """
    try:
        return _status(_find(cluster, name))
    except NoJob as told:
        if told.state is None:
            raise ClusterError(f"{told.how}.") from None
        found = Status.without_job(name, cluster.namespace, told.state, f"{told.how}.")
        return found if told.state == "serving" else _with_servers(found, cluster)


def _status(seen: Observation) -> Status:
    """Return a job's status, with what its release has besides: servers, and a schedule that goes on."""
    now = seen.status()
    if _is_ours(seen):  # orchard submit makes no more
        return now
    now = _with_servers(now, seen.cluster)
    if now.state in ("completed", "failed") and _is_scheduled(seen):
        after = schedules.whats_next(seen.cluster, seen.name)
        now = replace(now, reason=" ".join(filter(None, (now.reason, after))) or None)
    return now


def _with_servers(now: Status, cluster: Cluster) -> Status:
    found = servers.find(cluster, now.name)
    return replace(now, servers=f"{found.sentence}." if found else None)


def watch(cluster: Cluster, name: str) -> Iterator[Status]:
    """Yield a job's status whenever it has changed, until the job has ended; through lost connections.

    Raises:
        ClusterError: as `report` does, or the job was deleted meanwhile.
    """
    before: Status | None = None
    contact = _Contact()
    while True:
        now: Status | None = None
        with contact.kept():
            if before is None:
                now = report(cluster, name)
            else:
                seen = Observation(cluster, name)
                if not seen.exists:
                    raise _deleted(name, "watched")
                now = _status(seen)
        if now is not None:
            if before is None or replace(now, seconds=before.seconds) != before:
                yield now
            before = now
            if now.state not in ("pending", "running"):
                return
        time.sleep(WATCH_SECONDS)


def retry(cluster: Cluster, name: str) -> str:
    """Run an ended job again with the same settings; return a sentence that says what was done.

    Committed work is not repeated. A Job cannot be started twice, so it is deleted and created again. An application is
    started again by its operator when an annotation changes.

    Raises:
        UsageError: it has not ended.
        ClusterError: there is no such job, it is not deleted in time, or it may not be created.
    """
    seen = _find(cluster, name)
    if seen.state in ("pending", "running"):
        raise UsageError(f"{name} is {seen.state} and needs no other start: `orchard status {name}` says how it is.")
    if seen.job is None:
        _rerun_application(cluster, _application_name(seen))
    else:
        _make_again(cluster, seen)
    return f"{name} runs again, with the same settings; what was committed is not done again."


def logs(cluster: Cluster, name: str, *, executor: int | None = None, follow: bool = False) -> Iterator[str]:
    """Yield the lines of the newest driver's log, or of an executor's, by its number.

    Raises:
        PodGone: the driver's pod was removed, and with it its log.
        ClusterError: there is no such job, or no such pod, or it does not start.
    """
    seen = _find(cluster, name)
    pod = _pod_with_log(seen, executor)
    log, patience, said = Log(cluster, pod.metadata.name), _Patience(START_SECONDS), False
    contact = _Contact()
    while True:
        for line in log.lines(follow=follow):
            said = True
            yield line
        if not follow:
            if log.lost is not None:
                raise log.lost
            if not said and pod.status.phase == "Pending" and (why := reasons.of_start(cluster, pod)):
                raise ClusterError(f"There is no log yet: {why.sentence}.")
            return
        with contact.kept():
            now = cluster.call(cluster.core.read_namespaced_pod, pod.metadata.name, cluster.namespace)
            if now is None or now.status.phase in ("Succeeded", "Failed"):
                follow = False  # once more, for what was written meanwhile
            elif given_up := patience.exhausted_by(_waits(cluster, now)):
                raise ClusterError(f"There is no log to follow: {given_up}.")
        time.sleep(POLL_SECONDS)


def _pod_with_log(seen: Observation, executor: int | None) -> Any:
    """Return the newest driver's pod, or an executor's. Raises PodGone or ClusterError, as `logs` does."""
    if executor is None:
        pod = seen.driver
        if pod is None:
            if seen.state in ("completed", "failed"):
                raise PodGone(f"The driver's pod of {seen.name} is gone.")
            reason = seen.hindrance()
            raise ClusterError(f"{seen.name} has no driver yet: {reason.sentence if reason else 'it is on its way'}.")
    else:
        ends = {pod.metadata.name.rpartition("-")[2]: pod for pod in seen.executors}
        numbered = {int(end): pod for end, pod in ends.items() if end.isdigit()}
        there = numbered or dict(enumerate(seen.executors))  # a Deployment's pods have no numbers, but an age
        pod = there.get(executor)
        if pod is None:
            numbers = ", ".join(map(str, sorted(there))) or "none"
            raise ClusterError(f"{seen.name} has no executor {executor} now: it has {numbers}.")
    return pod


def scale(
    cluster: Cluster, name: str, executors: int, *, wait: bool = True, timeout: float = 300, if_running: bool = False
) -> str:
    """Set the number of executors of a running job; with `wait`, return when as many have registered.

    Without `wait`, the caller only needs the rights to get the set and to patch its scale.

    Args:
        cluster: the namespace.
        name: the job's name.
        executors: number of executors.
        wait: whether to wait until the driver has them.
        timeout: seconds to wait.
        if_running: whether to ignore a job that does not run, rather than raise.

    Returns:
        A sentence that says what was done.

    Raises:
        ClusterError: the job does not run, its executors may not be seen or do not come; the sentence says why.
    """
    _check_name(cluster, name)
    found = executor_set(cluster, name, must_see=True)
    if found is None:
        sentence = f"{name} has no executors to scale in the namespace {cluster.namespace}"
        if if_running:
            return f"{sentence} now; nothing was done."
        if _runs(cluster, name):
            raise ClusterError(
                f"{sentence}: it runs and has not made them yet (they come after tuning), or Spark chooses their "
                f"number (dynamicAllocation): see `orchard status {name}`."
            )
        if servers.find(cluster, name) is not None:
            more = (
                f"helm upgrade with serve.replicas, or `kubectl -n {cluster.namespace} scale deployment/{name}-serve`"
            )
            raise ClusterError(f"{sentence}: no job of it runs. To have more or fewer servers: {more}.")
        raise ClusterError(f"{sentence}: it is not running (any more, or yet): see `orchard status {name}`.")
    began = datetime.now(UTC).replace(microsecond=0)
    patch = cluster.apps.patch_namespaced_deployment_scale
    if found.metadata.name.startswith("spark-s-"):
        patch = cluster.apps.patch_namespaced_stateful_set_scale
    cluster.call(patch, found.metadata.name, cluster.namespace, {"spec": {"replicas": executors}})
    asked = f"{name} was asked for {executors} executors instead of {found.spec.replicas}"
    if not wait:
        return f"{asked}."
    started, patience, contact = time.monotonic(), _Patience(timeout), _Contact()
    back, hindrance = f"`orchard scale {name} {found.spec.replicas}` takes it back", None
    while True:
        with contact.kept():
            seen = Observation(cluster, name)
            if seen.set is None or not seen.exists or seen.state in ("completed", "failed"):
                return f"{asked}, and ended before they had registered."
            if seen.progress().executors == executors:
                return f"{name} has {executors} executors, after {time.monotonic() - started:.0f} s."
            hindrance = seen.executor_hindrance(since=began)
        if given_up := patience.exhausted_by(hindrance):
            raise ClusterError(f"{asked}, and they cannot all start: {given_up}; {back}.")
        if time.monotonic() - started > timeout:
            why = hindrance.sentence if hindrance else "they are on their way"
            raise ClusterError(f"{asked}, which have not registered in {timeout:.0f} s: {why}; {back}.")
        time.sleep(POLL_SECONDS)


def _runs(cluster: Cluster, name: str) -> bool:
    """Whether a job runs, as far as the caller may see it: who may scale its executors need not."""
    with suppress(Forbidden):
        return Observation(cluster, name).state == "running"
    return False


def cancel(cluster: Cluster, name: str) -> str:
    """Delete a job, and wait until its driver and executors are gone; return a sentence that says what was done.

    The driver has its grace period to commit, and committed work is kept. For a schedule, the newest run is deleted.

    Raises:
        ClusterError: there is no such job, or it is not deleted in time.
    """
    seen = _find(cluster, name)
    ours, release = _is_ours(seen), _release(cluster, name)
    _delete(cluster, seen)
    rest = "" if ours else f"; what the chart made besides goes with `helm uninstall {release}`"
    if not ours and release is None:
        rest = "; what applied it (GitOps, kubectl) may start it again, and takes away what the chart made besides"
    if _is_scheduled(seen):
        end = f"`helm uninstall {release}`" if release else "it is taken out of what is applied (GitOps, kubectl)"
        rest = f"; its schedule starts the next one, until {end} or schedule.suspend=true"
        if schedules.is_suspended(cluster, name):
            rest = "; its schedule is suspended (schedule.suspend)"
        if _runs(cluster, name):
            rest = f"; another run of it still works, which the same command cancels{rest}"
    return f"{name} is cancelled, its driver and executors are gone{rest}."


def _deleted(name: str, how: str) -> ClusterError:
    """Return the error of a job that somebody else has deleted, alone or with its namespace."""
    again = "submitted or installed again it goes on from what is committed"
    return ClusterError(f"The job {name}, or its namespace, was deleted while it was {how}: {again}.")


def _missing(cluster: Cluster, name: str) -> ClusterError:
    return ClusterError(
        f"There is no job {name} in the namespace {cluster.namespace}: check the name, --namespace and --context."
    )


def _check_name(cluster: Cluster, name: str) -> None:
    """Refuse a name that no job can have; Kubernetes would answer with its rules for labels."""
    if len(name) > LONGEST_LABEL or not JOB_NAME.fullmatch(name):
        raise _missing(cluster, name)


def _find(cluster: Cluster, name: str) -> Observation:
    _check_name(cluster, name)
    seen = Observation(cluster, name)
    if seen.exists:
        return seen
    if (waits := schedules.waiting(cluster, name)) is not None:
        raise waits
    if (found := servers.find(cluster, name)) is not None:
        release = found.release
        end = f"`helm uninstall {release}` ends them" if release else "whoever applied them (GitOps, kubectl) ends them"
        raise NoJob(
            f"{name} serves a model, and has no job now: {found.sentence}",
            f"{end}, `kubectl -n {cluster.namespace} logs deployment/{name}-serve` shows a server's log",
            "serving" if found.is_ready else None,
        )
    with suppress(Forbidden):
        if _is_release(cluster, name):
            release = _release(cluster, name)
            again = "`helm upgrade`" if release else "applying it again (GitOps, kubectl)"
            deleted = "or somebody deleted it"
            if release:
                deleted = f"somebody deleted it, or Helm failed before it was made (`helm status {release}`)"
            raise ClusterError(
                f"{name} is installed, and has no job now: it has ended and was removed (ttlSecondsAfterFinished), "
                f"{deleted}. `orchard logs {name} --output OUT` shows its log, {again} runs it again."
            )
    raise _missing(cluster, name)


def _is_release(cluster: Cluster, name: str) -> bool:
    """Whether a Helm release has the name: its settings are there before its Job, and after it was removed."""
    settings = _settings(cluster, name)
    return settings is not None and not is_managed(settings)


def _release(cluster: Cluster, name: str) -> str | None:
    """Return the Helm release of a job; None if its manifests were applied otherwise, as GitOps and kubectl do."""
    with suppress(Forbidden):
        settings = _settings(cluster, name)
        if settings is not None:
            return (settings.metadata.annotations or {}).get(OF_HELM)
    return name


def _settings(cluster: Cluster, name: str) -> Any:
    """Return the ConfigMap with the settings of a job or a release; None if there is none."""
    return cluster.call(cluster.core.read_namespaced_config_map, f"{name}-settings", cluster.namespace)


def _is_ours(seen: Observation) -> bool:
    """Whether `orchard submit` made the job; of one that was deleted by other means its driver may end yet."""
    thing = seen.job if seen.job is not None else seen.driver
    return seen.application is None and thing is not None and is_managed(thing)


def _is_scheduled(seen: Observation) -> bool:
    """Whether a schedule has started it."""
    return bool(seen.job.metadata.owner_references) if seen.job is not None else _application_name(seen) != seen.name


def _application_name(seen: Observation) -> str:
    return str(seen.application["metadata"]["name"]) if seen.application is not None else seen.name


def _left(cluster: Cluster, seen: Observation, *, with_settings: bool = False) -> list[str]:
    """Return the names of a job's objects that still exist, or may: the API server may be away for a moment."""
    try:
        return _objects_left(cluster, seen) or (_settings_left(cluster, seen.name) if with_settings else [])
    except Unreachable:
        return [seen.name]


def _objects_left(cluster: Cluster, seen: Observation) -> list[str]:
    """Return the names of a job's objects that still exist; those of other runs of its schedule do not count."""
    now, things, drivers = Observation(cluster, seen.name), [], {pod.metadata.name for pod in seen.drivers}
    if seen.job is not None:
        found = cluster.call(cluster.batch.read_namespaced_job, seen.job.metadata.name, cluster.namespace)
        if found is not None and found.metadata.uid == seen.job.metadata.uid:
            things.append(found)
    alone = now.job is None and now.application is None
    things += [pod for pod in now.drivers if alone or pod.metadata.name in drivers]
    theirs = {pod.metadata.uid for pod in now.all_drivers if not seen.is_of_this_run(pod)}
    # The set belongs to its driver, and an executor to the set or, without one, to the driver.
    for thing in (*([now.set] if now.set is not None else []), *now.executors):
        if is_owned(thing, theirs):
            theirs.add(thing.metadata.uid)
        else:
            things.append(thing)
    names = [thing.metadata.name for thing in things]
    stays = now.application is not None and _application_name(now) == _application_name(seen)
    return [*names, _application_name(seen)] if stays else names


def _delete(cluster: Cluster, seen: Observation) -> None:
    """Delete the Job, or the operator's application, and wait for its pods, its set and what it owns.

    Raises:
        ClusterError: some of it is still there after `DELETE_SECONDS`.
    """
    ours = _is_ours(seen)
    if seen.job is not None:
        _delete_job(cluster, seen, "Foreground")
    elif seen.exists and not ours:
        _delete_application(cluster, _application_name(seen))
    until = time.monotonic() + DELETE_SECONDS
    while left := _left(cluster, seen, with_settings=ours):
        if time.monotonic() > until:
            raise ClusterError(
                f"{seen.name} was deleted, and {', '.join(left)} is still there after "
                f"{DELETE_SECONDS:.0f} s: look with `kubectl describe` for a node that is gone, or a finalizer."
            )
        time.sleep(POLL_SECONDS)


def _delete_job(cluster: Cluster, seen: Observation, how: str) -> None:
    """Delete the Job that was seen, and not one of its name that somebody else has made since."""
    options = {"propagationPolicy": how, "preconditions": {"uid": seen.job.metadata.uid}}
    with _told_if_made_again(seen):
        cluster.call(cluster.batch.delete_namespaced_job, seen.job.metadata.name, cluster.namespace, body=options)


@contextmanager
def _told_if_made_again(seen: Observation) -> Iterator[None]:
    """Say in a sentence that somebody else has made the Job again meanwhile."""
    try:
        yield
    except ClusterError as error:
        if getattr(error.__cause__, "status", None) != HTTPStatus.CONFLICT:
            raise
        raise ClusterError(
            f"{seen.name} was started again by somebody else just now: `orchard status {seen.name}` says how it is."
        ) from error


def _hindrance(seen: Observation) -> Hindrance | None:
    """Return the reason why a job does not start; that nothing is known about it yet is one, too, and may pass."""
    waits = Hindrance(f"nothing is known of its pod, {seen.name} is {seen.state}", definite=False)
    return seen.hindrance() or (waits if seen.state == "pending" else None)


def _waits(cluster: Cluster, pod: Any) -> Hindrance | None:
    waits = Hindrance(f"pod {pod.metadata.name} has not started", definite=False)
    return reasons.of_start(cluster, pod) or (waits if pod.status.phase == "Pending" else None)


def _settings_left(cluster: Cluster, name: str) -> list[str]:
    """Return the name of a job's settings while they are there; what was applied by hand has no owner, and stays."""
    found = _settings(cluster, name)
    return [found.metadata.name] if found is not None and found.metadata.owner_references else []


def output_of(cluster: Cluster, name: str) -> str | None:
    """Return a job's output, from the arguments of its Job, schedule or application; None if all are gone."""
    seen = Observation(cluster, name)
    schedule = schedules.cron_job(cluster, name)
    arguments: list[str] = []
    if seen.job is not None:
        arguments = seen.job.spec.template.spec.containers[0].args or []
    elif schedule is not None:
        arguments = schedule.spec.job_template.spec.template.spec.containers[0].args or []
    elif seen.application is not None:
        arguments = seen.application.get("spec", {}).get("arguments") or []
    elif (of_operator := cluster.application_schedule(name)) is not None:
        arguments = of_operator["spec"]["template"].get("arguments") or []
    arguments = [as_meant(word) for word in arguments]
    if arguments[:1] == ["tune"]:
        return arguments[1]
    return next((after for flag, after in pairwise(arguments) if flag == "--output"), None)


def _make_again(cluster: Cluster, seen: Observation) -> None:
    """Replace a Job with a new one of the same content, which takes over the objects that the old one owned."""
    job = cluster.core.api_client.sanitize_for_serialization(seen.job)
    metadata, spec = job["metadata"], job["spec"]
    # One that a schedule owns goes with the schedule.
    kept = {key: metadata[key] for key in ("name", "labels", "annotations", "ownerReferences") if key in metadata}
    for labels in (kept.get("labels", {}), spec["template"]["metadata"]["labels"]):
        for label in _OF_POD:
            labels.pop(label, None)
    spec.pop("selector", None)
    mine = _owned(cluster, seen)
    # What it owns must not go with it; its pods must.
    how = "Orphan" if mine else "Foreground"
    _delete_job(cluster, seen, how)
    for pod in seen.drivers if mine else ():
        cluster.call(cluster.core.delete_namespaced_pod, pod.metadata.name, cluster.namespace)
    until = time.monotonic() + DELETE_SECONDS
    while _left(cluster, seen):
        if time.monotonic() > until:
            raise ClusterError(
                f"{kept['name']} was deleted to be made again, and is still there after {DELETE_SECONDS:.0f} s: "
                "look with `kubectl describe` for a finalizer, then submit or upgrade again."
            )
        time.sleep(POLL_SECONDS)
    body = {"apiVersion": "batch/v1", "kind": "Job", "metadata": kept, "spec": spec}
    with _told_if_made_again(seen):
        made = cluster.call(cluster.batch.create_namespaced_job, cluster.namespace, body)
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": kept["name"], "uid": made.metadata.uid}
    for patch, name in mine:
        cluster.call(patch, name, cluster.namespace, {"metadata": {"ownerReferences": [owner]}})


def _owned(cluster: Cluster, seen: Observation) -> list[tuple[Callable[..., Any], str]]:
    """Return how to patch each object that a submitted job owns, and its name."""
    from kubernetes.client import RbacAuthorizationV1Api

    if not _is_ours(seen):
        return []
    rbac = RbacAuthorizationV1Api(cluster.core.api_client)
    kinds = [
        (cluster.core.list_namespaced_config_map, cluster.core.patch_namespaced_config_map),
        (cluster.core.list_namespaced_service_account, cluster.core.patch_namespaced_service_account),
        (rbac.list_namespaced_role, rbac.patch_namespaced_role),
        (rbac.list_namespaced_role_binding, rbac.patch_namespaced_role_binding),
    ]
    uid, ours = seen.job.metadata.uid, f"{INSTANCE}={seen.name}"
    return [
        (patch, thing.metadata.name)
        for find, patch in kinds
        for thing in cluster.find(find, label_selector=ours)
        if any(owner.uid == uid for owner in thing.metadata.owner_references or [])
    ]


def _rerun_application(cluster: Cluster, name: str) -> None:
    from kubernetes.client import CustomObjectsApi

    group, version, plural = OPERATOR
    patch = CustomObjectsApi(cluster.core.api_client).patch_namespaced_custom_object
    now = datetime.now(UTC).isoformat(timespec="seconds")
    template = {"metadata": {"annotations": {_RERUN: now}}}
    change = {"spec": {"driver": {"template": template}}}
    if cluster.call(patch, group, version, cluster.namespace, plural, name, change) is None:
        raise ClusterError(f"There is no SparkApplication {name} any more: helm upgrade makes it again.")


def _delete_application(cluster: Cluster, name: str) -> None:
    from kubernetes.client import CustomObjectsApi

    group, version, plural = OPERATOR
    delete = CustomObjectsApi(cluster.core.api_client).delete_namespaced_custom_object
    cluster.call(delete, group, version, cluster.namespace, plural, name)


class _Contact:
    """Bears an API server that is away, for `AWAY_SECONDS` after it has answered."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Pass over Unreachable within the block, unless the API server has been away for too long."""
        try:
            yield
            self._last = time.monotonic()
        except Unreachable:
            if time.monotonic() - self._last > AWAY_SECONDS:
                raise


class _Patience:
    """Waits a few seconds for a reason that hardly passes by itself, and `timeout` for one that may."""

    def __init__(self, timeout: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._timeout, self._clock = timeout, clock
        self._since: float | None = None

    def exhausted_by(self, reason: Hindrance | None) -> str | None:
        """Return the reason's sentence once it has held for too long."""
        if reason is None:
            self._since = None
            return None
        now = self._clock()
        self._since = self._since if self._since is not None else now
        allowed = min(DEFINITE_SECONDS, self._timeout) if reason.definite else self._timeout
        return reason.sentence if now - self._since >= allowed else None
