"""How many executors a run needs to end in time, from the number of images left; and scaling to that number.

Only extraction counts images, so it alone asks for more; the stages after it get the fewest. A number that somebody
else has set, such as by ``kubectl scale``, holds until the next stage.
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
"""How often the number is thought about; an executor takes as long to start."""
LEARNING_SECONDS = 20.0
"""Executor-seconds of a stage after which its rate is believed."""
RESERVE = 0.9
"""Of the time there is, the part that is planned with; of the rest half of what is left."""
BEFORE = ("list", "start")
"""Stages that extraction follows."""
SLACK = 0.2
"""So much fewer executors have to be enough before some are let go: they would be missed a little later."""


def needed(left: int, seconds: float, rate: float, fewest: int, most: int) -> int:
    """Return how many executors do `left` images in `seconds`, of `rate` images a second each, within the bounds."""
    if left <= 0:
        return fewest
    if seconds * rate <= 0:
        return most
    return max(fewest, min(most, math.ceil(left / (seconds * rate))))


@dataclass(frozen=True)
class Bounds:
    """What the number of executors keeps to."""

    fewest: int
    """1 or more."""
    most: int
    seconds: float
    """From the driver's start, in which extraction is to end."""


@dataclass
class Autoscaler:
    """Decides again and again, from the progress of the stages.

    Args:
        bounds: of their number.
        read: returns how many executors are asked for now; None: it cannot be told.
        scale: asks for another number; returns whether that was possible.
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
        """Think about the number, if it is time; `executors` are registered now."""
        now = monotonic()
        since = now - self._looked if self._looked is not None else 0.0
        if self._looked is not None and since < DECISION_SECONDS:
            return
        self._looked = now
        work = next((work for work in reversed(progress.works()) if work.ended is None), None)
        if work is None:
            return
        if work.name != self._stage:
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
