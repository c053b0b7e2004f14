"""Removes chunks of a PNG that do not concern its pixels, so that damage in them does not matter."""

import re
import struct
import zlib
from typing import Any

from orchard.images.colour import MAX_PROFILE_BYTES, Space
from orchard.images.limits import Unfit
from orchard.vocabulary import Reason

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_NAME = re.compile(rb"[A-Za-z]{4}")
_MAX_CHUNKS = 200_000  # some encoders cut the pixels into kilobytes
_MAX_METADATA = 2**20
_MAX_KEYWORD = 80
_PIECE = 2**16  # of pixels, inflated to compare their checksum
_COLOUR = (b"cICP", b"sRGB", b"gAMA", b"cHRM")
_EXIF_AS_TEXT, _XMP = b"Raw profile type exif", b"XML:com.adobe.xmp"


def simplified(data: bytes) -> tuple[bytes, dict[str, Any]]:
    """Return a PNG with only the chunks that decoding needs, and the metadata about colour and orientation.

    The metadata has the keys of Pillow's ``info``: ``icc_profile``, ``exif``, ``xmp``, ``Raw profile type exif``; and
    ``space``, a `Space`, in place of a profile. Of several chunks about colour, cICP counts before iCCP, then sRGB,
    then gAMA with cHRM (PNG specification, third edition, 4.3); cHRM alone says nothing, as in browsers.
    Pillow still compares the checksums of the header and the palette. That of pixels may be wrong if the one inside
    them is right: Pillow compares neither once it has all lines, and damage can look like lines.

    Raises:
        Unfit: it is Apple's variant, or has too many chunks.
        ValueError: it holds no image, or damaged pixels.
    """
    head: dict[bytes, bytes] = {}
    pixels: list[bytes] = []
    are_doubtful = False
    info: dict[str, Any] = {}
    colour: dict[bytes, bytes] = {}
    at = len(_SIGNATURE)
    for _ in range(_MAX_CHUNKS):
        length, name = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        if name == b"IEND" or not _NAME.fullmatch(name):
            break
        start, end = at + 8, at + 8 + length
        if name == b"IDAT":
            pixels.append(data[start:end])
            are_doubtful |= len(data) >= end + 4 and data[end : end + 4] != _checksum(name, pixels[-1])
        elif name in (b"IHDR", b"PLTE"):
            head.setdefault(name, data[at : end + 4])
        elif name == b"tRNS":
            head.setdefault(name, _transparency(head.get(b"IHDR", b""), data[start:end]))
        elif name == b"CgBI":
            raise Unfit(Reason.UNSUPPORTED_FORMAT, "looks like a PNG of Apple's own kind (CgBI): take the original")
        elif name in _COLOUR:
            if data[end : end + 4] == _checksum(name, data[start:end]):
                colour.setdefault(name, data[start:end])
        elif (key := _key(name, data[start : min(end, start + _MAX_KEYWORD)])) and key not in info:
            info[key] = _metadata(name, data[start : min(end, start + MAX_PROFILE_BYTES)])
        at = end + 4
    else:
        raise Unfit(Reason.TOO_SLOW, f"PNG of more than {_MAX_CHUNKS} chunks: save it again")
    if b"IHDR" not in head or not pixels:
        raise ValueError("there is no image in it")
    if are_doubtful:
        _check(b"".join(pixels))
    _settle(info, colour)
    order = [head[name] for name in (b"IHDR", b"PLTE", b"tRNS") if name in head]
    return b"".join([_SIGNATURE, *order, _chunk(b"IDAT", b"".join(pixels)), _chunk(b"IEND", b"")]), info


def _settle(info: dict[str, Any], colour: dict[bytes, bytes]) -> None:
    """Keep of what was found about colour that which counts."""
    cicp, gamma, chromaticities = (colour.get(name, b"") for name in (b"cICP", b"gAMA", b"cHRM"))
    space = None
    if len(cicp) == 4 and cicp[2:] == b"\0\1":  # others are not of RGB, or not of the full range
        space = Space.of_numbers(*cicp[:2])
    if space:
        info.pop("icc_profile", None)
    elif "icc_profile" not in info and b"sRGB" not in colour and len(gamma) == 4 and any(gamma):
        numbers = [int.from_bytes(chromaticities[at : at + 4], "big") / 100_000 for at in range(0, 32, 4)]
        space = Space.of_power(100_000 / int.from_bytes(gamma, "big"), (*numbers[2:], *numbers[:2]))  # white is first
    if space:
        info["space"] = space


def _chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + _checksum(name, content)


def _checksum(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", zlib.crc32(content, zlib.crc32(name)))


def _check(pixels: bytes) -> None:
    """Raise ValueError if what is inflated is not what was deflated."""
    inflater = zlib.decompressobj()
    try:
        for at in range(0, len(pixels), _PIECE):
            piece = pixels[at : at + _PIECE]
            while piece and not inflater.eof:
                inflater.decompress(piece, _PIECE)
                piece = inflater.unconsumed_tail
    except zlib.error:
        raise ValueError("its pixels do not match their checksum") from None
    if not inflater.eof:
        raise ValueError("its pixels do not end")


def _transparency(header: bytes, content: bytes) -> bytes:
    """The chunk that says which colour is clear; none, if it is too short."""
    depth, colour = header[16:17], header[17:18]
    if len(content) < {b"\0": 2, b"\2": 6}.get(colour, 0):
        return b""
    # Pillow compares with what it makes of the samples: the higher of two bytes, or 0..255 of fewer bits.
    if (depth, colour) == (b"\x10", b"\2"):
        content = b"".join(b"\0" + content[at : at + 1] for at in (0, 2, 4))
    elif colour == b"\0" and depth in (b"\2", b"\4"):
        content = b"\0" + bytes([content[1] * (255 // (2 ** depth[0] - 1)) % 256])
    return _chunk(b"tRNS", content)


def _key(name: bytes, start: bytes) -> str | None:
    """Return Pillow's name for a chunk's content; None if it is not needed."""
    if name in (b"iCCP", b"eXIf"):
        return "icc_profile" if name == b"iCCP" else "exif"
    if name in (b"tEXt", b"zTXt") and start.startswith(_EXIF_AS_TEXT + b"\0"):
        return _EXIF_AS_TEXT.decode()
    return "xmp" if name == b"iTXt" and start.startswith(_XMP + b"\0") else None


def _metadata(name: bytes, content: bytes) -> bytes | str:
    """Return a chunk's content; empty if the chunk is broken."""
    value = content.partition(b"\0")[2]
    try:
        match name:
            case b"eXIf":
                return b"Exif\0\0" + content[:_MAX_METADATA]
            case b"iCCP":
                return _inflated(value[1:], MAX_PROFILE_BYTES)
            case b"iTXt":
                text = value[2:].split(b"\0", 2)[-1]
                return _inflated(text, _MAX_METADATA) if value[:1] == b"\1" else text[:_MAX_METADATA]
        return (_inflated(value[1:], _MAX_METADATA) if name == b"zTXt" else value[:_MAX_METADATA]).decode("latin-1")
    except zlib.error:
        return b""


def _inflated(content: bytes, limit: int) -> bytes:
    """Return the decompressed data, at most `limit` bytes."""
    return zlib.decompressobj().decompress(content, limit)
