"""What a container may use is what its control group says, of version 1 or 2, not what the machine has."""

import os
from pathlib import Path

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from orchard import machine
from orchard.spark.properties import local_slots
from orchard.spark.session import default_master

GIB = 2**30


@pytest.fixture
def group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(machine, "_CGROUP", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(64), raising=False)
    return tmp_path


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text + "\n")


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, 64),
        ({"cpu.max": "max 100000"}, 64),
        ({"cpu.max": "200000 100000"}, 2),
        ({"cpu.max": "50000 100000"}, 1),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 64),
        ({"cpu/cpu.cfs_quota_us": "300000", "cpu/cpu.cfs_period_us": "100000"}, 3),
        ({"cpu/cpu.cfs_quota_us": "25000", "cpu/cpu.cfs_period_us": "100000"}, 1),
    ],
)
def test_a_quota_of_processor_time_is_a_number_of_cores(group: Path, files: dict[str, str], cores: int) -> None:
    write(group, files)
    assert machine.available_cores() == cores


@pytest.mark.parametrize(
    "files",
    [
        {"memory.max": str(GIB), "memory.current": str(GIB // 2), "memory.stat": f"anon 1\ninactive_file {GIB // 4}"},
        {
            "memory/memory.limit_in_bytes": str(GIB),
            "memory/memory.usage_in_bytes": str(GIB // 2),
            "memory/memory.stat": f"inactive_file 1\ntotal_inactive_file {GIB // 4}",
        },
    ],
)
def test_a_limit_of_memory_counts_without_what_the_kernel_can_take_back(group: Path, files: dict[str, str]) -> None:
    write(group, files)
    assert machine.available_memory() == 3 * GIB // 4


@pytest.mark.parametrize("files", [{}, {"memory.max": "max", "memory.current": "1", "memory.stat": "inactive_file 1"}])
def test_without_a_limit_the_machines_free_memory_counts(group: Path, files: dict[str, str]) -> None:
    write(group, files)
    assert GIB // 4 < machine.available_memory() <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@pytest.mark.parametrize(("quota", "given"), [("100000", 2), ("800000", 1)])
def test_linear_algebra_has_the_threads_of_the_quota_at_most(group: Path, quota: str, given: int) -> None:
    write(group, {"cpu.max": f"{quota} 100000"})
    np.eye(2) @ np.eye(2)
    with threadpool_limits(given, user_api="blas"), machine.blas_threads():
        assert {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"} == {1}


@pytest.mark.parametrize(
    ("left", "processes", "said"),
    [
        (64 * GIB, 64, ""),
        (2 * GIB, 8, "Memory has room for 8 processes, on 64 cores: with more of it, this is faster."),
        (GIB // 2, 1, "Only 536 MB of memory are left, of some 550 that this takes: "),
    ],
)
@pytest.mark.usefixtures("group")
def test_memory_may_have_room_for_fewer_processes_than_there_are_cores(
    monkeypatch: pytest.MonkeyPatch, left: int, processes: int, said: str
) -> None:
    monkeypatch.setattr(machine, "available_memory", lambda: left)
    assert machine.fitting_processes(each=200 * 10**6, besides=350 * 10**6) == processes
    found = machine.shortage(processes, each=200 * 10**6, besides=350 * 10**6)
    assert found.startswith(said) and bool(found) == bool(said)


@pytest.mark.usefixtures("group")
def test_more_processes_than_memory_has_room_for_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "available_memory", lambda: GIB)
    assert machine.shortage(8, each=200 * 10**6, besides=350 * 10**6).startswith("Only 1073 MB")
    assert machine.shortage(2, each=200 * 10**6, besides=350 * 10**6) == ""


@pytest.mark.usefixtures("group")
def test_a_run_begins_no_more_processes_than_memory_has_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MASTER", raising=False)
    monkeypatch.setattr(machine, "available_memory", lambda: 2 * GIB)
    assert default_master() == "local[8]"
    assert local_slots("local[*]") == 8
    assert local_slots("local[12]") == 12, "what was asked for"
