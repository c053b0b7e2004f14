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

from orchard.errors import ClusterError
from orchard.images.content import image_format
from orchard.images.decoding import Decoded, Limits, Rejection, decode, too_much_memory, too_slow
from orchard.images.limits import Deadline
from orchard.processes import Process, WorkerDied
from orchard.scratch import scratch
from orchard.vocabulary import Fit, Reason

_ATTEMPTS = 2
"""At an image: the first process may have died of something else."""
_CRASHES = {-number for number in (signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGSEGV)}
_MOST_KILLED = 2
"""Images in a row that are rejected where their process was killed: if it is more, it is not the images' fault."""


class Decode(Protocol):
    """What decodes as `orchard.images.decoding.decode` does, with its arguments."""

    def __call__(
        self, data: bytes, target: int, limits: Limits, fit: Fit = Fit.STRETCH, larger: int | None = None
    ) -> Decoded | Rejection:
        """Return the pixels, or the reason why there are none."""
        ...


@contextmanager
def decoding(*, apart: bool) -> Iterator[Decode]:
    """Give what decodes, in this process or `apart`, for the duration of a ``with`` block.

    Apart it raises ClusterError where it is not the images that end its process.
    """
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
        self._is_ready = False
        self._killed = 0  # images in a row

    def __call__(
        self, data: bytes, target: int, limits: Limits, fit: Fit = Fit.STRETCH, larger: int | None = None
    ) -> Decoded | Rejection:
        code = 0
        for _ in range(_ATTEMPTS):
            process = self._ready()
            try:
                found = process(_decode, (data, target, limits, fit, larger))
            except WorkerDied as error:
                self._process, code = None, error.code
                if code == -Deadline.ENDS_NATIVE_CODE:
                    return too_slow(image_format(data), limits)
                if code != -signal.SIGKILL and code not in _CRASHES:  # somebody's signal, or Python's own end
                    raise _ended(code) from error
            else:
                self._killed = 0
                return found
        if code in _CRASHES:
            return Rejection(
                Reason.CORRUPT, f"{image_format(data)}: it ends its decoder ({signal.Signals(-code).name})"
            )
        self._killed += 1
        if self._killed > _MOST_KILLED:
            raise _ended(code)
        return too_much_memory(image_format(data))

    def _ready(self) -> Process:
        """Return the process, once it has answered: what ends it then is the image."""
        if self._process is None:
            self._process, self._is_ready = Process(self._folder), False
        if not self._is_ready:
            try:
                self._process(abs, 0)
            except WorkerDied as error:
                raise _ended(error.code) from error
            self._is_ready = True
        return self._process

    def end(self) -> None:
        if self._process is not None:
            self._process.end()


def _ended(code: int) -> ClusterError:
    return ClusterError(
        f"The process that decodes was ended again and again (code {code}), most likely for want of memory: give this "
        "machine, the container or the executor more, or lower --max-pixels, and start again to go on where it stopped."
    )


def _decode(given: tuple[bytes, int, Limits, Fit, int | None]) -> Decoded | Rejection:
    """Decode, in the process apart."""
    return decode(*given)
