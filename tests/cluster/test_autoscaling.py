"""The number of executors follows the images that are left, and nobody's wish but the last person's."""

import logging

import pytest

from orchard import progress
from orchard.cluster import autoscaling
from orchard.cluster.autoscaling import DECISION_SECONDS, Autoscaler, Bounds, needed
from orchard.errors import UsageError
from orchard.progress import Work
from orchard.settings import load


class Cluster:
    """Executors of a rate each, that come as they are asked for; time passes by `work` alone."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, replicas: int, rate: float, bounds: Bounds) -> None:
        self.now, self.replicas, self.rate = 0.0, replicas, rate
        self.asked: list[int] = []
        self.stages: dict[str, Work] = {}
        monkeypatch.setattr(autoscaling, "monotonic", lambda: self.now)
        monkeypatch.setattr(progress, "works", lambda: list(self.stages.values()))
        self.autoscaler = Autoscaler(bounds, lambda: self.replicas, self.scale)

    def scale(self, number: int) -> bool:
        self.asked.append(number)
        self.replicas = number
        return True

    def begin(self, name: str, total: int | None = None, before: int = 0) -> Work:
        for work in self.stages.values():
            work.ended = 1.0
        self.stages[name] = Work(name, total, before, before)
        return self.stages[name]

    def work(self, seconds: float) -> None:
        """Let time pass, with images done by the executors there are."""
        for _ in range(round(seconds / DECISION_SECONDS)):
            self.autoscaler.look(self.replicas)
            self.now += DECISION_SECONDS
            for work in self.stages.values():
                if work.name == "extract" and work.ended is None and work.total is not None:
                    work.done = min(work.total, work.done + round(self.replicas * self.rate * DECISION_SECONDS))


def test_so_many_are_needed_that_it_ends_in_time() -> None:
    assert needed(100_000, 1000, 10, 1, 50) == 10
    assert needed(100_001, 1000, 10, 1, 50) == 11
    assert needed(100_000, 1000, 10, 1, 8) == 8
    assert needed(10, 1000, 10, 2, 8) == 2
    assert needed(0, -5, 10, 2, 8) == 2
    assert needed(1, -5, 10, 2, 8) == 8  # too late: as many as there may be


@pytest.mark.parametrize(("replicas", "total"), [(1, 200_000), (20, 200_000), (20, 20_000)])
def test_extraction_ends_in_time_and_with_no_more_than_it_takes(
    monkeypatch: pytest.MonkeyPatch, replicas: int, total: int
) -> None:
    cluster = Cluster(monkeypatch, replicas=replicas, rate=10, bounds=Bounds(1, 40, 3600))
    cluster.begin("list")
    cluster.work(60)
    cluster.begin("start")
    cluster.work(30)
    assert cluster.replicas == replicas  # nothing is known yet
    extract = cluster.begin("extract", total, 0)
    held = 0.0
    while extract.done < total:
        cluster.work(DECISION_SECONDS)
        held += cluster.replicas * DECISION_SECONDS
    assert cluster.now < 3600
    assert held < 1.3 * total / 10 + 20 * 4 * DECISION_SECONDS  # what it takes, and what it took to learn that
    assert len(cluster.asked) < 12  # it does not flutter
    cluster.begin("reduce")
    cluster.work(30)
    assert cluster.replicas == 1


def test_what_an_earlier_driver_did_does_not_make_executors_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(monkeypatch, replicas=2, rate=10, bounds=Bounds(1, 40, 1200))
    cluster.begin("extract", 1_000_000, 900_000)
    cluster.work(90)
    assert cluster.replicas >= 9  # 100,000 images in 1,200 s at 10 a second


def test_a_persons_number_holds_until_the_next_stage(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    cluster = Cluster(monkeypatch, replicas=1, rate=10, bounds=Bounds(1, 40, 600))
    cluster.begin("extract", 100_000, 0)
    cluster.work(90)
    assert cluster.replicas > 10
    cluster.replicas = 3  # kubectl scale
    with caplog.at_level(logging.INFO, "orchard"):
        cluster.work(300)
    assert cluster.replicas == 3
    assert caplog.text.count("somebody scaled the executors to 3") == 1
    cluster.begin("reduce")
    cluster.work(30)
    assert cluster.replicas == 1


def test_so_does_a_number_that_is_set_as_soon_as_a_stage_has_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(monkeypatch, replicas=1, rate=10, bounds=Bounds(1, 40, 600))
    cluster.begin("extract", 100_000, 0)
    cluster.work(90)
    cluster.autoscaler.look(cluster.replicas)
    cluster.begin("reduce")  # between two decisions
    for second in range(int(DECISION_SECONDS) * 2):
        cluster.now += 1
        cluster.autoscaler.look(cluster.replicas)  # as often as the driver does
        if second == 2:
            cluster.replicas = 3  # kubectl scale
    assert cluster.replicas == 3


def test_a_set_that_cannot_be_read_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(monkeypatch, replicas=1, rate=10, bounds=Bounds(1, 40, 600))
    cluster.autoscaler.read = lambda: None
    cluster.begin("extract", 100_000, 0)
    cluster.work(300)
    assert cluster.asked == []


def test_bounds_come_from_the_settings() -> None:
    assert load().bounds() is None
    assert load({"max_executors": 8, "finish_within": "2h"}).bounds() == Bounds(1, 8, 7200)
    assert load({"max_executors": 8, "min_executors": 3, "finish_within": "90m"}).bounds() == Bounds(3, 8, 5400)
    for flags, told in (
        ({"max_executors": 8}, "need each other"),
        ({"finish_within": "2h"}, "need each other"),
        ({"min_executors": 3}, "give these too"),
        ({"finish_within": "soon", "max_executors": 8}, "--finish-within"),
        ({"finish_within": "2h", "max_executors": 2, "min_executors": 3}, "greater"),
    ):
        with pytest.raises(UsageError, match=told):
            load(flags)
