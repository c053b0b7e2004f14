"""When a schedule's next run is, as cron and Kubernetes reckon it."""

from datetime import UTC, datetime

import pytest

from orchard.cluster.schedules import next_run

TUESDAY = datetime(2026, 12, 1, 3, 0, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    ("schedule", "zone", "expected"),
    [
        ("* * * * *", None, "2026-12-01 03:01"),
        ("0 3 * * *", None, "2026-12-02 03:00"),
        ("0 3 * * *", "Europe/Paris", "2026-12-02 02:00"),
        ("0 5 * * *", "Europe/Paris", "2026-12-01 04:00"),
        ("*/20 * * * *", None, "2026-12-01 03:20"),
        ("5,10-12 4/6 * * ?", None, "2026-12-01 04:05"),
        ("0 0 * * sun", None, "2026-12-06 00:00"),
        ("0 0 * * MON-FRI", None, "2026-12-02 00:00"),
        ("0 0 15 * 1", None, "2026-12-07 00:00"),  # either, where both are limited
        ("0 0 29 2 *", None, "2028-02-29 00:00"),
        ("30 12 1 jan *", None, "2027-01-01 12:30"),
        ("@weekly", None, "2026-12-06 00:00"),
    ],
)
def test_the_next_run_is_the_first_after_now(schedule: str, zone: str | None, expected: str) -> None:
    found = next_run(schedule, zone, TUESDAY)
    assert found is not None
    assert f"{found.astimezone(UTC):%Y-%m-%d %H:%M}" == expected


@pytest.mark.parametrize(
    ("schedule", "zone"), [("0 0 30 2 *", None), ("@every 1h", None), ("61 * * * *", None), ("0 3 * * *", "No/Where")]
)
def test_what_cannot_be_read_or_never_comes_has_none(schedule: str, zone: str | None) -> None:
    assert next_run(schedule, zone, TUESDAY) is None
