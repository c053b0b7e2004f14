"""When a schedule's next run is: Kubernetes does not say so of a CronJob."""

import re
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

_SHORT = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
_MONTHS = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]
_DAYS = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"]
_FIELDS = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 6))
_PART = re.compile(r"(?:[*?]|(\d+)(?:-(\d+))?)(?:/(\d+))?")
_FAR_DAYS = 366 * 8
"""As long as 29 February may be away."""


def next_run(schedule: str, zone: str | None, now: datetime) -> datetime | None:
    """Return when `schedule` starts its next run after `now`.

    None if it never does, or if this machine does not know how to read it.
    """
    try:
        place = ZoneInfo(zone) if zone else UTC
        minutes, hours, days, months, weekdays = _read(schedule)
    except (ValueError, OSError, LookupError):  # such as a time zone that this machine lacks
        return None
    first = now.astimezone(place)
    # As in cron: where both are limited, either is enough.
    either = not any(field[0] in "*?" for field in _words(schedule)[2:5:2])
    for ahead in range(_FAR_DAYS):
        day = first.date() + timedelta(days=ahead)
        of_month, of_week = day.day in days, day.isoweekday() % 7 in weekdays
        if day.month not in months or not ((of_month or of_week) if either else (of_month and of_week)):
            continue
        times = (
            datetime(day.year, day.month, day.day, hour, minute, tzinfo=place) for hour in hours for minute in minutes
        )
        if found := next((time for time in times if time > now), None):
            return found
    return None


def _words(schedule: str) -> list[str]:
    text = schedule.strip().lower()
    return _SHORT.get(text, text).split()


def _read(schedule: str) -> list[list[int]]:
    """Return the values of the five fields. Raises ValueError."""
    words = _words(schedule)
    return [_values(word, *bounds) for word, bounds in zip(words, _FIELDS, strict=True)]


def _values(field: str, lowest: int, highest: int) -> list[int]:
    for names, offset in ((_MONTHS, 1), (_DAYS, 0)):
        if highest == len(names) - 1 + offset:
            for number, name in enumerate(names, offset):
                field = field.replace(name, str(number))
    found: set[int] = set()
    for part in field.split(","):
        read = _PART.fullmatch(part)
        if read is None:
            raise ValueError(part)
        begin, end, step = (None if text is None else int(text) for text in read.groups())
        if begin is None:
            begin, end = lowest, highest
        elif end is None:
            end = begin if step is None else highest
        if not lowest <= begin <= end <= highest:
            raise ValueError(part)
        found.update(range(begin, end + 1, step or 1))
    return sorted(found)
