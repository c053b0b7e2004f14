"""What does the tasks of a run: processes of this machine, or Spark's executors; batch by batch, with the same results.

`orchard.processes` has the former, `orchard.tasks` the latter.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, closing
from functools import reduce
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from orchard import interruption

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

T = TypeVar("T")
V = TypeVar("V", covariant=True)  # noqa: PLC0105 - short, as the others are
R = TypeVar("R")

ATTEMPTS = 4
"""At a task, in a local run as in a cluster (Spark's ``spark.task.maxFailures``, which local masters ignore)."""

BATCHES_IN_FLIGHT = 2
"""While the last tasks of one batch run, those of the next fill the free slots."""

ENVIRONMENT = {"ARROW_DEFAULT_MEMORY_POOL": "system"}
"""Of the workers: Arrow's own allocators keep some 20 MB of what they freed."""

_TICK_SECONDS = 0.25
_attempt = 0


def begin_attempt(number: int) -> None:
    """Remember, in a worker, which attempt at a task begins; the first is 0."""
    global _attempt  # noqa: PLW0603 - a worker does one task at a time
    _attempt = number


def has_failed_before() -> bool:
    """Return, in a worker, whether an earlier attempt at its task has failed, or has ended its worker."""
    return _attempt > 0


class Shared(Protocol[V]):
    """A value that each worker reads once, however many tasks have it: as a broadcast of Spark's."""

    @property
    def value(self) -> V:
        """The value, in a worker."""

    def unpersist(self) -> object:
        """Forget it: no further task needs it."""


class Early(Protocol):
    """Takes results as they come, before the batch that they are of is done."""

    value: list[Any]


class Workers(ABC):
    """Do tasks, until they are closed."""

    @property
    @abstractmethod
    def slots(self) -> int:
        """How many tasks are at work at once, as far as it is known now."""

    @property
    @abstractmethod
    def master(self) -> str:
        """What a Spark master's URL calls them."""

    @property
    @abstractmethod
    def spark(self) -> "SparkSession":
        """Spark's session, for what Spark alone does: it is waited for, and started if nothing else needed it."""

    @abstractmethod
    def prepare(self, function: Callable[[int], object]) -> None:
        """Begin to start them, let each call `function` with a number, and return at once."""

    @abstractmethod
    def share(self, value: T) -> Shared[T]:
        """Return what stands for a value in tasks."""

    @abstractmethod
    def close(self) -> None:
        """End those that were started here."""

    def run(self, function: Callable[[T], R], items: Sequence[T]) -> list[R]:
        """Return what `function` returns for each item, in order; see `run_batches` for arguments and errors."""
        return [result for results in self.run_batches(function, [items]) for result in results]

    def merge(self, function: Callable[[T], R], items: Sequence[T], merge: Callable[[R, R], R]) -> R:
        """Return what `function` returns for the items, of which there are some, merged.

        Few results are held at a time; `merge` gets them in their order, or is associative and commutative.
        """
        slots = self.slots
        batches = (items[start : start + slots] for start in range(0, len(items), slots))
        with closing(self.run_batches(function, batches, in_order=True)) as found:
            return reduce(merge, (result for results in found for result in results))

    def run_batches(
        self,
        function: Callable[[T], R],
        batches: Iterable[Sequence[T]],
        *,
        in_order: bool = False,
        arrived: Callable[[list[R]], object] | None = None,
    ) -> Generator[list[R], None, None]:
        """Yield what `function` returns for the items of each batch, with `BATCHES_IN_FLIGHT` of them handed out.

        Close it (`contextlib.closing`), so that what is under way ends with it.

        Args:
            function: called in the workers, one task an item; it can be pickled, as can items and results.
            batches: taken one by one, when there is room for another.
            in_order: of `batches`; otherwise as they are done.
            arrived: called again and again while batches are waited for, and at the end, with the results that have
                come since, which their batch has once more; what it raises ends the work.

        Raises:
            OrchardError: what a worker raised `ATTEMPTS` times.
            ClusterError: the tasks were given up.
            KeyboardInterrupt: the command is to end.
        """
        left = iter(batches)
        in_flight: list[Future[list[R]]] = []
        early = self._new_early() if arrived else None

        def look() -> None:
            if arrived and early is not None:
                come = early.value[:]
                del early.value[: len(come)]  # another thread only ever appends
                arrived(come)

        with ThreadPoolExecutor(BATCHES_IN_FLIGHT, thread_name_prefix="orchard-batch") as threads, self._ending():
            try:
                while True:
                    while len(in_flight) < BATCHES_IN_FLIGHT and (batch := next(left, None)) is not None:
                        in_flight.append(threads.submit(self._run, function, batch, early))
                    if not in_flight:
                        return
                    wanted = in_flight[:1] if in_order else in_flight
                    finished, _ = wait(wanted, timeout=_TICK_SECONDS, return_when=FIRST_COMPLETED)
                    interruption.check()
                    look()
                    for done in finished:
                        in_flight.remove(done)
                        yield done.result()
            except BaseException:
                self._cancel(in_flight)
                look()
                raise

    @abstractmethod
    def _new_early(self) -> Early: ...

    @abstractmethod
    def _run(self, function: Callable[[T], R], batch: Sequence[T], early: Early | None) -> list[R]:
        """Return the results for a batch in order; called in threads."""

    @abstractmethod
    def _cancel(self, batches: Sequence[Future[Any]]) -> None:
        """End what is under way, and wait until it has ended."""

    @abstractmethod
    def _ending(self) -> AbstractContextManager[object]:
        """During a ``with`` block, have what is under way stopped when the command is to end."""
