"""The user's backgrounds, onto which random views paste things: read, made small, and kept with the output.

Only some files of the folder or bucket are kept, so small that every executor gets them with its tasks, and that the
output can hold them. So views can be made again when the folder is gone.
"""

from __future__ import annotations

import io
import logging
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from orchard import npz
from orchard.errors import InputError, UsageError
from orchard.files import digest_of
from orchard.images.decoding import Decoded, Limits, Rejection, decode
from orchard.images.reading import contents
from orchard.images.sources import list_images
from orchard.layout import BACKGROUNDS
from orchard.output import Output
from orchard.settings import Settings
from orchard.storage import S3Options
from orchard.vocabulary import Fit

log = logging.getLogger(__name__)

VERSION = 1
"""Raise it when the same backgrounds begin to give other views."""
NONE = "none"
"""Value of the setting that removes the output's backgrounds."""
MOST, SIDE = 64, 320
"""Number of files that are used, and side of each kept picture in pixels: some 2 MB in all, and 20 MB in a worker."""


@dataclass(frozen=True)
class Backgrounds:
    """Some pictures, each the square in the middle of a file.

    Attributes:
        digest: digest of the files from which they were made; empty: there are none.
        content: the pictures, in the form that `orchard.features.views.pictures` reads; empty if not read, or lost.
    """

    digest: str = ""
    content: bytes = b""


def of_run(output: Output, settings: Settings, views: int) -> Backgrounds:
    """Return the backgrounds of a run: those of the settings, else those that the output was made with.

    Args:
        output: the run's output.
        settings: the run's settings.
        views: number of random views of each training image.

    Raises:
        UsageError: the settings name backgrounds, but no random views.
        InputError: there is no picture in that place.
        StorageError: they cannot be listed.
    """
    before = output.recall("identity").get("backgrounds", "")
    asked = settings.backgrounds
    if asked and asked != NONE and not views:
        raise UsageError("--backgrounds is for random views, and there are none: give --views N, too.")
    if asked == NONE or not (asked or before):
        return Backgrounds()
    if asked:
        found = read(asked, settings.limits(), settings.s3_options(), known=before)
        if found.digest != before:
            return found
    kept = output.part(BACKGROUNDS)
    if kept is None and asked:
        return read(asked, settings.limits(), settings.s3_options())
    return Backgrounds(before, kept or b"")


def read(place: str, limits: Limits, s3: S3Options, *, known: str = "") -> Backgrounds:
    """Return the backgrounds that are in a folder or bucket; `MOST` of them, the same ones each time.

    Args:
        place: folder or bucket, given like a source of images.
        limits: limits for decoding one file.
        s3: options of the object store.
        known: a digest; files with this digest are not decoded, and the result has no content.

    Raises:
        InputError: there is no picture there.
        StorageError: it cannot be listed.
    """
    try:
        files = list_images(place, s3, limit=MOST, labels=None, seed=0).table
    except InputError as error:
        raise InputError(f"--backgrounds: {error}") from error
    read_now = contents(files, limits, s3)
    digests = [digest_of(data if isinstance(data, bytes) else data.reason.encode()) for data in read_now]
    digest = digest_of(" ".join([str(VERSION), *sorted(digests)]).encode())
    if digest == known:
        return Backgrounds(digest)
    pictures: list[tuple[str, bytes]] = []
    bad: list[tuple[str, Rejection]] = []
    for path, own, data in zip(files["path"].to_pylist(), digests, contents(files, limits, s3), strict=True):
        found = decode(data, SIDE, limits, Fit.CROP) if isinstance(data, bytes) else data
        if isinstance(found, Decoded):
            pictures.append((own, _jpeg(found.pixels)))
        else:
            bad.append((path, found))
    if bad:
        path, why = bad[0]
        count = f"{len(bad)} of {files.num_rows} files"
        said = f"--backgrounds {place}: {count} cannot be used, such as {path} ({why.detail})"
        if not pictures:
            raise InputError(f"{said}: give photos that can be decoded.")
        log.warning("%s; the others are taken", said)
    # By content: files that were renamed give the same views.
    made = (np.frombuffer(jpeg, np.uint8) for _, jpeg in sorted(pictures))
    return Backgrounds(digest, npz.dump({str(number): jpeg for number, jpeg in enumerate(made)}))


def _jpeg(pixels: NDArray[np.uint8]) -> bytes:
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "JPEG", quality=90)
    return content.getvalue()
