"""Decoding in a process of its own, where an image that ends its decoder ends that process alone, and is rejected.

Native decoders may crash, never end, or be killed for want of memory, and no exception tells. A worker decodes where it
infers, which is faster; only when an attempt at its task has failed does it decode apart. So one image costs its task's
time, and not the run.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from orchard.images.content import image_format
from orchard.images.decoding import Decoded, Limits, Rejection, decode, too_slow
from orchard.images.limits import Deadline
from orchard.processes import Process, WorkerDied
from orchard.scratch import scratch
from orchard.vocabulary import Fit, Reason

_ATTEMPTS = 2
"""At an image: the first process may have died of something else."""


class Decode(Protocol):
    """What decodes as `orchard.images.decoding.decode` does, with its arguments."""

    def __call__(
        self, data: bytes, target: int, limits: Limits, fit: Fit = Fit.STRETCH, larger: int | None = None
    ) -> Decoded | Rejection:
        """Return the pixels, or the reason why there are none."""
        ...


@contextmanager
def decoding(*, apart: bool) -> Iterator[Decode]:
    """Give what decodes, in this process or `apart`, for the duration of a ``with`` block."""
    if not apart:
        yield decode
        return
    with scratch("decoding") as folder:
        found = _Apart(folder)
        try:
            yield found
        finally:
            found.end()


class _Apart:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: Process | None = Process(folder)  # at once, beside what else is got ready

    def __call__(
        self, data: bytes, target: int, limits: Limits, fit: Fit = Fit.STRETCH, larger: int | None = None
    ) -> Decoded | Rejection:
        ended_with: int | None = None
        for _ in range(_ATTEMPTS):
            self._process = self._process or Process(self._folder)
            try:
                return self._process(_decode, (data, target, limits, fit, larger))
            except WorkerDied as error:
                self._process, ended_with = None, error.code
            if ended_with == -Deadline.ENDS_NATIVE_CODE:
                break
        what = image_format(data)
        if ended_with == -Deadline.ENDS_NATIVE_CODE:
            return too_slow(what, limits)
        if ended_with == -signal.SIGKILL:
            return Rejection(Reason.TOO_MANY_PIXELS, f"{what} takes more memory than there is to decode")
        return Rejection(Reason.CORRUPT, f"{what}: it ends its decoder ({_named(ended_with)})")

    def end(self) -> None:
        if self._process is not None:
            self._process.end()


def _decode(given: tuple[bytes, int, Limits, Fit, int | None]) -> Decoded | Rejection:
    """Decode, in the process apart."""
    return decode(*given)


def _named(code: int | None) -> str:
    try:
        return signal.Signals(-(code or 0)).name
    except ValueError:
        return f"exit code {code}"
