"""When a schedule's next run is: Kubernetes does not say so of a CronJob."""

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from croniter import croniter


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
