"""On an object store one run at a time holds the lease, and a dead holder's lease runs out."""

import json
import resource
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from orchard import lock
from orchard.errors import OutputLocked, StorageError
from orchard.layout import LOCKS
from orchard.lock import hold
from orchard.storage import Storage, open_storage

FIRST, SECOND = (f"{LOCKS}{number:08d}.json" for number in (1, 2))


@pytest.fixture
def storage(s3_server: Any, monkeypatch: pytest.MonkeyPatch) -> Storage:
    monkeypatch.setattr(lock, "RENEWAL_SECONDS", 0.2)
    monkeypatch.setattr(lock, "HELD_SECONDS", 5.0)
    monkeypatch.setattr(lock, "EXPIRY_SECONDS", 8.0)
    return open_storage(f"s3a://{s3_server.bucket()}/out", s3_server.options)


@pytest.fixture
def impatient(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> Storage:
    """For tests without a living holder, which a busy machine might keep from renewing in time."""
    monkeypatch.setattr(lock, "EXPIRY_SECONDS", 0.5)
    return storage


def leases(storage: Storage) -> list[str]:
    return sorted(entry.key for entry in storage.list(LOCKS))


@contextmanager
def stopped(monkeypatch: pytest.MonkeyPatch, storage: Storage) -> Iterator[lock.Lease]:
    """A holder whose thread did not get to renew, as if its process or machine had been stopped, past its time."""
    now = lock._now
    monkeypatch.setattr(lock, "RENEWAL_SECONDS", 1000)
    with hold(storage, "stopped") as lease:
        monkeypatch.setattr(lock, "RENEWAL_SECONDS", 0.2)
        assert not lease.lost
        monkeypatch.setattr(lock, "_now", lambda: now() + 6)
        assert lease.lost
        yield lease


def test_a_second_run_is_refused_while_the_holder_renews(storage: Storage) -> None:
    with hold(storage, "first") as lease:
        for _ in range(3):
            with pytest.raises(OutputLocked, match="first"), hold(storage, "second"):
                pass
        lease.check()


def test_a_released_lease_is_free_at_once(storage: Storage) -> None:
    with hold(storage, "first"):
        pass
    started = time.monotonic()
    with hold(storage, "second") as lease:
        assert time.monotonic() - started < 8
        lease.check()


def test_the_lease_of_a_dead_holder_runs_out(impatient: Storage, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "orchard")
    storage = impatient
    assert storage.create(FIRST, b'{"run": "dead", "host": "h", "pid": 1, "expiry_seconds": 1.5, "released": false}')
    started = time.monotonic()
    with hold(storage, "next") as lease:
        assert time.monotonic() - started > 1.5  # as long as the dead one said, not as the living would wait
        lease.check()
        assert FIRST not in leases(storage)
    why = f"waiting up to 2 s for the lock of {storage.url}"
    assert [getattr(record, "fields", None) for record in caplog.records] == [{"reason": why}]  # as status shows it


@pytest.mark.parametrize("skew", [-60.0, 60.0])
def test_a_clock_that_is_wrong_steals_nothing_and_waits_no_longer(
    storage: Storage, monkeypatch: pytest.MonkeyPatch, skew: float
) -> None:
    now = time.time
    with hold(storage, "first") as lease:
        monkeypatch.setattr(time, "time", lambda: now() + skew)
        with pytest.raises(OutputLocked, match="first"), hold(storage, "second"):
            pass
        lease.check()
    monkeypatch.setattr(lock, "EXPIRY_SECONDS", 0.5)
    dead = {"run": "dead", "host": "h", "pid": 1, "expires": now() + 45}
    storage.write(f"{LOCKS}00000099.json", json.dumps(dead).encode())
    started = time.monotonic()
    with hold(storage, "third"):
        assert 0.5 < time.monotonic() - started < 30


@pytest.mark.parametrize(
    "old",
    [
        b'{"run": "old", "host": "h", "pid": 1, "expires": 9e9}',
        b'{"run": "old", "host": "h", "pid": 1, "expires": -1}',
        b'{"expiry_seconds": "soon"}',
        b"[]",
        b"\xff",
        b"[" * 100_000,
        b"",
    ],
)
def test_a_lease_of_an_earlier_version_or_a_damaged_one_is_waited_for_and_taken(impatient: Storage, old: bytes) -> None:
    assert impatient.create(FIRST, old)
    started = time.monotonic()
    with hold(impatient, "next"):
        assert time.monotonic() - started > 0.5


def test_a_lease_that_an_earlier_version_released_is_free_at_once(storage: Storage) -> None:
    storage.create(FIRST, b'{"run": "old", "host": "h", "pid": 1, "expires": 0}')
    started = time.monotonic()
    with hold(storage, "next"):
        assert time.monotonic() - started < 8


def test_an_earlier_version_that_renews_its_lease_is_left_alone(storage: Storage) -> None:
    ended = threading.Event()

    def renew() -> None:
        while not ended.wait(0.1):
            old = {"run": "old", "host": "h", "pid": 1, "expires": time.time() + 1}
            storage.write(FIRST, json.dumps(old).encode())

    thread = threading.Thread(target=renew)
    thread.start()
    try:
        while not leases(storage):
            time.sleep(0.05)
        with pytest.raises(OutputLocked, match="run old"), hold(storage, "next"):
            pass
    finally:
        ended.set()
        thread.join()


def test_what_is_no_lease_is_no_hindrance(storage: Storage) -> None:
    storage.write(f"{LOCKS}lock", b"copied from a folder")
    with hold(storage, "first"), pytest.raises(OutputLocked, match="first"), hold(storage, "second"):
        pass


def test_a_holder_that_was_overtaken_knows_it(storage: Storage) -> None:
    with hold(storage, "slow") as lease:
        while True:  # between two renewals
            newest = leases(storage)[-1]
            if storage.create(f"{LOCKS}{int(newest[-13:-5]) + 1:08d}.json", b'{"run": "fast", "host": "h", "pid": 1}'):
                break
        for _ in range(200):
            if lease.lost:
                break
            time.sleep(0.1)
        with pytest.raises(OutputLocked, match="took over"):
            lease.check()
    assert b"fast" in storage.read(leases(storage)[-1])  # and does not release what is another's


def test_a_holder_that_was_stopped_past_its_time_goes_on_if_nobody_took_over(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    with stopped(monkeypatch, storage) as lease:
        lease.check()
        assert not lease.lost
    with hold(storage, "next"):
        pass


def test_a_holder_that_was_stopped_past_its_time_writes_no_more_if_another_took_over(
    impatient: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = impatient
    with stopped(monkeypatch, storage) as lease, hold(storage, "next") as successor:
        with pytest.raises(OutputLocked, match="took over"):
            lease.check()
        successor.check()


def test_a_holder_that_slept_through_several_others_writes_no_more(
    impatient: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = impatient
    with stopped(monkeypatch, storage) as lease:
        with hold(storage, "next") as successor:
            while SECOND in leases(storage):
                time.sleep(0.05)
            successor.check()
        assert SECOND not in leases(storage)  # which the sleeper would create
        with pytest.raises(OutputLocked, match="took over"):
            lease.check()


def test_a_holder_gives_up_before_another_may_take_over() -> None:
    assert lock.RENEWAL_SECONDS * 2 < lock.HELD_SECONDS < lock.EXPIRY_SECONDS


def test_a_store_that_does_not_answer_is_no_other_run(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> bool:
        raise StorageError("no answer")

    create = type(storage).create
    with stopped(monkeypatch, storage) as lease:
        monkeypatch.setattr(type(storage), "create", fails)
        with pytest.raises(StorageError, match="no answer"):
            lease.check()
        monkeypatch.setattr(type(storage), "create", create)
        lease.check()


def test_leaving_does_not_wait_for_a_store_that_does_not_answer(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = threading.Event()
    create = type(storage).create

    def hangs(*arguments: Any) -> bool:
        answers.wait(30)
        return create(*arguments)

    with hold(storage, "first"):
        monkeypatch.setattr(type(storage), "create", hangs)
        started = time.monotonic()
    assert time.monotonic() - started < 25
    answers.set()


def test_of_many_that_start_at_once_one_alone_gets_the_lease(storage: Storage) -> None:
    barrier, release = threading.Barrier(6), threading.Event()
    won: list[int] = []
    refused: list[int] = []

    def start(number: int) -> None:
        barrier.wait()
        try:
            with hold(storage, f"run-{number}"):
                won.append(number)
                release.wait(20)
        except OutputLocked:
            refused.append(number)

    threads = [threading.Thread(target=start, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for _ in range(200):
        if len(refused) == 5:
            break
        threading.Event().wait(0.1)
    release.set()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert len(refused) == 5


def test_a_folder_is_locked_while_its_disk_is_full(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path))
    (tmp_path / LOCKS).mkdir(parents=True)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        with hold(storage, "first"), pytest.raises(OutputLocked), hold(storage, "second"):
            pass
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
