"""Removes what lies before a GIF's first frame, because Pillow keeps every piece of a comment."""

from orchard.images.limits import Unfit
from orchard.vocabulary import Reason

_HEADER_BYTES = 13
_MAX_BLOCKS = 100_000
_EXTENSION, _IMAGE, _GRAPHIC_CONTROL = 0x21, 0x2C, 0xF9


def simplified(data: bytes) -> bytes:
    """Return a GIF that begins with its first frame, and what says which of its colours is transparent.

    Raises:
        Unfit: what lies before it is cut into too many pieces.
        IndexError: the file ends before it.
    """
    flags = data[10]
    at = head = _HEADER_BYTES + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
    control = b""
    for _ in range(_MAX_BLOCKS):
        if data[at] == _IMAGE:
            return data[:head] + control + data[at:] if at > head + len(control) else data
        if data[at] != _EXTENSION:
            at += 1  # as Pillow does
            continue
        start, kind = at, data[at + 1]
        at += 2
        for _ in range(_MAX_BLOCKS):
            size = data[at]
            at += 1 + size
            if not size:
                break
        else:
            break
        if kind == _GRAPHIC_CONTROL:
            control = data[start:at]
    raise Unfit(Reason.TOO_SLOW, f"GIF of more than {_MAX_BLOCKS} blocks before its image: save it again")
