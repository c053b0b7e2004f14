"""How an extraction was divided among executors and workers, in bounded memory for any number of tasks."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from operator import attrgetter

from orchard.layout import ExecutorShare, Share, Sharing, SlowTask, WorkerShare

BINS = 60
"""Number of bins for the time from the first task's start to the last one's end."""
MOST_EXECUTORS, MOST_WORKERS, SLOWEST = 100, 100, 5


@dataclass(frozen=True)
class Done:
    """When and where a task was done.

    Attributes:
        host: name of the host, which is a pod's.
        executor: id that distinguishes executors of a host.
        worker: id of the process.
        started: start in seconds since 1970, by the executor's clock.
        seconds: duration, including the compilation of the network.
        cpu_seconds: CPU time in it, in seconds.
        memory: peak memory of the worker until then, in bytes.
        images: number of images in the task.
    """

    host: str
    executor: int
    worker: int
    started: float
    seconds: float
    cpu_seconds: float
    memory: int
    images: int


def sharing(tasks: Sequence[Done]) -> Sharing:
    """Return the part of ``run.json`` about tasks, of which there is at least one.

    These are the busiest executors and workers, the slowest tasks, and how many tasks were at work in each of `BINS`
    stretches of time.
    """
    names = _names({(task.host, task.executor) for task in tasks})
    by_worker: dict[tuple[str, int], list[Done]] = defaultdict(list)
    by_executor: dict[str, list[Done]] = defaultdict(list)
    for task in tasks:
        name = names[task.host, task.executor]
        by_worker[name, task.worker].append(task)
        by_executor[name].append(task)
    numbers = {worker: number for number, worker in enumerate(sorted(by_worker), 1)}
    workers = [
        WorkerShare(executor=worker[0], worker=numbers[worker], **_sums(done)) for worker, done in by_worker.items()
    ]
    executors = [
        ExecutorShare(executor=executor, workers=len({task.worker for task in done}), **_sums(done))
        for executor, done in by_executor.items()
    ]
    begin = min(task.started for task in tasks)
    end = max(task.started + task.seconds for task in tasks)
    width = max((end - begin) / BINS, 1e-3)
    slowest = sorted(tasks, key=lambda task: (-task.seconds, task.started))[:SLOWEST]
    return Sharing(
        tasks=len(tasks),
        images=sum(task.images for task in tasks),
        workers=len(workers),
        worker_memory_bytes=max(task.memory for task in tasks),
        median_task_seconds=round(statistics.median(map(attrgetter("seconds"), tasks)), 3),
        by_executor=sorted(executors, key=lambda share: -share["seconds"])[:MOST_EXECUTORS],
        by_worker=sorted(workers, key=lambda share: -share["seconds"])[:MOST_WORKERS],
        slowest=[
            SlowTask(
                executor=names[task.host, task.executor],
                worker=numbers[names[task.host, task.executor], task.worker],
                images=task.images,
                seconds=round(task.seconds, 3),
                after=round(task.started - begin, 3),
            )
            for task in slowest
        ],
        bin_seconds=round(width, 3),
        at_work=[round(share / width, 3) for share in _overlaps(tasks, begin, width)],
    )


def _names(executors: Collection[tuple[str, int]]) -> dict[tuple[str, int], str]:
    """Return the executors' names: the host, with a number if it has several."""
    names = {}
    for host in {host for host, _ in executors}:
        of_host = sorted(number for name, number in executors if name == host)
        for place, number in enumerate(of_host, 1):
            names[host, number] = host if len(of_host) == 1 else f"{host} #{place}"
    return names


def _sums(tasks: Sequence[Done]) -> Share:
    return Share(
        tasks=len(tasks),
        images=sum(task.images for task in tasks),
        seconds=round(sum(task.seconds for task in tasks), 3),
        slowest_seconds=round(max(task.seconds for task in tasks), 3),
    )


def _overlaps(tasks: Sequence[Done], begin: float, width: float) -> list[float]:
    """Return the seconds of all tasks that fall into each bin."""
    found = [0.0] * BINS
    for task in tasks:
        start, end = task.started - begin, task.started - begin + task.seconds
        for number in range(max(0, int(start / width)), min(BINS, int(end / width) + 1)):
            found[number] += max(0.0, min(end, (number + 1) * width) - max(start, number * width))
    return found
