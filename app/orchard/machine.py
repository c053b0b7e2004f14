"""This machine's processor cores and memory, as far as a container may use them."""

import os
import re
from contextlib import AbstractContextManager, suppress
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")

# Limit, usage, and the line of memory.stat with what the kernel can take back: of control groups 2, then of 1.
_MEMORY = (
    ("memory.max", "memory.current", "memory.stat", "inactive_file"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat", "total_inactive_file"),
)


def available_cores() -> int:
    """Return the CPUs that this process may use: its affinity, cut to a container's quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _quota()
    return cores if quota is None else max(1, min(cores, round(quota)))


def available_memory() -> int:
    """Return the bytes of memory that processes can have: of the machine, and of a container with a limit."""
    free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with suppress(OSError, TypeError):
        free = 1024 * _number(r"^MemAvailable:\s*(\d+) kB$", Path("/proc/meminfo"))
    for limit, held, statistics, line in _MEMORY:
        with suppress(OSError, TypeError):  # another version of control groups, or no limit
            left = _number(r"^(\d+)$", _CGROUP / limit) - _number(r"^(\d+)$", _CGROUP / held)
            free = min(free, left + _number(rf"^{line} (\d+)$", _CGROUP / statistics))
    return free


def fitting_processes(each: int, besides: int) -> int:
    """Return how many processes this machine has cores and memory for, one at least.

    Args:
        each: bytes of memory that a process takes.
        besides: bytes that this process will take, too, beyond what it has.
    """
    return max(1, min(available_cores(), (available_memory() - besides) // each))


def shortage(processes: int, each: int, besides: int) -> str:
    """Return a sentence if memory may not do for so many processes, or for one on each core; "" if it does.

    A container that is killed for want of memory leaves none.
    """
    left, cores = available_memory(), available_cores()
    if left < besides + processes * each:
        return (
            f"Only {left // 10**6} MB of memory are left, of some {(besides + processes * each) // 10**6} that this "
            "takes: if it is killed without a word, give it more."
        )
    if processes == fitting_processes(each, besides) < cores:
        return f"Memory has room for {processes} processes, on {cores} cores: with more of it, this is faster."
    return ""


def blas_threads() -> AbstractContextManager[object]:
    """Let linear algebra inside have no more threads than this process has cores.

    OpenBLAS counts the cores of the machine. Under a container's quota its threads wait for one another so long that a
    decomposition takes several times as long as with one thread.
    """
    from threadpoolctl import ThreadpoolController

    libraries = ThreadpoolController().select(user_api="blas")
    threads = min((library.num_threads for library in libraries.lib_controllers), default=1)
    return libraries.limit(limits=min(threads, available_cores()))  # type: ignore[no-any-return]


def _quota() -> float | None:
    """Return the CPUs of a container's quota, by version 2 or 1 of control groups; None: it has none."""
    with suppress(OSError, ValueError):
        quota, period = (_CGROUP / "cpu.max").read_text().split()
        return int(quota) / int(period) if quota != "max" else None
    with suppress(OSError, ValueError):
        of_period, microseconds = (
            int((_CGROUP / "cpu" / f"cpu.cfs_{name}_us").read_text()) for name in ("quota", "period")
        )
        return of_period / microseconds if of_period > 0 else None
    return None


def _number(pattern: str, file: Path) -> int:
    """Return the number that a line of a file has. Raises TypeError: no line has one."""
    found = re.search(pattern, file.read_text(), re.MULTILINE)
    return int(found[1])  # type: ignore[index]
