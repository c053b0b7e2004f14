"""Limits on what decoding an image may cost, and their enforcement."""

import resource
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType

from orchard.vocabulary import Reason

# Some decoders shrink while they decode, so that more pixels than `max_pixels` may be right; not any number.
SHRUNK_PIXELS = 5
_STATM = Path("/proc/self/statm")
# What the kernel's timer takes: 0 is no limit for it, and some 290 years are too long.
_LEAST_SECONDS, _MOST_SECONDS = 1e-6, 1e9
# What takes so many times its time, or so many seconds more, is in native code that does not stop by itself.
_GRACE, _GRACE_SECONDS = 1.5, 0.5


@dataclass(frozen=True)
class Limits:
    """What an image may cost."""

    max_bytes: int = 64 * 2**20
    """Of the file."""
    max_pixels: int = 100_000_000
    """Width times height of what is decoded; a JPEG that is decoded at a reduced scale may have 5 times as many."""
    max_memory: int = 512 * 2**20
    """Bytes of its pixels while it is decoded, as its header says; checked before anything is decoded."""
    max_seconds: float = 20.0
    """Of CPU time; holds in a process's main thread, see `Deadline`."""


DEFAULT_LIMITS = Limits()


class Unfit(Exception):
    """The image must not be decoded; raised before decoding costs anything."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason, self.detail = reason, detail


def check_cost(what: str, size: tuple[int, int], decoded: int, memory: float, limits: Limits) -> None:
    """Refuse an image whose decoding would take too many pixels or bytes.

    Args:
        what: the image's format, for the message.
        size: width and height of the image, in pixels.
        decoded: number of pixels that the decoder returns.
        memory: bytes that the decoder needs for them.
        limits: what is allowed.

    Raises:
        Unfit: it is more.
    """
    width, height = size
    if width * height == 0:
        raise Unfit(Reason.CORRUPT, f"{what} of {width} x {height} pixels")
    if decoded > limits.max_pixels or width * height > SHRUNK_PIXELS * limits.max_pixels:
        detail = f"{what} of {width} x {height} pixels, more than {limits.max_pixels}"
        raise Unfit(Reason.TOO_MANY_PIXELS, detail)
    if memory > limits.max_memory:
        detail = f"{what} of {width} x {height} pixels takes {memory / 2**20:.0f} MiB to decode, more than "
        raise Unfit(Reason.TOO_MANY_PIXELS, f"{detail}{limits.max_memory / 2**20:.0f} MiB")


@contextmanager
def bounded_memory(more: int) -> Iterator[None]:
    """Limit how many bytes this process may grow by, for decoders that may need more than a header says.

    It limits the whole process, so it does nothing outside the main thread, or if Linux does not tell the size.
    """
    if threading.current_thread() is not threading.main_thread() or not _STATM.exists():
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    allowed = int(_STATM.read_text().split()[0]) * resource.getpagesize() + more
    allowed = min([allowed, sys.maxsize, *(limit for limit in (soft, hard) if limit != resource.RLIM_INFINITY)])
    resource.setrlimit(resource.RLIMIT_AS, (allowed, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


class OutOfTime(BaseException):
    """The deadline has passed; no `Exception`, so that no decoder takes it for one of its own."""


class Deadline:
    """A context that is left by `OutOfTime` after so many seconds of this process's CPU time.

    Pillow feeds its decoders in small blocks from Python, and parses headers in Python, so a signal can end them.
    A single native call (WebP, AVIF, compressed TIFF) ends first: it is bounded by its pixels. One that never ends is
    ended with the process by `ENDS_NATIVE_CODE`, after half as much time again, or half a second. Outside the main
    thread, to which Python gives signals, there is no deadline.
    """

    ENDS_NATIVE_CODE = signal.SIGVTALRM
    """Nothing handles it, so that it ends a process in whatever library that is."""

    def __init__(self, seconds: float) -> None:
        self._seconds = min(max(seconds, _LEAST_SECONDS), _MOST_SECONDS)
        self._armed = threading.current_thread() is threading.main_thread() and hasattr(signal, "setitimer")

    def __enter__(self) -> None:
        if self._armed:
            # Every time, as a library may have put its own in place: without one the signal would end the process.
            signal.signal(signal.SIGPROF, _ring)
            signal.signal(self.ENDS_NATIVE_CODE, signal.SIG_DFL)
            signal.setitimer(signal.ITIMER_PROF, self._seconds)
            signal.setitimer(signal.ITIMER_VIRTUAL, max(_GRACE * self._seconds, self._seconds + _GRACE_SECONDS))

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._armed:
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)


def _ring(_number: int, _frame: FrameType | None) -> None:
    raise OutOfTime
