"""Frames of a camera, a video, or a folder that receives images.

A camera and a folder do not wait: the newest frame is taken, and older ones are counted and skipped. A video waits: its
frames are taken at the requested rate, by the video's own time.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Condition, Thread
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from orchard import interruption
from orchard.errors import InputError, UsageError
from orchard.images.decoding import Decoded, Rejection, decode, fitted
from orchard.images.limits import DEFAULT_LIMITS
from orchard.vocabulary import Fit, Reason

_POLL_SECONDS = 0.05
_SLOW_SECONDS = 2.0
"""So long a file that cannot be decoded may still be written."""
_CAMERA_SECONDS = 10.0
"""So long a camera may give nothing before it counts as gone."""
_SAME_SECONDS = 1e-3
"""Times within this are the same: they are rounded."""
_SHORT_SECONDS = 1.0
"""So much earlier than its header says a whole video may end: its sound may be longer."""
_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif", ".heic", ".heif"}
)
"""Of every format that is read: a file of another name is no image, or not yet, and so is a hidden one (a program that
uploads may name it so until it is whole, and macOS keeps ``._photo.jpg`` beside a file).
"""


@dataclass(frozen=True)
class Frame:
    """A frame to classify.

    Attributes:
        name: name of its file, or the seconds since the video or the camera began.
        picture: uint8 (height, width, 3), RGB, or the reason why there is none.
        skipped: number of frames that were skipped since the frame before.
    """

    name: str
    picture: NDArray[np.uint8] | Rejection
    skipped: int


@dataclass(frozen=True)
class Look:
    """Size, fit and rate of frames.

    Attributes:
        side: largest side in pixels; a larger picture becomes a square of this side.
        fit: how a picture becomes square.
        rate: frames a second, at most; None: as many as can be classified.
    """

    side: int
    fit: Fit
    rate: float | None


def frames(source: str, look: Look) -> Iterator[Frame]:
    """Yield frames of a folder, a camera by its number, or a video file, until it ends or the command is to end.

    Raises:
        InputError: there is nothing of that name, or it gives no frames.
        UsageError: OpenCV is not installed.
    """
    path = Path(source)
    if path.is_dir():
        yield from _of_folder(path, look)
    elif path.is_file():
        yield from _of_video(path, look)
    elif re.fullmatch("[0-9]{1,9}", source):
        yield from _of_camera(int(source), look)
    else:
        raise InputError(f"There is no folder, video or camera {source}: name one, a camera by its number, such as 0.")


def _of_folder(folder: Path, look: Look) -> Iterator[Frame]:
    """Yield the newest picture that has come to the folder whole, again and again; what is there already counts."""
    seen: dict[str, tuple[int, int]] = {}  # names of what was answered or left, with size and time
    growing: dict[str, tuple[int, int]] = {}
    held: dict[str, tuple[tuple[int, int], float]] = {}  # what could not be decoded as it was, and until when it may
    pace = _Pace(look.rate)
    while not interruption.asked():
        found = {
            entry.name: (status.st_size, status.st_mtime_ns)
            for entry, status in _statuses(folder)
            if entry.suffix.lower() in _SUFFIXES and not entry.name.startswith(".")
        }
        # Whole is what has not changed since the look before.
        whole = {name: state for name, state in found.items() if seen.get(name) != state == growing.get(name)}
        growing = found
        now = time.monotonic()
        held = {name: (state, until) for name, (state, until) in held.items() if whole.get(name) == state}
        whole = {name: state for name, state in whole.items() if name not in held or held[name][1] <= now}
        if not whole or not pace.is_due():
            interruption.wait(_POLL_SECONDS)
            continue
        newest = max(whole, key=lambda name: (whole[name][1], name))
        picture: NDArray[np.uint8] | Rejection
        try:
            with (folder / newest).open("rb") as file:
                data = file.read(DEFAULT_LIMITS.max_bytes + 1)
        except FileNotFoundError:  # it is gone again
            seen[newest] = whole[newest]
            continue
        except OSError as error:
            picture = Rejection(Reason.UNREADABLE, error.strerror or type(error).__name__)
        else:
            picture = _decoded(data, look)
        if isinstance(picture, Rejection) and newest not in held:  # its writer may only be slow
            held[newest] = whole[newest], now + _SLOW_SECONDS
            continue
        seen = {name: state for name, state in seen.items() if name in found} | whole
        pace.begin()
        named = os.fsencode(newest).decode("utf-8", "backslashreplace")  # as listings have it
        yield Frame(named, picture, len(whole) - 1)


def _statuses(folder: Path) -> Iterator[tuple[Path, Any]]:
    """Yield the readable files of a folder."""
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise InputError(f"The folder {folder} cannot be read ({error.strerror}): is it still there?") from error
    for entry in entries:
        try:
            if entry.is_file():
                yield entry, entry.stat()
        except OSError:  # it is gone again
            continue


def _decoded(data: bytes, look: Look) -> NDArray[np.uint8] | Rejection:
    found = decode(data, look.side, DEFAULT_LIMITS, look.fit)
    return found.pixels if isinstance(found, Decoded) else found


def _of_video(path: Path, look: Look) -> Iterator[Frame]:
    """Yield the frames of a video at the rate, counted in the video's own time, and at last what it lacks."""
    cv2 = _import_opencv()
    with _captured(cv2, str(path)) as capture:
        per_second = capture.get(cv2.CAP_PROP_FPS) or 25.0
        lasts = capture.get(cv2.CAP_PROP_FRAME_COUNT) / per_second
        number, skipped, due, end, seconds = 0, 0, 0.0, 0.0, 0.0
        while not interruption.asked() and capture.grab():
            # A phone's videos have no even rate; others have no times, or times that begin anew within the video.
            told = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
            seconds = told if told > seconds else seconds + 1 / per_second if number else 0.0
            number += 1
            end = max(number / per_second, seconds)
            if seconds < due - _SAME_SECONDS:
                skipped += 1
                continue
            found, picture = capture.retrieve()
            if not found:
                break
            if look.rate:
                due = max(due + 1 / look.rate, seconds - 1 / look.rate)
            yield Frame(f"{seconds:.3f}", _seen(picture, look), skipped)
            skipped = 0
        if not number:
            raise InputError(f"{path} gives no frames: is it a video that this OpenCV can read?")
        if end + _SHORT_SECONDS < lasts and not interruption.asked():
            detail = f"the video ends after {end:.1f} s, and says that it lasts {lasts:.1f} s: was it copied whole?"
            yield Frame(f"{end:.3f}", Rejection(Reason.TRUNCATED, detail), skipped)


def _of_camera(number: int, look: Look) -> Iterator[Frame]:
    """Yield the newest frame of a camera, which is emptied all the time, so that none is old when it is answered."""
    cv2 = _import_opencv()
    with _captured(cv2, number) as capture:
        newest = _Newest(capture)
        pace = _Pace(look.rate)
        while not interruption.asked():
            if not pace.is_due():
                interruption.wait(_POLL_SECONDS)
                continue
            found = newest.take()
            if found is None:
                raise InputError(f"Camera {number} has given no frame for {_CAMERA_SECONDS:g} s: is it connected?")
            pace.begin()
            picture, seconds, skipped = found
            yield Frame(f"{seconds:.3f}", _seen(picture, look), skipped)


class _Newest:
    """The newest frame of a camera, read in a thread of its own."""

    def __init__(self, capture: Any) -> None:
        self._capture, self._condition = capture, Condition()
        self._frame: Any = None
        self._came = 0
        self._started = time.monotonic()
        Thread(target=self._read, name="orchard-camera", daemon=True).start()

    def take(self) -> tuple[Any, float, int] | None:
        """Return the newest frame, its seconds, and how many came before it since the last; None: there is none."""
        with self._condition:
            self._condition.wait_for(lambda: self._came or interruption.asked(), _CAMERA_SECONDS)
            if not self._came:
                return None
            found = self._frame, time.monotonic() - self._started, self._came - 1
            self._came = 0
            return found

    def _read(self) -> None:
        while not interruption.asked():
            read, frame = self._capture.read()
            if not read:
                return
            with self._condition:
                self._frame, self._came = frame, self._came + 1
                self._condition.notify()


class _Pace:
    """Frames at a rate at most."""

    def __init__(self, rate: float | None) -> None:
        self._seconds = 1 / rate if rate else 0.0
        self._due = 0.0

    def is_due(self) -> bool:
        return time.monotonic() >= self._due

    def begin(self) -> None:
        """Begin a frame; lateness is not made up for."""
        self._due = max(self._due + self._seconds, time.monotonic() + self._seconds / 2)


def _seen(picture: NDArray[np.uint8], look: Look) -> NDArray[np.uint8]:
    """Return a frame of OpenCV's, blue first, as a file's picture is."""
    return fitted(Image.fromarray(np.ascontiguousarray(picture[:, :, ::-1])), look.side, look.fit)


@contextmanager
def _captured(cv2: Any, source: str | int) -> Iterator[Any]:
    capture = cv2.VideoCapture(source)
    try:
        if not capture.isOpened():
            if isinstance(source, str):
                raise InputError(f"{source} cannot be opened as a video: is it one, and whole?")
            raise InputError(f"{source} cannot be opened as a camera: is it connected, and used by no other program?")
        yield capture
    finally:
        capture.release()


def _import_opencv() -> Any:
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")  # what hinders it is said in a sentence of ours
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # silent, too
    try:
        import cv2
    except ImportError as error:
        raise UsageError(
            "Cameras and videos need OpenCV: pip install opencv-python-headless; a folder of pictures does not."
        ) from error
    return cv2
