"""Reads what the boxes of an ISO base media file say of its image (AVIF; ISO/IEC 14496-12 and 23008-12)."""

import struct
from collections.abc import Iterator

from orchard.images.colour import Space

_MAX_BOXES = 4096  # a picture of tiles has some hundred


def space(data: bytes) -> Space | None:
    """Return the colour space of the primary image by its numbers (ITU-T H.273); None if it tells none, or is broken.

    Other items, such as a gain map, have numbers of their own.
    """
    try:
        meta = next(content for name, content in _boxes(data) if name == b"meta")
        parts = dict(_boxes(meta[4:]))
        of_all = list(_boxes(parts[b"iprp"]))
        properties = [each for name, content in of_all if name == b"ipco" for each in _boxes(content)]
        primary = _number(parts[b"pitm"], 4, 4 if parts[b"pitm"][0] else 2)
        own = next(found for name, content in of_all if name == b"ipma" for found in _associated(content, primary))
        for index in own:
            name, content = properties[index - 1]
            if name == b"colr" and content[:4] == b"nclx":
                return Space.of_numbers(*struct.unpack_from(">HH", content, 4))
    except (StopIteration, KeyError, IndexError, struct.error):
        pass
    return None


def _boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the name and the content of each box."""
    at = 0
    for _ in range(_MAX_BOXES):
        size, name, head = _number(data, at, 4), data[at + 4 : at + 8], 8
        if size == 1:
            size, head = _number(data, at + 8, 8), 16
        if len(name) < 4 or 0 < size < head:
            return
        end = at + size if size else len(data)
        yield name, data[at + head : end]
        at = end


def _associated(content: bytes, item: int) -> Iterator[list[int]]:
    """Yield the numbers of an item's properties, from 1, by the box that tells which belong to which."""
    long_names, long_numbers = content[0] > 0, content[3] & 1
    at = 8
    for _ in range(min(_number(content, 4, 4), _MAX_BOXES)):
        name, at = _number(content, at, 4 if long_names else 2), at + (4 if long_names else 2)
        width, start = 2 if long_numbers else 1, at + 1
        at = start + width * content[at]
        if name == item:  # the highest bit says whether one has to be understood
            yield [
                _number(content, each, width) & (0x7FFF if long_numbers else 0x7F) for each in range(start, at, width)
            ]


def _number(data: bytes, at: int, length: int) -> int:
    return int.from_bytes(data[at : at + length], "big")
