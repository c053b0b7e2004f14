"""Core-hours are added up as cores come and go, and priced."""

import re
import time
from pathlib import Path

import pytest

from orchard import usage
from orchard.settings import Settings
from orchard.usage import Meter
from waiting import wait_until


def test_cores_count_for_as_long_as_they_are_held(monkeypatch: pytest.MonkeyPatch) -> None:
    now, held = [100.0], [0]
    monkeypatch.setattr(usage, "monotonic", lambda: now[0])
    meter = Meter(lambda _: held[0])
    for cores, seconds in ((0, 10), (2, 30), (8, 5), (1, 100)):
        held[0] = cores
        meter.core_seconds()  # as its thread does, every other second
        now[0] += seconds
    assert meter.core_seconds() == 0 * 10 + 2 * 30 + 8 * 5 + 1 * 100


def test_a_stage_has_its_own_seconds_and_core_hours(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(usage, "monotonic", lambda: now[0])
    meter = Meter(lambda own: 4 + own)
    meter.core_seconds()
    now[0] += 900
    with meter.stage("extract"):
        now[0] += 1800
    assert meter.seconds == {"extract": 1800}
    assert meter.used(Settings()) == {"extract": {"core_hours": 2.0}, "total": {"core_hours": 3.0}}


def test_cores_of_the_driver_count_while_a_stage_works_on_them(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(usage, "monotonic", lambda: now[0])
    meter = Meter(lambda own: own)  # Spark has not started yet
    meter.core_seconds()
    now[0] += 900
    with meter.stage("tune", cores=2):
        now[0] += 3600
    now[0] += 900
    assert meter.used(Settings()) == {"tune": {"core_hours": 2.0}, "total": {"core_hours": 2.0}}


def test_a_meter_counts_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usage, "SECONDS", 0.01)
    asked: list[int] = []

    def cores(own: int) -> int:
        asked.append(own)
        return 4 + own

    started = time.monotonic()
    with Meter(cores) as meter:
        wait_until(lambda: len(asked) > 20)
    assert 4 * 0.15 < meter.core_seconds() <= 4 * (time.monotonic() - started)


def test_prices_make_cost_and_energy_and_none_makes_none() -> None:
    assert usage.usage(7200, Settings()) == {"core_hours": 2.0}
    priced = usage.usage(7200, Settings(core_hour_price=0.04, core_watts=8))
    assert priced == {"core_hours": 2.0, "cost": 0.08, "energy_kwh": 0.016}


def test_the_worked_examples_of_the_docs_are_reckoned_right() -> None:
    text = (Path(__file__).parents[1] / "docs" / "sizing.md").read_text()
    rows = re.findall(
        r"^\| ([\d,]+) \D.*?\| ([\d.]+) \| (\d+) \S 4 \| ([\d.]+) \| (\d+) min \| ([\d.]+) \| ([\d.]+) \|$", text, re.M
    )
    assert len(rows) == 6
    for row in rows:
        images, milliseconds, nodes, hours, minutes, cost, requests = (float(cell.replace(",", "")) for cell in row)
        priced = usage.usage(images * milliseconds / 1000, Settings(core_hour_price=0.05))
        assert priced["core_hours"] == pytest.approx(hours, abs=0.006)
        assert priced["core_hours"] / (4 * nodes) * 60 == pytest.approx(minutes, abs=0.51)
        assert priced["cost"] == pytest.approx(cost, abs=0.006)
        assert images / 1000 * 0.0004 == pytest.approx(requests, abs=0.006)
