"""A release's schedule, of Kubernetes (a CronJob) or of the Spark operator: how it is, when its next run begins."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
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


def is_suspended(cluster: Cluster, name: str) -> bool:
    """Whether a job's schedule starts no runs, as far as the caller may see it."""
    found = _find(cluster, name)
    return found is not None and found.is_suspended


def whats_next(cluster: Cluster, name: str) -> str | None:
    """Return a sentence on what the schedule of an ended run does now; None if it cannot be seen."""
    found = _find(cluster, name)
    if found is None:
        return None
    if found.is_suspended:
        return f"Its schedule is suspended: {_RESUME}."
    return f"Its schedule starts the next run at {found.next_run}." if found.next_run else None


def waiting(cluster: Cluster, name: str) -> NoJob | None:
    """Return how a schedule is of which no run is there; None if there is no schedule."""
    found = _find(cluster, name)
    if found is None:
        return None
    state: JobState | None = "suspended" if found.is_suspended else "scheduled"
    then = "wait for its time"
    if found.is_suspended:
        then = f"it is suspended, {_RESUME}"
    elif found.trouble:
        state, then = None, found.trouble
    elif found.next_run:
        then = f"the next begins at {found.next_run}"
    if found.has_failed:
        state = None
    return NoJob(f"{name} is a schedule ({found.expression}), and {found.last_run}: {then}", found.now, state)


@dataclass(frozen=True)
class _Schedule:
    expression: str
    is_suspended: bool
    next_run: str | None
    last_run: str
    """What became of the last run, of which nothing is there."""
    now: str
    """How to start a run now."""
    has_failed: bool = False
    """Whether the last run is known to have failed, or to have been cancelled."""
    trouble: str | None = None
    """Why the operator will start none; None if nothing is wrong."""


def _find(cluster: Cluster, name: str) -> _Schedule | None:
    """Return a job's schedule; None if there is none, or the caller may not see it."""
    if (schedule := cron_job(cluster, name)) is not None:
        return _of_cron_job(cluster, name, schedule)
    if (of_operator := cluster.application_schedule(name)) is not None:
        return _of_operator(cluster, of_operator)
    return None


def _of_cron_job(cluster: Cluster, name: str, schedule: Any) -> _Schedule:
    spec, past = schedule.spec, schedule.status
    last, good = (past.last_schedule_time, past.last_successful_time) if past else (None, None)
    has_failed, run = False, "no run of it has begun yet"
    if last is not None and (good is None or good < last) and not past.active:
        log = f"`orchard logs {name} --output OUT` shows its log"
        has_failed, run = True, f"its last run, of {_when(last)}, failed or was cancelled, and is not kept ({log})"
    elif last is not None:
        run = f"its last run, of {_when(last)}, is not kept"
    at = next_run(spec.schedule, spec.time_zone, datetime.now(UTC))
    return _Schedule(
        _expression(spec.schedule, spec.time_zone),
        bool(spec.suspend),
        _when(at) if at else None,
        run,
        f"`kubectl -n {cluster.namespace} create job --from=cronjob/{name} {name}-now` starts one now",
        has_failed,
    )


def _of_operator(cluster: Cluster, schedule: Mapping[str, Any]) -> _Schedule:
    spec, status = schedule["spec"], schedule.get("status") or {}
    trouble, at = None, status.get("nextRun")
    if not status.get("scheduleState"):
        trouble = NOT_TAKEN_UP.format(cluster.namespace)
    elif why := status.get("reason"):
        trouble = f"the operator refuses it ({why})"
    return _Schedule(
        _expression(spec["schedule"], spec.get("timeZone")),
        bool(spec.get("suspend")),
        _when(datetime.fromisoformat(at)) if at else None,
        "no run of it has begun, or is kept",
        "the operator starts none in between",
        trouble=trouble,
    )


def _expression(schedule: str, zone: str | None) -> str:
    return f"{schedule}, {zone}" if zone else schedule


def _when(time: datetime) -> str:
    return f"{time.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
