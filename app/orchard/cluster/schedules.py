"""A release's schedule, of Kubernetes (a CronJob) or of the Spark operator: how it is, when its next run begins."""

from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

from croniter import croniter

from orchard.cluster.client import Cluster, Forbidden
from orchard.cluster.state import NOT_TAKEN_UP, JobState, NoJob

_RESUME = "schedule.suspend=false of the chart resumes it"


def next_run(schedule: str, zone: str | None, now: datetime) -> datetime | None:
    """Return when `schedule` starts its next run after `now`.

    None if it never does, or if this machine does not know how to read it.
    """
    try:
        place = ZoneInfo(zone) if zone else UTC
        found: datetime = croniter(schedule, now.astimezone(place)).get_next(datetime)
    except (ValueError, OSError, LookupError):  # such as a time zone that this machine lacks
        return None
    return found


def cron_job(cluster: Cluster, name: str) -> Any:
    """Return a job's schedule; None if there is none, or the caller may not see it."""
    with suppress(Forbidden):
        return cluster.call(cluster.batch.read_namespaced_cron_job, name, cluster.namespace)
    return None


def waiting(cluster: Cluster, name: str, schedule: Any) -> NoJob:
    """Return how a schedule is of which no run is there."""
    past = schedule.status
    last, good = (past.last_schedule_time, past.last_successful_time) if past else (None, None)
    failed, run = False, "no run of it has begun yet"
    if last is not None and (good is None or good < last) and not past.active:
        failed = True
        log = f"`orchard logs {name} --output OUT` shows its log"
        run = f"its last run, of {_when(last)}, failed or was cancelled, and is not kept ({log})"
    elif last is not None:
        run = f"its last run, of {_when(last)}, is not kept"
    suspended, at = schedule.spec.suspend, _next_of(schedule)
    then = f"it is suspended, {_RESUME}" if suspended else f"the next begins at {at}" if at else "wait for its time"
    state: JobState = "suspended" if suspended else "scheduled"
    return NoJob(
        f"{name} is a schedule ({_expression(schedule.spec.schedule, schedule.spec.time_zone)}), and {run}: {then}",
        f"`kubectl -n {cluster.namespace} create job --from=cronjob/{name} {name}-now` starts one now",
        None if failed else state,
    )


def waiting_for_operator(cluster: Cluster, name: str, schedule: Mapping[str, Any]) -> NoJob:
    """Return how a schedule of the Spark operator is of which no run is there."""
    spec, status = schedule["spec"], schedule.get("status") or {}
    state: JobState | None = None
    if spec.get("suspend"):
        state, then = "suspended", f"it is suspended, {_RESUME}"
    elif not status.get("scheduleState"):
        then = NOT_TAKEN_UP.format(cluster.namespace)
    elif why := status.get("reason"):
        then = f"the operator refuses it ({why})"
    else:
        at = _next_of_operator(schedule)
        state, then = "scheduled", f"the next begins at {at}" if at else "wait for its time"
    return NoJob(
        f"{name} is a schedule ({_expression(spec['schedule'], spec.get('timeZone'))}), and no run of it has begun, or "
        f"is kept: {then}",
        "the operator starts none in between",
        state,
    )


def whats_next(cluster: Cluster, name: str) -> str | None:
    """Return a sentence on what the schedule of an ended run does now; None if it cannot be seen."""
    if (schedule := cron_job(cluster, name)) is not None:
        suspended, at = schedule.spec.suspend, _next_of(schedule)
    elif (of_operator := cluster.application_schedule(name)) is not None:
        suspended, at = of_operator["spec"].get("suspend"), _next_of_operator(of_operator)
    else:
        return None
    if suspended:
        return f"Its schedule is suspended: {_RESUME}."
    return f"Its schedule starts the next run at {at}." if at else None


def _next_of(schedule: Any) -> str | None:
    at = next_run(schedule.spec.schedule, schedule.spec.time_zone, datetime.now(UTC))
    return _when(at) if at else None


def _next_of_operator(schedule: Mapping[str, Any]) -> str | None:
    at = (schedule.get("status") or {}).get("nextRun")
    return _when(datetime.fromisoformat(at)) if at else None


def _expression(schedule: str, zone: str | None) -> str:
    return f"{schedule}, {zone}" if zone else schedule


def _when(time: datetime) -> str:
    return f"{time.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def is_suspended(cluster: Cluster, name: str) -> bool:
    """Whether a job's schedule starts no runs, as far as the caller may see it."""
    if (schedule := cron_job(cluster, name)) is not None:
        return bool(schedule.spec.suspend)
    of_operator = cluster.application_schedule(name)
    return bool(of_operator and of_operator["spec"].get("suspend"))
