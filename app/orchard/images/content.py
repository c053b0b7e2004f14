"""What a file is by its first bytes, whatever its name says."""

import re
from enum import StrEnum

# As much as `image_format` and `describe` look at.
HEAD_BYTES = 512


class ImageFormat(StrEnum):
    """The formats that are decoded."""

    JPEG = "JPEG"
    PNG = "PNG"
    WEBP = "WebP"
    BMP = "BMP"
    GIF = "GIF"
    TIFF = "TIFF"


_IMAGES = [
    (re.compile(rb"\xff\xd8\xff"), ImageFormat.JPEG),
    (re.compile(rb"\x89PNG\r\n\x1a\n"), ImageFormat.PNG),
    (re.compile(rb"RIFF....WEBP", re.DOTALL), ImageFormat.WEBP),
    (re.compile(rb"GIF8[79]a"), ImageFormat.GIF),
    (re.compile(rb"II[*+]\x00|MM\x00[*+]"), ImageFormat.TIFF),  # + is BigTIFF
]
_BMP_HEADER_BYTES = {12, 16, 40, 52, 56, 64, 108, 124}
_SIGNATURES = [
    (rb"%PDF-", "PDF"),
    (rb"PK\x03\x04", "ZIP"),
    (rb"\x1f\x8b", "gzip"),
    (rb"....ftyp(heic|heix|mif1|msf1|hevc)", "HEIC"),
    (rb"....ftyp(avif|avis)", "AVIF"),
    (rb"....ftyp", "MP4 or QuickTime"),
    (rb"\x00\x00\x00\x0cjP  ", "JPEG 2000"),
    (rb"\xff\x4f\xff\x51", "JPEG 2000"),
    (rb"\xff\x0a|\x00\x00\x00\x0cJXL ", "JPEG XL"),
    (rb"8BPS", "Photoshop"),
    (rb"\x00\x00\x01\x00", "icon"),
    (rb"PAR1", "Parquet"),
    (rb"version https://git-lfs", "a Git LFS pointer: run `git lfs pull`"),
    (rb"(?i)(\xef\xbb\xbf)?\s*(<!--.*?-->\s*)?<(!doctype html|html|head|body)\b", "HTML"),
    (rb"(?i)(\xef\xbb\xbf)?\s*(<\?xml.*?)?<svg\b", "SVG"),
    (rb"(\xef\xbb\xbf)?\s*<\?xml", "XML"),
    (rb"\s*[{\[]\s*[\"{\[\d]", "JSON"),
]
_DESCRIPTIONS = [(re.compile(pattern, re.DOTALL), name) for pattern, name in _SIGNATURES]


def image_format(head: bytes) -> ImageFormat | None:
    """The supported format that these first bytes begin; None for anything else."""
    for pattern, found in _IMAGES:
        if pattern.match(head):
            return found
    # Two letters are too little to tell a bitmap from a text.
    if head.startswith(b"BM") and int.from_bytes(head[14:18], "little") in _BMP_HEADER_BYTES:
        return ImageFormat.BMP
    return None


def describe(head: bytes) -> str:
    """What content that is no supported image looks like, such as ``HTML``."""
    for pattern, name in _DESCRIPTIONS:
        if pattern.match(head[:HEAD_BYTES]):
            return name
    if not head.strip(b"\x00"):
        return "nothing but zero bytes"
    try:
        # The last character may be cut.
        text = head[:HEAD_BYTES].decode("utf-8", "strict" if len(head) < HEAD_BYTES else "ignore")
    except UnicodeDecodeError:
        text = "\0"
    if all(character.isprintable() or character in "\t\r\n\f" for character in text):
        return "text"
    return f"unknown data, first bytes {head[:8].hex(' ')}"
