"""How an extraction was shared out is told in bounded size, and adds up."""

import pytest

from orchard.features.sharing import BINS, MOST_WORKERS, Done, sharing


def done(worker: int, started: float, seconds: float, images: int = 32, *, host: str = "a", executor: int = 7) -> Done:
    return Done(host, executor, worker, started, seconds, seconds / 2, 300_000_000 + worker, images)


def test_tasks_images_and_seconds_add_up_by_worker_and_executor() -> None:
    tasks = [done(40, 100, 6), done(41, 100, 3), done(41, 103, 3), done(50, 104, 2, host="b"), done(60, 104, 8, 64)]
    found = sharing([*tasks, done(70, 101, 1, executor=9)])
    assert (found["tasks"], found["images"], found["workers"]) == (6, 224, 5)
    assert found["worker_memory_bytes"] == 300_000_070
    by_executor = {
        share["executor"]: (share["workers"], share["tasks"], share["seconds"]) for share in found["by_executor"]
    }
    assert by_executor == {"a #1": (3, 4, 20), "a #2": (1, 1, 1), "b": (1, 1, 2)}  # two executors on one host
    assert [share["seconds"] for share in found["by_worker"]] == [8, 6, 6, 2, 1]
    assert len({share["worker"] for share in found["by_worker"]}) == 5
    slowest = found["slowest"][0]
    assert (slowest["images"], slowest["seconds"], slowest["after"]) == (64, 8, 4)


def test_the_time_line_holds_every_second_of_work() -> None:
    tasks = [done(number % 3, 100 + number, 2.5) for number in range(200)]
    found = sharing(tasks)
    assert len(found["at_work"]) == BINS
    assert sum(found["at_work"]) * found["bin_seconds"] == pytest.approx(500, rel=0.01)
    assert max(found["at_work"]) == pytest.approx(2.5, abs=0.2)
    assert found["at_work"][-1] < 2.5 / 1.2  # the last tasks end one after the other


def test_many_workers_are_not_all_named() -> None:
    found = sharing([done(number, 100, 1 + number / 1000) for number in range(1000)])
    assert (found["workers"], len(found["by_worker"])) == (1000, MOST_WORKERS)
    assert found["by_worker"][0]["seconds"] == pytest.approx(1.999)
