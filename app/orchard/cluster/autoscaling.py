"""Computes from the number of images left how many executors a run needs to end in time, and scales to that number.

Only extraction counts images, so only extraction asks for more executors; later stages get the lowest number. A number
that somebody else has set, such as by ``kubectl scale``, is kept until the next stage.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from time import monotonic

from orchard import progress

log = logging.getLogger(__name__)

DECISION_SECONDS = 15.0
"""Seconds between decisions; an executor takes about as long to start."""
LEARNING_SECONDS = 20.0
"""Executor-seconds of a stage after which its measured rate is used."""
RESERVE = 0.9
"""The plan is to end after this share of the time; late in the run, within half of the time that is left."""
BEFORE = ("list", "start")
"""Stages before extraction."""
SLACK = 0.2
"""Executors are removed only if this share fewer would do; otherwise they would be missed a little later."""


def needed(left: int, seconds: float, rate: float, fewest: int, most: int) -> int:
    """Return how many executors process `left` images in `seconds`, at `rate` images a second each, within bounds."""
    if left <= 0:
        return fewest
    if seconds * rate <= 0:
        return most
    return max(fewest, min(most, math.ceil(left / (seconds * rate))))


@dataclass(frozen=True)
class Bounds:
    """Bounds of the number of executors, and the time that is the goal."""

    fewest: int
    """Lowest number of executors, at least 1."""
    most: int
    seconds: float
    """Seconds from the driver's start in which extraction should end."""


@dataclass
class Autoscaler:
    """Decides on the number of executors at regular intervals, from the progress of the stages.

    Args:
        bounds: bounds of the number.
        read: returns the number of executors that is requested now; None: it is unknown.
        scale: requests another number, and returns whether that was possible.
    """

    bounds: Bounds
    read: Callable[[], int | None]
    scale: Callable[[int], bool]
    _began: float = field(init=False)
    _asked: int | None = None
    """What was asked for last, by this."""
    _stage: str | None = None
    _held: bool = False
    """Whether somebody else's number holds, for this stage."""
    _looked: float | None = None
    _executor_seconds: float = 0.0

    def __post_init__(self) -> None:
        self._began = monotonic()

    def look(self, executors: int) -> None:
        """Decide on the number, if it is time; `executors` are registered now."""
        now = monotonic()
        since = now - self._looked if self._looked is not None else 0.0
        work = next((work for work in reversed(progress.works()) if work.ended is None), None)
        # At once in a new stage: a number that somebody sets later in it is known as theirs.
        is_new = work is not None and work.name != self._stage
        if self._looked is not None and since < DECISION_SECONDS and not is_new:
            return
        self._looked = now
        if work is None:
            return
        if is_new:
            self._stage, self._executor_seconds, self._held = work.name, 0.0, False
            self._asked = None
        else:
            self._executor_seconds += executors * since
        asked_for = self.read()
        if asked_for is None or self._is_held(asked_for):
            return
        wanted = self._wanted(work, asked_for)
        if wanted != asked_for and self.scale(wanted):
            log.info("autoscaling", extra={"fields": {"stage": work.name, "wanted": wanted, "before": asked_for}})
            self._asked = wanted
        else:
            self._asked = asked_for

    def _is_held(self, asked_for: int) -> bool:
        if not self._held and self._asked is not None and asked_for != self._asked:
            self._held = True
            log.info("somebody scaled the executors to %d: this holds until the next stage", asked_for)
        return self._held

    def _wanted(self, work: progress.Work, now: int) -> int:
        bounded = max(self.bounds.fewest, min(self.bounds.most, now))
        if work.name in BEFORE:
            return bounded
        if work.name != "extract" or work.total is None:
            return self.bounds.fewest
        rate = (work.done - work.before) / self._executor_seconds if self._executor_seconds else 0.0
        if self._executor_seconds < LEARNING_SECONDS or not rate:
            return bounded
        gone = monotonic() - self._began
        seconds = max(self.bounds.seconds * RESERVE - gone, (self.bounds.seconds - gone) / 2)
        wanted = needed(work.total - work.done, seconds, rate, self.bounds.fewest, self.bounds.most)
        return now if now * (1 - SLACK) < wanted < now <= self.bounds.most else wanted
