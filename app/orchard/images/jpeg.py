"""Reads the structure of a JPEG as far as it determines the cost of decoding."""

import re
from collections.abc import Iterator

from PIL.JpegImagePlugin import JpegImageFile

from orchard.images.limits import Limits, Unfit
from orchard.vocabulary import Reason

END = b"\xff\xd9"
# Encoders make some ten. A scan of a few bytes costs as much time as there are pixels, about 1 ns for each.
MAX_SCANS = 100
_SCANS_OF_MAX_PIXELS = 20
# The longest profiles and depth maps of phones come in some hundred segments.
_MAX_SEGMENTS = 4096
# A shorter header is parsed in no time, however it is cut up.
_LONG = 2**20
_MARKER = re.compile(rb"\xff+([^\x00\xff])", re.DOTALL)
_SOS, _EOI = 0xDA, 0xD9
_ALONE = {0x01, *range(0xD0, 0xD9)}  # markers without a segment


def check_header(data: bytes) -> None:
    """Refuse a JPEG whose metadata are cut into so many pieces that parsing them takes long.

    Raises:
        Unfit: they are.
    """
    if len(data) < _LONG:
        return
    for number, marker in enumerate(_markers(data)):
        if marker == _SOS:
            return
        if number == _MAX_SEGMENTS:
            raise Unfit(Reason.TOO_SLOW, f"JPEG of more than {_MAX_SEGMENTS} pieces of metadata: save it again")


def check_scans(data: bytes, image: JpegImageFile, limits: Limits) -> int:
    """Return the bytes that the decoder needs besides the pixels: it keeps all coefficients if there are several scans.

    Args:
        data: the file.
        image: the same, opened, and not yet read or shrunk.
        limits: what is allowed.

    Raises:
        Unfit: it has too many scans.
    """
    assert image.fp is not None
    # The header of the first scan, which Pillow has read last, names all components, or there are more scans.
    start = image.fp.tell() - 6 - 2 * image.layers
    whole = (6 + 2 * image.layers).to_bytes(2, "big") + bytes([image.layers])
    if "progressive" not in image.info and data[start : start + 3] == whole:
        return 0
    pixels = image.width * image.height
    most = min(MAX_SCANS, max(1, _SCANS_OF_MAX_PIXELS * limits.max_pixels // max(1, pixels)))
    # Within a scan these bytes do not occur; elsewhere they may by chance, and in a thumbnail.
    if data.count(b"\xff\xda") > most and sum(marker == _SOS for marker in _markers(data)) > most:
        raise Unfit(Reason.TOO_SLOW, f"JPEG of more than {most} scans: save it again")
    across, down = (max(layer[side] for layer in image.layer) or 1 for side in (1, 2))
    return round(sum(2 * pixels * layer[1] * layer[2] / (across * down) for layer in image.layer))


def _markers(data: bytes) -> Iterator[int]:
    """The markers of the first image, in order."""
    at = 2
    while found := _MARKER.search(data, at):
        marker, at = found[1][0], found.end()
        if marker == _EOI:
            return
        if marker not in _ALONE:
            yield marker
            at += int.from_bytes(data[at : at + 2], "big")
