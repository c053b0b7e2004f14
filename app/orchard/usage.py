"""What a run uses: seconds, core-hours and, with the settings' prices, money and energy."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Lock, Thread
from time import monotonic

from orchard.layout import Usage
from orchard.settings import Settings

EFFICIENCY = 0.9
"""Share of extraction's core time that is spent on images: see docs/sizing.md."""
SECONDS = 2.0
"""Interval, in seconds, at which cores are counted, because executors come and go."""


class Meter:
    """Adds up the core-seconds that a run holds during a ``with`` block, busy or idle, in total and by stage.

    Args:
        cores: returns the number of cores held now, given the number of the driver's cores that a stage uses itself.

    Attributes:
        seconds: duration of each stage, in seconds.
    """

    def __init__(self, cores: Callable[[int], int]) -> None:
        self.seconds: dict[str, float] = {}
        self._cores, self._own = cores, 0
        self._by_stage: dict[str, float] = {}
        self._lock = Lock()
        self._sum, self._since, self._held = 0.0, monotonic(), 0
        self._ended = Event()
        self._thread = Thread(target=self._count, name="orchard-meter", daemon=True)

    def __enter__(self) -> Meter:
        self._since = monotonic()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def core_seconds(self) -> float:
        """Return the sum so far."""
        held = self._cores(self._own)
        with self._lock:
            now = monotonic()
            self._sum += self._held * (now - self._since)
            self._since, self._held = now, held
            return self._sum

    @contextmanager
    def stage(self, name: str, *, cores: int = 0) -> Iterator[None]:
        """Count the duration of a ``with`` block as a stage's, when the block has ended.

        Args:
            name: name of the stage.
            cores: number of the driver's cores that the stage uses itself.
        """
        started, self._own = monotonic(), cores
        held = self.core_seconds()
        try:
            yield
        finally:
            used, self._own = self.core_seconds(), 0
            self.core_seconds()  # from here on they are not held
        self.seconds[name] = round(monotonic() - started, 3)
        self._by_stage[name] = used - held

    def used(self, settings: Settings) -> dict[str, Usage]:
        """Return what the run has used so far, stage by stage and in ``total``."""
        found = self._by_stage | {"total": self.core_seconds()}
        return {name: usage(seconds, settings) for name, seconds in found.items()}

    def _count(self) -> None:
        self.core_seconds()
        while not self._ended.wait(SECONDS):
            self.core_seconds()


def usage(core_seconds: float, settings: Settings) -> Usage:
    """Return core-seconds as hours, with cost and energy where the settings name a price and the watts of a core."""
    hours = core_seconds / 3600
    found = Usage(core_hours=round(hours, 6))
    if settings.core_hour_price is not None:
        found["cost"] = round(hours * settings.core_hour_price, 6)
    if settings.core_watts is not None:
        found["energy_kwh"] = round(hours * settings.core_watts / 1000, 6)
    return found
