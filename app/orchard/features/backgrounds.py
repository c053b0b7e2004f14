"""The user's backgrounds, which things are pasted onto in random views: read, made small, and kept with the output.

What is kept is some files of a folder or bucket, small enough for every executor to get them with its tasks, and for
the output to hold them: views can be made again when the folder is gone.
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
"""As a setting: there are to be none any more."""
MOST, SIDE = 64, 320
"""Files that are taken, and pixels of a side of what is kept of each: some 2 MB in all, and 20 MB in a worker."""


@dataclass(frozen=True)
class Backgrounds:
    """Some pictures, each the square in the middle of a file.

    Attributes:
        digest: of the files that they were made of; empty: there are none.
        content: what `orchard.features.views.pictures` reads; empty if they were not read, or are lost.
    """

    digest: str = ""
    content: bytes = b""


def of_run(output: Output, settings: Settings, views: int) -> Backgrounds:
    """Return the backgrounds of a run: those that are asked for, else those that the output was made with.

    Args:
        output: of the run.
        settings: of the run.
        views: random views of each training image.

    Raises:
        UsageError: they are asked for where there are no random views.
        InputError: there is no picture where they should be.
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
        place: as a source of images.
        limits: what a file may cost.
        s3: where the object store is.
        known: a digest; files that come to it are not decoded, and there is no content.

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
