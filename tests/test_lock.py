"""On an object store one run at a time holds the lease, and a dead holder's lease runs out."""

import json
import threading
import time
from typing import Any

import pytest

from orchard import lock
from orchard.errors import OutputLocked
from orchard.lock import LOCKS, hold
from orchard.storage import Storage, open_storage


@pytest.fixture
def storage(s3_server: Any, monkeypatch: pytest.MonkeyPatch) -> Storage:
    monkeypatch.setattr(lock, "RENEWAL_SECONDS", 0.2)
    monkeypatch.setattr(lock, "EXPIRY_SECONDS", 1.0)
    return open_storage(f"s3a://{s3_server.bucket()}/out", s3_server.options)


def test_a_second_run_is_refused_while_the_holder_renews(storage: Storage) -> None:
    with hold(storage, "first"), pytest.raises(OutputLocked, match="first"), hold(storage, "second"):
        pass


def test_a_released_lease_is_free_at_once(storage: Storage) -> None:
    with hold(storage, "first"):
        pass
    with hold(storage, "second") as lease:
        assert not lease.lost


def test_the_lease_of_a_dead_holder_runs_out(storage: Storage) -> None:
    died = {"run": "dead", "host": "h", "pid": 1, "expires": time.time() + 1}
    assert storage.create(f"{LOCKS}00000001.json", json.dumps(died).encode())
    started = time.monotonic()
    with hold(storage, "next") as lease:
        assert time.monotonic() - started > 0.5
        assert not lease.lost
        assert [entry.key for entry in storage.list(LOCKS)] == [f"{LOCKS}00000002.json"]


def test_a_holder_that_was_overtaken_knows_it(storage: Storage) -> None:
    with hold(storage, "slow") as lease:
        storage.create(f"{LOCKS}00000002.json", b'{"run": "fast", "host": "h", "pid": 1, "expires": 9e9}')
        for _ in range(50):
            if lease.lost:
                break
            threading.Event().wait(0.1)
        assert lease.lost


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
