"""Workers do the same, whether they are processes of this machine or Spark's."""

import operator
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

import misbehaving
from conftest import REPOSITORY
from orchard import settings
from orchard.errors import AccessDenied, ClusterError, InputError, OrchardError, StorageError
from orchard.processes import LocalWorkers
from orchard.spark.session import Session
from orchard.tasks import SparkWorkers
from orchard.workers import Workers

FINDS_TESTS = os.pathsep.join([str(REPOSITORY / "app"), str(REPOSITORY / "tests")])
"""So that a process can import `misbehaving`."""
SENTENCE = "Two lines\nof “é” \\x and ${braces}: mend them."


@pytest.fixture(params=["processes", "spark"])
def workers(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workers]:
    if request.param == "spark":
        spark: SparkSession = request.getfixturevalue("spark")
        spark.sparkContext.addPyFile(misbehaving.__file__)
        found: Workers = SparkWorkers(lambda: spark)
    else:
        monkeypatch.setenv("PYTHONPATH", FINDS_TESTS)
        found = LocalWorkers(2)
    with closing(found):
        yield found


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalWorkers]:
    monkeypatch.setenv("PYTHONPATH", FINDS_TESTS)
    with closing(LocalWorkers(2)) as found:
        yield found


def test_batches_are_taken_while_there_is_room_and_answered_in_their_order(workers: Workers) -> None:
    taken: list[int] = []

    def batches() -> Iterator[list[int]]:
        for number in range(1, 5):
            taken.append(number)
            yield [-number, number]

    with closing(workers.run_batches(abs, batches(), in_order=True)) as found:
        assert next(found) == [1, 1]
        assert taken == [1, 2]
        assert list(found) == [[2, 2], [3, 3], [4, 4]]
    assert workers.slots == 2


def test_results_are_in_order_or_merged(workers: Workers) -> None:
    assert workers.run(abs, [-3, 1, -2]) == [3, 1, 2]
    assert workers.merge(abs, list(range(-9, 0)), operator.add) == sum(range(10))


def test_a_failure_is_the_end_of_its_work_alone(workers: Workers) -> None:
    with pytest.raises(StorageError, match=re.escape(SENTENCE)):
        workers.merge(misbehaving.raise_error, [StorageError(SENTENCE)] * 3, max)
    assert workers.run(abs, [-3, 1, -2]) == [3, 1, 2]


@pytest.mark.parametrize("kind", [StorageError, AccessDenied, InputError])
def test_an_error_of_orchard_keeps_its_class_and_sentence(workers: Workers, kind: type[OrchardError]) -> None:
    with pytest.raises(kind, match=re.escape(SENTENCE)) as caught:
        workers.run(misbehaving.raise_error, [kind(SENTENCE)])
    assert (type(caught.value), str(caught.value)) == (kind, SENTENCE)


def test_a_file_that_nobody_foresaw_is_named(workers: Workers) -> None:
    with pytest.raises(StorageError, match=r"/nowhere/at all cannot be .*No such file"):
        workers.run(open, ["/nowhere/at all"])


def test_what_nobody_foresaw_is_told_in_one_sentence(workers: Workers) -> None:
    with pytest.raises(ClusterError, match=r"^A task was given up: ZeroDivisionError: by 0; start again .*$"):
        workers.run(misbehaving.raise_error, [ZeroDivisionError("by 0")])


def test_a_worker_that_is_killed_each_time_is_told(workers: Workers) -> None:
    with pytest.raises(ClusterError, match=r"worker.* killed.* want of memory.*start again"):
        workers.run(misbehaving.kill_own_process, [0])


def test_a_task_is_tried_four_times(workers: Workers, tmp_path: Path) -> None:
    assert workers.run(partial(misbehaving.kill_the_first, tmp_path), [7]) == [7]
    assert len(list(tmp_path.iterdir())) == 3


def test_a_worker_knows_whether_an_attempt_at_its_task_has_failed(workers: Workers) -> None:
    assert workers.run(misbehaving.die_unless_another_has, [1, 2, 3]) == [1, 2, 3]
    assert not any(workers.run(misbehaving.say_whether_another_has_failed, list(range(8))))


def test_what_a_process_said_before_it_died_is_told(processes: LocalWorkers) -> None:
    with pytest.raises(ClusterError, match=r"\(terminate called\).*--master local\[1\]"):
        processes.run(misbehaving.say, ["something\nterminate called\n"])


def test_a_shared_value_is_read_once_by_each_worker(workers: Workers) -> None:
    shared = workers.share(b"x" * 1000)
    found = workers.run(partial(misbehaving.length_and_process, shared), list(range(8)))
    shared.unpersist()
    assert {length for length, _, _ in found} == {1000}
    assert len({(place, process) for _, place, process in found}) == len({process for _, _, process in found}) <= 2


def test_a_process_forgets_a_shared_value_that_no_task_needs_any_more(processes: LocalWorkers) -> None:
    first, second = processes.share("one"), processes.share("another")
    assert processes.run(partial(misbehaving.length_and_held, first), [0]) == [(3, 1)]
    first.unpersist()
    assert set(processes.run(partial(misbehaving.length_and_held, second), range(8))) == {(7, 1)}


def test_a_process_makes_arrays_without_pandas(processes: LocalWorkers) -> None:
    assert processes.run(misbehaving.make_array, [[1, 2]]) == [False]


def test_results_arrive_before_their_batch_is_done_and_when_it_fails(workers: Workers) -> None:
    arrived: list[float] = []

    def look(come: list[float]) -> None:
        arrived.extend(come)
        if arrived:
            raise KeyboardInterrupt

    started = time.monotonic()
    with (
        pytest.raises(KeyboardInterrupt),
        closing(workers.run_batches(misbehaving.sleep, [[0.0, 600.0]], arrived=look)) as found,
    ):
        list(found)
    assert arrived == [0.0]
    assert time.monotonic() - started < 60


def test_processes_end_with_the_driver_whatever_they_are_at_and_leave_nothing(tmp_path: Path) -> None:
    code = (
        "import misbehaving; from orchard.processes import LocalWorkers\n"
        "workers = LocalWorkers(2)\n"
        "for _ in range(3000): workers.share('a network')\n"  # so many that a process may end while it removes them
        "workers.prepare(abs)\n"
        "print('up', flush=True); list(workers.run_batches(misbehaving.sleep, [[600.0, 600.0]]))"
    )
    environment = os.environ | {"PYTHONPATH": FINDS_TESTS, "TMPDIR": str(tmp_path)}
    driver = subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, cwd=tmp_path)
    assert driver.stdout is not None
    assert driver.stdout.readline() == b"up\n"

    def children() -> list[int]:
        listing = subprocess.run(["ps", "-eo", "pid,ppid"], capture_output=True, text=True, check=True).stdout
        pairs = (tuple(map(int, line.split())) for line in listing.splitlines()[1:])
        return [pid for pid, parent in pairs if parent == driver.pid]

    def wait_for(condition: Callable[[], bool]) -> None:
        until = time.monotonic() + 30
        while not condition():
            assert time.monotonic() < until
            time.sleep(0.05)

    wait_for(lambda: len(children()) == 2)
    workers = children()
    assert list(tmp_path.glob("*/*"))  # what is shared
    driver.send_signal(signal.SIGKILL)
    driver.communicate()
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("given", "slots"), [({"master": "local[3]"}, 3), ({"spark_conf": {"spark.master": "local[1,8]"}}, 1)]
)
def test_a_local_master_means_processes_without_spark(given: dict[str, Any], slots: int) -> None:
    session = Session(settings.load(given))
    assert session.cores() == 0
    assert isinstance(session.workers, LocalWorkers)
    assert session.workers is session.workers
    assert (session.workers.slots, session.cores(), session.workers.master) == (slots, slots, f"local[{slots}]")
    session.stop()


def test_a_session_of_the_callers_does_its_own_tasks(spark: SparkSession) -> None:
    session = Session(settings.load({}), spark)
    assert isinstance(session.workers, SparkWorkers)
    assert session.workers.spark is spark
    session.stop()
    assert spark.range(3).count() == 3
