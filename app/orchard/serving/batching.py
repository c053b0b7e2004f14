"""Engines behind one bounded queue, one for each core: each takes what is waiting, and never waits for more.

An engine that dies, or takes too long for a batch, is replaced. Each image of its batch is tried once more, alone, so
that one bad image costs no other its answer.
"""

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
from orchard.inference.predictor import PLACE_IMAGES, Prediction
from orchard.serving.engine import EngineDied, EngineProcess
from orchard.serving.problems import Problem, Refusal
from orchard.vocabulary import Reason

log = logging.getLogger(__name__)

BATCH_SIZES = (1, 2, 4)
"""Batch sizes that each engine is compiled for. One thread, EfficientNet-Lite0, bfloat16, AMX: 4.5 ms an image one by
one, 3.7 by twos, 3.8 by fours, 5.0 by eights; a photograph waits for the rest of its batch."""
AHEAD_BYTES = 64 * 1024
"""Largest batch, in bytes, that may be queued on a busy engine. A larger one gains less than its photographs lose by
waiting while another engine is idle."""
CLOSE_SECONDS = 10.0
"""How long a closing pool waits for unfinished answers."""
START_SECONDS = 120.0
"""How long an engine may take to compile; on an idle core it takes 3."""
RETRY_SECONDS = (1.0, 30.0)
"""Shortest and longest pause between attempts to start an engine; each pause is twice the one before."""
BATCH_SECONDS = 10.0
"""Time limit for a batch, in addition to the time for each of its images; on an idle core a batch takes 0.02 s."""
REGIONS_BATCHES = -(-PLACE_IMAGES // max(BATCH_SIZES))
"""Number of full batches that take as long as one image with regions."""
WATCH_SECONDS = 0.25
"""Interval, in seconds, between checks for engines that are late."""
IDLE_SECONDS = 5.0
"""After so many idle seconds an engine gets an empty batch, so that an engine that has stopped is noticed."""


class QueueFull(Exception):
    """The queue is full."""


@dataclass(frozen=True, slots=True)
class ImageResult:
    """The result for one image: a prediction or an error."""

    result: Prediction | Rejection | Problem
    milliseconds: float
    """Time from the entry into the queue to the answer."""


@dataclass(slots=True, eq=False)
class PendingRequest:
    """The images of one request."""

    images: Sequence[bytes]
    top: int
    regions: bool
    done: asyncio.Future[list[ImageResult]]
    started: float = field(default_factory=time.perf_counter)
    outcomes: dict[int, ImageResult] = field(default_factory=dict)

    @property
    def cost(self) -> int:
        """Places in the queue that each of its images takes."""
        return PLACE_IMAGES if self.regions else 1

    @property
    def given_up(self) -> bool:
        """Whether the client no longer waits for it."""
        return self.done.done()


class Observer(Protocol):
    """Counts events of the engines."""

    def batch(self, images: int) -> None:
        """Count a batch."""
        ...

    def ended(self, *, late: bool) -> None:
        """Count an engine that died, or was ended because it was late."""
        ...

    def tried_again(self, images: int) -> None:
        """Count images that are tried a second time."""
        ...


Item = tuple[PendingRequest, int]


@dataclass(slots=True, eq=False)
class _Batch:
    """Images that are sent to an engine together."""

    items: list[Item]
    again: bool = False
    """It is one image, that is tried the second time."""

    @property
    def regions(self) -> bool:
        """Whether it is one image whose regions are asked for."""
        return any(request.regions for request, _ in self.items)

    @property
    def seconds(self) -> float:
        """Time limit in seconds, in addition to the limit for each of its images."""
        return BATCH_SECONDS * (REGIONS_BATCHES if self.regions else 1)


@dataclass(slots=True, eq=False)
class _Engine:
    """A compiled engine and its unanswered batches, at most two.

    While it is at one, the next full one lies ready: it never waits for this process to be scheduled.
    """

    process: EngineProcess
    task: asyncio.Task[None] | None
    under_way: deque[_Batch] = field(default_factory=deque)
    seconds: float = 0.0
    """For which it has been at the first of them, as `_watch` counts: while the server itself is stopped, none pass."""
    idle: float = 0.0
    """Seconds for which it has had nothing to do."""


class EnginePool:
    """Engines in processes of their own, fed by the event loop that `start` was called in.

    Args:
        model: the model.
        engines: number of engines.
        capacity: number of images that may wait.
        limits: limits for decoding one image. A batch has `BATCH_SECONDS`, and ``max_seconds`` for each image, of wall
            clock time: an engine that takes longer hangs.
        observer: counts events of the engines.
        failed: called with the error for which an engine could not start.
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
        self._suspects: deque[Item] = deque()  # of batches that failed; each is tried alone, before all others
        self._compiled: list[_Engine] = []
        self._untried = engines  # engines of which it is not known yet whether they can start
        self._works = False  # one could
        self._closing = False
        self._share_is_due = False
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin to compile; images that come before `ready` wait."""
        self._tasks = [asyncio.create_task(self._run(), name=f"engine-{n}") for n in range(self.engines)]
        self._watcher = asyncio.create_task(self._watch(), name="watch")

    @property
    def tried(self) -> bool:
        """Whether every engine has tried to compile once, with success or not."""
        return not self._untried

    @property
    def able(self) -> int:
        """Number of engines that can answer: they are compiled, and have not spent seconds on one batch."""
        return sum(engine.seconds < BATCH_SECONDS / 2 for engine in self._compiled)

    @property
    def ready(self) -> bool:
        """Whether all engines have tried to compile, at least one can answer, and the pool is not closing."""
        return self.tried and self.able > 0 and not self._closing

    @property
    def waiting(self) -> int:
        """Number of images in the queue; one with regions counts as the number of images that take as long."""
        return sum(request.cost for request, _ in (*self._queue, *self._suspects))

    def submit(self, images: Sequence[bytes], top: int, *, regions: bool = False) -> asyncio.Future[list[ImageResult]]:
        """Return a future of the results, in the order of `images`. If it is cancelled, waiting images are dropped.

        Args:
            images: the bytes of each image.
            top: number of labels that each answer lists.
            regions: whether to find regions, too. Such an image takes many places, but a single one always fits into
                an empty queue.

        Raises:
            QueueFull: there is no room for all of them.
        """
        loop = asyncio.get_running_loop()
        request = PendingRequest(images, top, regions, loop.create_future())
        if not self._has_room(request):
            self._drop_given_up()
        if not self._has_room(request):
            raise QueueFull
        self._queue.extend((request, index) for index in range(len(images)))
        if not self._share_is_due:  # after the other requests of this turn of the loop, so that they share a batch
            self._share_is_due = True
            loop.call_soon(self._share_out)
        return request.done

    def _has_room(self, request: PendingRequest) -> bool:
        cost = len(request.images) * request.cost
        if len(request.images) == 1:
            cost = min(cost, self.capacity)
        return sum(waiting.cost for waiting, _ in self._queue) + cost <= self.capacity

    async def close(self) -> None:
        """Stop the engines when they have finished their current batches."""
        self._closing = True
        for engine in self._compiled:
            engine.process.finish()
        at_work = {engine.task for engine in self._compiled}
        for task in self._tasks:
            if task not in at_work:  # it starts an engine, or waits to
                task.cancel()
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=CLOSE_SECONDS)
            for task in (*late, self._watcher):
                task.cancel()
            await asyncio.gather(*late, self._watcher, return_exceptions=True)

    def _drop_given_up(self) -> None:
        kept = [item for item in self._queue if not item[0].given_up]
        self._queue.clear()
        self._queue.extend(kept)

    async def _run(self) -> None:
        """Keep one engine running until the pool closes."""
        first, seconds = True, RETRY_SECONDS[0]
        while not self._closing:
            process = EngineProcess(self._limits, self._sizes)
            try:
                error = await self._start(process)
                self._untried -= first
                first = False
                if error is None:
                    await self._work(_Engine(process, asyncio.current_task()))
            finally:
                await process.close()
            if error is None:
                seconds = RETRY_SECONDS[0]
                continue
            if self.tried and not self._works:  # nor could any other
                self._failed(error)
                return
            self._observer.ended(late=False)
            log.error("An engine could not start, and is tried again in %g s: %s", seconds, error)
            await asyncio.sleep(seconds)
            seconds = min(2 * seconds, RETRY_SECONDS[1])

    async def _start(self, process: EngineProcess) -> Exception | None:
        """Start an engine; return the error if it could not start, else None."""
        try:
            async with asyncio.timeout(START_SECONDS):
                await process.start(self._model)
        except EngineDied:
            return ClusterError("An engine ended while it started: give the server more memory.")
        except TimeoutError:
            return ClusterError(f"An engine did not start within {START_SECONDS:g} s: give the server more processors.")
        except Exception as error:
            return error
        self._works = True
        return None

    async def _work(self, engine: _Engine) -> None:
        """Pass on the answers of an engine until it ends."""
        if self._closing:
            return
        self._compiled.append(engine)
        self._share_out()
        try:
            while True:
                try:
                    results = await engine.process.receive()
                except EngineDied:
                    break
                except Exception as error:  # each request that it concerns in the end logs it whole
                    log.warning("An engine failed at a batch: %s", error)
                    self._fail(engine.under_way.popleft(), error)
                else:
                    self._hand_over(engine.under_way.popleft().items, results)
                engine.seconds = 0.0
                self._share_out()
        finally:
            self._compiled.remove(engine)
        await engine.process.close()
        self._ended(engine)

    async def _watch(self) -> None:
        """Kill engines that are late; `_work` then treats them as any engine that died."""
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            for engine in self._compiled:
                if engine.under_way:
                    engine.seconds += WATCH_SECONDS
                    batch = engine.under_way[0]
                    if engine.seconds > batch.seconds + self._limits.max_seconds * len(batch.items):
                        engine.process.kill()
                elif not self._closing:
                    engine.idle += WATCH_SECONDS
                    if engine.idle >= IDLE_SECONDS:
                        self._give(engine, _Batch([]))

    def _ended(self, engine: _Engine) -> None:
        """Queue the batches of an engine that has ended once more."""
        process = engine.process
        if not self._closing:
            self._observer.ended(late=process.late)
            how = "was at one batch for too long" if process.late else "has ended by itself"
            if process.killed:
                how = "was killed, as where memory is lacking (give the server more)"
            log.error("An engine %s, and another takes its place.", how)
        if not engine.under_way:
            return
        failed = engine.under_way.popleft()
        for batch in reversed(engine.under_way):  # it had not begun these
            self._queue.extendleft(reversed(batch.items))
        reason: Rejection | Problem
        if process.late:
            seconds = f"{self._limits.max_seconds:g} s"
            reason = Rejection(
                Reason.TOO_SLOW, f"The image keeps an engine busy for more than {seconds}: save it again."
            )
        elif process.killed:
            detail = (
                "Each engine that was at the image was killed: give the server more memory, or make the image smaller."
            )
            reason = Problem(Refusal.ENGINE_DIED, detail)
        else:
            reason = Problem(Refusal.ENGINE_DIED, "The image ended each engine that was at it: save it again.")
        # An image that was alone has used its time, and would again.
        self._fail(failed, reason, final=process.overran and len(failed.items) == 1)
        self._share_out()

    def _fail(self, batch: _Batch, reason: Rejection | Exception, *, final: bool = False) -> None:
        """Queue the images of a batch again, each alone; those tried alone before get the error."""
        if final or batch.again or self._closing:
            self._hand_over(batch.items, [reason] * len(batch.items))
        else:
            self._suspects.extend(batch.items)
            self._observer.tried_again(len(batch.items))

    def _share_out(self) -> None:
        """Send waiting images: a share to each idle engine, then a full batch to each busy one, to lie ready."""
        self._share_is_due = False
        if self._closing:
            return
        idle = [engine for engine in self._compiled if not engine.under_way]
        while idle and self._suspects:
            item = self._suspects.popleft()
            if not item[0].given_up:
                self._give(idle.pop(), _Batch([item], again=True))
        for number, engine in enumerate(idle):
            # Never filled up, and never waited for.
            share = -(-len(self._queue) // (len(idle) - number))
            self._take(engine, max((size for size in self._sizes if size <= share), default=share))
        full = max(self._sizes)
        for engine in self._compiled:
            quick = len(engine.under_way) == 1 and not engine.seconds and not engine.under_way[0].regions
            ahead = list(islice(self._queue, full))
            if quick and len(ahead) == full and _is_light(ahead):
                self._take(engine, full)

    def _take(self, engine: _Engine, size: int) -> None:
        """Send an engine the next images, at most `size`; an image with regions is sent alone."""
        items: list[Item] = []
        while self._queue and len(items) < size:
            if items and (self._queue[0][0].regions or items[0][0].regions):
                break
            item = self._queue.popleft()
            if not item[0].given_up:
                items.append(item)
        if items:
            self._give(engine, _Batch(items))

    def _give(self, engine: _Engine, batch: _Batch) -> None:
        engine.under_way.append(batch)
        engine.idle = 0.0
        images = [request.images[index] for request, index in batch.items]
        engine.process.send(images, max((request.top for request, _ in batch.items), default=1), regions=batch.regions)

    def _hand_over(self, items: list[Item], results: Sequence[Prediction | Rejection | Exception]) -> None:
        """Pass results to the requests that wait for them."""
        if predicted := sum(isinstance(result, Prediction) for result in results):
            self._observer.batch(predicted)
        now = time.perf_counter()
        for (request, index), result in zip(items, results, strict=True):
            if request.given_up:
                continue
            if isinstance(result, Exception) and not isinstance(result, Problem):
                request.done.set_exception(result)
                continue
            request.outcomes[index] = ImageResult(result, 1000 * (now - request.started))
            if len(request.outcomes) == len(request.images):
                request.done.set_result([request.outcomes[index] for index in range(len(request.images))])


def _is_light(items: Sequence[Item]) -> bool:
    """Whether images may lie ready at an engine that is busy."""
    of_regions = any(request.regions for request, _ in items)
    return not of_regions and sum(len(request.images[index]) for request, index in items) <= AHEAD_BYTES
