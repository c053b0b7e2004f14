"""Colour profiles as phones, cameras and printers have them."""

import struct

_WHITE = (0.9642, 1, 0.8249)


def wide_gamut(name: str) -> bytes:
    """A profile of another RGB than sRGB: Display P3 or Adobe RGB, as matrix and curve."""
    primaries = {
        "Display P3": [(0.5151, 0.2412, -0.0011), (0.292, 0.6922, 0.0419), (0.1571, 0.0666, 0.7841)],
        "Adobe RGB": [(0.6097, 0.3111, 0.0195), (0.2053, 0.6257, 0.0609), (0.1492, 0.0632, 0.7446)],
    }[name]
    tags = {}
    for letter, primary in zip(b"rgb", primaries, strict=True):
        tags[bytes([letter]) + b"XYZ"] = _xyz(*primary)
        tags[bytes([letter]) + b"TRC"] = _curve(2.2)
    return _profile(b"mntrRGB XYZ ", tags)


def grey(power: float) -> bytes:
    """A profile of grey pixels: light is a value in 0..1 to that power."""
    return _profile(b"mntrGRAYXYZ ", {b"kTRC": _curve(power)})


def press() -> bytes:
    """A profile of CMYK whose inks are duller than ideal ones: cyan, magenta, yellow, black, as lightness and a, b."""
    inks = [(0.6, -36, -50), (0.5, 74, -3), (0.9, -5, 93), (0.16, 0, 0)]
    colours = b""
    for mixed in range(16):  # black changes fastest
        lightness, a, b = 1.0, 0.0, 0.0
        for place, ink in enumerate(inks):
            if mixed >> (3 - place) & 1:
                lightness, a, b = lightness * ink[0], a + ink[1], b + ink[2]
        colours += bytes([round(255 * lightness), *(max(0, min(255, round(128 + value))) for value in (a, b))])
    identity = struct.pack(">9i", *(65536 * (at % 4 == 0) for at in range(9)))
    table = (
        b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + identity + bytes(range(256)) * 4 + colours + bytes(range(256)) * 3
    )
    return _profile(b"prtrCMYKLab ", {b"A2B0": table})


def _xyz(*values: float) -> bytes:
    return b"XYZ " + bytes(4) + struct.pack(">3i", *(round(value * 65536) for value in values))


def _curve(power: float) -> bytes:
    return b"curv" + bytes(4) + struct.pack(">IH", 1, round(power * 256)) + bytes(2)


def _profile(kind: bytes, tags: dict[bytes, bytes]) -> bytes:
    tags = {b"wtpt": _xyz(*_WHITE), **tags}
    at, table, body = 128 + 4 + 12 * len(tags), struct.pack(">I", len(tags)), b""
    for tag, content in tags.items():
        table += tag + struct.pack(">II", at + len(body), len(content))
        body += content
    size = at + len(body)
    head = struct.pack(">I", size) + bytes(4) + struct.pack(">I", 0x02100000) + kind + bytes(12) + b"acsp"
    return (head + bytes(28) + _xyz(*_WHITE)[8:]).ljust(128, b"\0") + table + body
