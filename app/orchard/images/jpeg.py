"""Reads the structure of a JPEG as far as it determines the cost of decoding."""

import re
from collections.abc import Iterator

from PIL.JpegImagePlugin import JpegImageFile

from orchard.images.limits import Limits, Unfit
from orchard.vocabulary import Reason

END = b"\xff\xd9"
# Bits to put where a file ends early: what is missing differs from some of them. The decoder takes zeros for none.
FILLS = (b"", b"\xaa" * 4096, b"\x55" * 4096)
# Encoders make some ten. A scan of a few bytes costs as much time as there are pixels, about 1 ns for each.
MAX_SCANS = 100
_SCANS_OF_MAX_PIXELS = 20
# The longest profiles and depth maps of phones come in some hundred segments.
_MAX_SEGMENTS = 4096
# A shorter header is parsed in no time, however it is cut up.
_LONG = 2**20
_MARKER = re.compile(rb"\xff+([^\x00\xff])", re.DOTALL)
_SOS, _EOI = 0xDA, 0xD9
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_DEEP = {12, 16}  # bits a sample; other numbers are damage
_JPEG_LS = 0xF7
_NOT_DECODED = {0xC3, 0xC5, 0xC6, 0xC7, 0xCB, 0xCD, 0xCE, 0xCF, _JPEG_LS}
_PROGRESSIVE = {0xC2, 0xC6, 0xCA, 0xCE}
_ALONE = {0x01, *range(0xD0, 0xD9)}  # markers without a segment


def check_header(data: bytes) -> None:
    """Refuse a JPEG whose metadata are cut into so many pieces that parsing them takes long.

    Raises:
        Unfit: they are.
    """
    if len(data) < _LONG:
        return
    for number, (marker, _) in enumerate(_markers(data)):
        if marker == _SOS:
            return
        if number == _MAX_SEGMENTS:
            raise Unfit(Reason.TOO_SLOW, f"JPEG of more than {_MAX_SEGMENTS} pieces of metadata: save it again")


def rare_kind(data: bytes) -> str | None:
    """Say of what kind a JPEG is that libjpeg calls broken because it does not decode such; None for the usual ones."""
    for marker, content in _markers(data):
        if marker in _FRAMES or marker == _JPEG_LS:
            bits = content[0] if content else 8
            if bits not in _DEEP and marker not in _NOT_DECODED:
                return None
            what = f"{bits} bits a sample" if bits in _DEEP else "lossless or hierarchical"
            return f"a JPEG of a rare kind: save it with 8 bits, or as PNG ({what})"
    return None


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
    if data.count(b"\xff\xda") > most and sum(marker == _SOS for marker, _ in _markers(data)) > most:
        raise Unfit(Reason.TOO_SLOW, f"JPEG of more than {most} scans: save it again")
    across, down = (max(layer[side] for layer in image.layer) or 1 for side in (1, 2))
    return round(sum(2 * pixels * layer[1] * layer[2] / (across * down) for layer in image.layer))


def without_padding(data: bytes) -> bytes:
    """A file that ends early without the zeros of a place that was kept for the rest, and without half a marker."""
    kept = data.rstrip(b"\0")
    if kept.endswith(b"\xff"):  # which a zero makes a byte of pixels
        return data[: len(kept) + 1] if len(kept) < len(data) else kept.rstrip(b"\xff")
    return kept


def lacks_scans(data: bytes) -> bool:
    """Whether no scan has a component, or none brings one of its coefficients to the last bit.

    A progressive file that was cut between two scans shows the whole image, but less sharp.
    """
    components: set[int] = set()
    whole: set[tuple[int, int]] = set()  # components, each with a coefficient
    is_progressive = False
    for marker, content in _markers(data):
        if marker in _FRAMES:
            is_progressive = marker in _PROGRESSIVE
            components = set(content[6 : 6 + 3 * content[5] : 3])
        elif marker == _SOS:
            if len(content) < 4 or len(content) < 4 + 2 * content[0]:
                return True
            *named, first, last, bits = content[1:]
            if not is_progressive:
                first, last, bits = 0, 63, 0
            if not bits & 15:  # those that later scans refine
                whole |= {(name, place) for name in named[::2] for place in range(first, last + 1)}
    return any((name, place) not in whole for name in components for place in range(64))


def _markers(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The markers of the first image in order, each with what its segment holds."""
    at = 2
    while found := _MARKER.search(data, at):
        marker, at = found[1][0], found.end()
        if marker == _EOI:
            return
        if marker not in _ALONE:
            end = at + int.from_bytes(data[at : at + 2], "big")
            yield marker, data[at + 2 : end]
            at = end
