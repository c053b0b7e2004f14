"""Engines, one for each core, behind one bounded queue: each takes what waits, and waits for nothing more."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Protocol

from orchard.errors import ClusterError, UsageError
from orchard.features.artifact import BATCH_SIZE, EngineName
from orchard.images.decoding import Limits, Rejection
from orchard.inference.model import Model
from orchard.inference.predictor import Prediction
from orchard.serving.engine import EngineDied, EngineProcess

log = logging.getLogger(__name__)

BATCH_SIZES = (1, 2, 4)
"""Each engine is compiled for these. One thread, EfficientNet-Lite0, bfloat16, AMX: 4.5 ms an image one by one, 3.7
by twos, 3.8 by fours, 5.0 by eights; a photograph waits for the rest of its batch."""
AHEAD_BYTES = 64 * 1024
"""Of a batch that is given to an engine that is still at another. What a larger one is worth is less than what its
photographs may wait for, while another engine has nothing to do."""
CLOSE_SECONDS = 10.0
"""Within which engines answer what they are at when the pool closes."""


class QueueFull(Exception):
    """As many images wait as may."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of an image."""

    result: Prediction | Rejection
    milliseconds: float
    """From the queue's entrance to the answer."""


@dataclass(slots=True, eq=False)
class Job:
    """The images of one request."""

    images: Sequence[bytes]
    top: int
    done: asyncio.Future[list[Outcome]]
    started: float = field(default_factory=time.perf_counter)
    outcomes: dict[int, Outcome] = field(default_factory=dict)

    @property
    def given_up(self) -> bool:
        """Whether nobody waits for it any more."""
        return self.done.done()


class Observer(Protocol):
    """Who wants to know how large batches are."""

    def batch(self, images: int) -> None:
        """Count a batch."""
        ...


Item = tuple[Job, int]


@dataclass(slots=True, eq=False)
class _Engine:
    """An engine that is compiled, and the batches that it was given and has not answered: at most two.

    While it is at one, the next full one lies ready: it never waits for this process to be scheduled.
    """

    process: EngineProcess
    under_way: deque[list[Item]] = field(default_factory=deque)


class EnginePool:
    """Engines in processes of their own, fed by the event loop that `start` was called in.

    Args:
        model: the model.
        engines: how many.
        capacity: images that may wait.
        limits: what an image may cost.
        observer: who counts.
        failed: called with what an engine could not start for.
    """

    def __init__(
        self,
        model: Model,
        *,
        engines: int,
        capacity: int,
        limits: Limits,
        observer: Observer,
        failed: Callable[[Exception], None] = lambda _: None,
    ) -> None:
        if engines < 1 or capacity < 1:
            raise UsageError("A server needs an engine and room for an image in its queue.")
        self.engines = engines
        self.capacity = capacity
        self._model = model
        self._limits = limits
        self._observer = observer
        self._failed = failed
        # TensorFlow's engine has one size, and shares its threads among engines.
        self._sizes = BATCH_SIZES if model.artifact.engine is EngineName.OPENVINO else (BATCH_SIZE,)
        self._queue: deque[Item] = deque()
        self._compiled: list[_Engine] = []
        self._complete = False
        self._closing = False
        self._share_is_due = False
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin to compile; images that come before `ready` wait."""
        self._tasks = [asyncio.create_task(self._run(), name=f"engine-{n}") for n in range(self.engines)]

    @property
    def ready(self) -> bool:
        """Whether all engines were compiled, one at least works, and none is about to stop."""
        return self._complete and bool(self._compiled) and not self._closing

    @property
    def waiting(self) -> int:
        """Images in the queue."""
        return len(self._queue)

    def submit(self, images: Sequence[bytes], top: int) -> asyncio.Future[list[Outcome]]:
        """Return what will be the outcomes, in the order of `images`; cancel it, and those that wait are dropped.

        Raises:
            QueueFull: there is no room for all of them.
        """
        loop = asyncio.get_running_loop()
        job = Job(images, top, loop.create_future())
        if len(self._queue) + len(images) > self.capacity:
            self._drop_given_up()
        if len(self._queue) + len(images) > self.capacity:
            raise QueueFull
        self._queue.extend((job, index) for index in range(len(images)))
        if not self._share_is_due:  # after the other requests of this turn of the loop, so that they share a batch
            self._share_is_due = True
            loop.call_soon(self._share_out)
        return job.done

    async def close(self) -> None:
        """Stop the engines after what they are at."""
        self._closing = True
        for engine in self._compiled:
            engine.process.finish()
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=CLOSE_SECONDS)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    def _drop_given_up(self) -> None:
        kept = [item for item in self._queue if not item[0].given_up]
        self._queue.clear()
        self._queue.extend(kept)

    async def _run(self) -> None:
        """Keep one engine running until the pool closes."""
        while not self._closing:
            process = EngineProcess(self._limits, self._sizes)
            try:
                await process.start(self._model)
                await self._work(_Engine(process))
            except EngineDied:
                self._failed(ClusterError("An engine ended while it started: give the server more memory."))
                return
            except Exception as error:
                self._failed(error)
                return
            finally:
                await process.close()

    async def _work(self, engine: _Engine) -> None:
        """Hand over what an engine answers until it ends."""
        if self._closing:
            return
        self._compiled.append(engine)
        self._complete = self._complete or len(self._compiled) == self.engines
        self._share_out()
        try:
            while True:
                results: Sequence[Prediction | Rejection | Exception]
                try:
                    results = await engine.process.receive()
                except EngineDied:
                    raise
                except Exception as error:  # each request that it concerns logs it
                    results = [error] * len(engine.under_way[0])
                self._hand_over(engine.under_way.popleft(), results)
                self._share_out()
        except EngineDied as error:
            self._compiled.remove(engine)
            if not self._closing:
                log.error("An engine has ended by itself, and another takes its place.")
            for items in engine.under_way:
                self._hand_over(items, [error] * len(items))

    def _share_out(self) -> None:
        """Give engines what waits: a share to each that has nothing to do, then a full batch to each that is at one."""
        self._share_is_due = False
        if self._closing:
            return
        idle = [engine for engine in self._compiled if not engine.under_way]
        for number, engine in enumerate(idle):
            # Never filled up, and never waited for.
            share = -(-len(self._queue) // (len(idle) - number))
            self._give(engine, max((size for size in self._sizes if size <= share), default=share))
        full = max(self._sizes)
        for engine in self._compiled:
            if len(engine.under_way) == 1 and len(self._queue) >= full and self._bytes(full) <= AHEAD_BYTES:
                self._give(engine, full)

    def _give(self, engine: _Engine, size: int) -> None:
        """Give an engine the next images, at most `size`."""
        items: list[Item] = []
        while self._queue and len(items) < size:
            item = self._queue.popleft()
            if not item[0].given_up:
                items.append(item)
        if items:
            engine.under_way.append(items)
            engine.process.send([job.images[index] for job, index in items], max(job.top for job, _ in items))

    def _bytes(self, count: int) -> int:
        """Return how many bytes the next images have."""
        return sum(len(job.images[index]) for job, index in islice(self._queue, count))

    def _hand_over(self, items: list[Item], results: Sequence[Prediction | Rejection | Exception]) -> None:
        """Give results to those who wait for them."""
        if predicted := sum(isinstance(result, Prediction) for result in results):
            self._observer.batch(predicted)
        now = time.perf_counter()
        for (job, index), result in zip(items, results, strict=True):
            if job.given_up:
                continue
            if isinstance(result, Exception):
                job.done.set_exception(result)
                continue
            job.outcomes[index] = Outcome(result, 1000 * (now - job.started))
            if len(job.outcomes) == len(job.images):
                job.done.set_result([job.outcomes[index] for index in range(len(job.images))])
