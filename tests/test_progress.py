"""Without a terminal a stage says how far the whole of it is, and at least every half minute that it is at work."""

import json
import logging
import time

import pytest

from orchard import progress
from orchard.progress import JsonFormatter, stage
from waiting import wait_until


@pytest.fixture(autouse=True)
def _info(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "orchard")


def _lines(caplog: pytest.LogCaptureFixture) -> list[dict[str, object]]:
    return [json.loads(JsonFormatter().format(record)) for record in caplog.records]


def test_what_an_earlier_run_has_done_counts_and_does_not_make_this_one_faster(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "LOG_SECONDS", 0.0)
    with stage("extract", 1000, 900) as advance:
        time.sleep(0.2)
        advance(10)
    started, told, finished = _lines(caplog)
    assert (started["event"], started["done"], started["total"]) == ("started", 900, 1000)
    assert (told["done"], finished["done"]) == (910, 910)
    assert 0 < float(str(told["per_second"])) <= 50  # 10 images in 0.2 s, not 910
    assert float(str(told["seconds_left"])) >= 1.8


def test_a_stage_that_counts_nothing_says_that_it_is_at_work(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "QUIET_SECONDS", 0.1)
    with stage("classify"):
        started = time.monotonic()
        wait_until(lambda: [line["event"] for line in _lines(caplog)].count("progress") >= 3)
        seconds = time.monotonic() - started
    events = [line["event"] for line in _lines(caplog)]
    assert events[0] == "started" and events[-1] == "finished"
    assert 3 <= events.count("progress") <= seconds / 0.1 + 1
    time.sleep(0.25)
    assert len(caplog.records) == len(events)  # nothing after the end


def test_the_longest_silence_is_shorter_than_half_a_minute() -> None:
    assert progress.QUIET_SECONDS * 1.1 < 30
