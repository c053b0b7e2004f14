"""Two runs of one output in a bucket: whatever clocks say and whoever sleeps, one alone writes."""

import contextlib
import os
import random
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from chaos_table import Note, seeds
from orchard import child
from orchard.layout import COMMITS, LOCKS, LOGS, STAGING
from orchard.storage import Storage, open_storage
from waiting import wait_until

from .conftest import SECONDS, Process, Result, Whole, descendants, started

pytestmark = pytest.mark.chaos

HASTE = """
from orchard import lock
lock.RENEWAL_SECONDS, lock.HELD_SECONDS, lock.EXPIRY_SECONDS = 1, 6, 10
from orchard.cli import main
main()
"""
"""Orchard whose leases are short, so that nobody has to wait for 45 s."""
SKEWED = str(Path(__file__).with_name("skewed"))


@contextmanager
def hasty(source: str | Path, output: str, endpoint: str, skew: int = 0) -> Iterator[Process]:
    variables = {"CHAOS_SKEW": str(skew)}
    variables["PYTHONPATH"] = f"{SKEWED}{os.pathsep}{child.environment()['PYTHONPATH']}"
    flags = ["--s3-endpoint", endpoint, "--s3-region=us-east-1"]
    with started(source, output, *flags, program=("-c", HASTE), **variables) as process:
        yield process


def contents(storage: Storage) -> dict[str, str | None]:
    """Return what is in an output, without what belongs to runs."""
    return {e.key: e.version for e in storage.list() if not e.key.startswith((LOCKS, LOGS, STAGING))}


def commits(storage: Storage) -> int:
    return sum(1 for _ in storage.list(COMMITS))


@pytest.mark.parametrize("seed", seeds(1, 8))
def test_a_run_that_was_stopped_past_its_lease_changes_nothing_of_its_successors(
    s3_server: Any, drawn: Path, whole: Whole, note: Note, seed: int
) -> None:
    chance = random.Random(seed)
    url = f"s3a://{s3_server.bucket()}/out"
    storage = open_storage(url, s3_server.options)
    with hasty(drawn, url, s3_server.endpoint) as sleeper:
        least = chance.randrange(1, 4)
        wait_until(lambda: commits(storage) >= least or sleeper.poll() is not None, SECONDS)
        time.sleep(chance.uniform(0, 0.5))
        asleep = [*(descendants(sleeper.pid) if chance.random() < 0.5 else ()), sleeper.pid]
        for pid in asleep:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
        with hasty(drawn, url, s3_server.endpoint) as successor:
            _, errors = successor.communicate(timeout=SECONDS)
        assert successor.returncode == 0, errors
        before = contents(storage)
        for pid in asleep:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        _, errors = sleeper.communicate(timeout=SECONDS)
    assert sleeper.returncode == 4, errors
    assert "took over" in errors
    assert "Traceback" not in errors
    assert contents(storage) == before
    Result(url, s3_server.options).assert_same(whole.result)
    note("run stopped past its lease while another finished, then woken", 1, "it ends with 4 and changes nothing")


@pytest.mark.parametrize("seed", seeds(1, 8))
def test_clocks_that_are_wrong(s3_server: Any, drawn: Path, whole: Whole, note: Note, seed: int) -> None:
    chance = random.Random(seed)
    skews = chance.sample([-3600, -60, 60, 3600], 3)
    url = f"s3a://{s3_server.bucket()}/out"
    storage = open_storage(url, s3_server.options)
    with hasty(drawn, url, s3_server.endpoint, skews[0]) as holder:
        wait_until(lambda: commits(storage) or holder.poll() is not None, SECONDS)
        with hasty(drawn, url, s3_server.endpoint, skews[1]) as other:
            os.kill(holder.pid, 0)
            _, errors = other.communicate(timeout=SECONDS)
        if holder.poll() is None:
            assert other.returncode == 4, errors
            assert "is being written by" in errors
        os.kill(holder.pid, signal.SIGKILL)
    with hasty(drawn, url, s3_server.endpoint, skews[2]) as last:
        _, errors = last.communicate(timeout=SECONDS)
    assert last.returncode == 0, errors
    Result(url, s3_server.options).assert_same(whole.result)
    note("three runs with clocks a minute or an hour ahead or behind", 1, "no lease stolen, none waited for in vain")
