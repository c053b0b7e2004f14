"""Engines, one for each core, behind one bounded queue: each takes what waits, and waits for nothing more."""

from __future__ import annotations

import asyncio
import logging
import threading
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
from orchard.serving.engine import PIPE_BYTES, EngineDied, EngineProcess

log = logging.getLogger(__name__)

BATCH_SIZES = (1, 2, 4)
"""Each engine is compiled for these. One thread, EfficientNet-Lite0, bfloat16, AMX: 4.5 ms an image one by one, 3.7
by twos, 3.8 by fours, 5.0 by eights; a photograph waits for the rest of its batch."""


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
    loop: asyncio.AbstractEventLoop
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
        """Count a batch; called from the engines' threads."""
        ...


Item = tuple[Job, int]


class EnginePool:
    """Engines in processes of their own, each with a thread here that feeds it.

    Args:
        model: the model.
        engines: how many.
        capacity: images that may wait.
        limits: what an image may cost.
        observer: who counts.
        failed: called, from a thread, with what an engine could not start for.
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
        self._changed = threading.Condition()
        self._idle = 0
        self._compiled = 0
        self._complete = False
        self._closing = False
        self._threads = [threading.Thread(target=self._run, name=f"engine-{n}", daemon=True) for n in range(engines)]

    def start(self) -> None:
        """Begin to compile; images that come before `ready` wait."""
        for thread in self._threads:
            thread.start()

    @property
    def ready(self) -> bool:
        """Whether all engines were compiled, one at least works, and none is about to stop."""
        return self._complete and self._compiled > 0 and not self._closing

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
        job = Job(images, top, loop, loop.create_future())
        with self._changed:
            if len(self._queue) + len(images) > self.capacity:
                self._drop_given_up()
            if len(self._queue) + len(images) > self.capacity:
                raise QueueFull
            self._queue.extend((job, index) for index in range(len(images)))
            self._changed.notify(len(images))
        return job.done

    def close(self) -> None:
        """Stop the engines after what they are at."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(10)

    def _drop_given_up(self) -> None:
        kept = [item for item in self._queue if not item[0].given_up]
        self._queue.clear()
        self._queue.extend(kept)

    def _run(self) -> None:
        while not self._closing:
            engine = EngineProcess(self._limits, self._sizes)
            try:
                engine.start(self._model)
            except EngineDied:
                self._failed(ClusterError("An engine ended while it started: give the server more memory."))
                engine.close()
                return
            except Exception as error:
                self._failed(error)
                engine.close()
                return
            with self._changed:
                self._compiled += 1
                self._complete = self._complete or self._compiled == self.engines
            try:
                self._feed(engine)
            except EngineDied:
                log.error("An engine has ended by itself, and another takes its place.")
                with self._changed:
                    self._compiled -= 1
            finally:
                engine.close()

    def _feed(self, engine: EngineProcess) -> None:
        """Keep an engine busy until the pool closes. Raises EngineDied."""
        under_way: deque[list[Item]] = deque()
        try:
            while True:
                # While it is at a batch, the next full one lies ready: it never waits for this process to be scheduled.
                if len(under_way) < 2 and (items := self._take(ahead=bool(under_way))):
                    under_way.append(items)
                    engine.send([job.images[index] for job, index in items], max(job.top for job, _ in items))
                elif not under_way:
                    return
                else:
                    results: Sequence[Prediction | Rejection | Exception]
                    try:
                        results = engine.receive()
                    except EngineDied:
                        raise
                    except Exception as error:  # each request that it concerns logs it
                        results = [error] * len(under_way[0])
                    self._hand_over(under_way.popleft(), results)
        except EngineDied as error:
            for items in under_way:
                self._hand_over(items, [error] * len(items))
            raise

    def _take(self, *, ahead: bool) -> list[Item]:
        """Return the next images, at least one; none when the pool closes.

        `ahead`: for an engine that is busy; a full batch that fits into the pipe if there is one, else none.
        """
        with self._changed:
            while True:
                while self._queue:
                    # What waits is shared with those who have nothing to do, and never filled up.
                    share = -(-len(self._queue) // (self._idle + 1))
                    size = max((size for size in self._sizes if size <= share), default=share)
                    if ahead and (size < max(self._sizes) or self._bytes(size) > PIPE_BYTES):
                        return []
                    taken = [self._queue.popleft() for _ in range(size)]
                    if kept := [item for item in taken if not item[0].given_up]:
                        return kept
                if self._closing or ahead:
                    return []
                self._idle += 1
                self._changed.wait()
                self._idle -= 1

    def _bytes(self, count: int) -> int:
        """Return how many bytes the next images have."""
        return sum(len(job.images[index]) for job, index in islice(self._queue, count))

    def _hand_over(self, items: list[Item], results: Sequence[Prediction | Rejection | Exception]) -> None:
        if predicted := sum(isinstance(result, Prediction) for result in results):
            self._observer.batch(predicted)
        now = time.perf_counter()
        outcomes = [(job, index, result, now) for (job, index), result in zip(items, results, strict=True)]
        try:
            items[0][0].loop.call_soon_threadsafe(_deliver, outcomes)
        except RuntimeError:  # the loop was closed: nobody waits
            return


def _deliver(outcomes: list[tuple[Job, int, Prediction | Rejection | Exception, float]]) -> None:
    """Hand results over to those who wait; runs in the event loop."""
    for job, index, result, now in outcomes:
        if job.given_up:
            continue
        if isinstance(result, Exception):
            job.done.set_exception(result)
            continue
        job.outcomes[index] = Outcome(result, 1000 * (now - job.started))
        if len(job.outcomes) == len(job.images):
            job.done.set_result([job.outcomes[index] for index in range(len(job.images))])
