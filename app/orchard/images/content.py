"""Finds the format of a file from its first bytes, whatever its name is."""

import codecs
import re
from enum import StrEnum

# As much as `image_format` and `describe` look at.
HEAD_BYTES = 512
_UTF8 = codecs.getincrementaldecoder("utf-8")


class ImageFormat(StrEnum):
    """The formats that are decoded; HEIC where its decoder is installed."""

    JPEG = "JPEG"
    PNG = "PNG"
    WEBP = "WebP"
    BMP = "BMP"
    GIF = "GIF"
    TIFF = "TIFF"
    AVIF = "AVIF"
    HEIC = "HEIC"


_IMAGES = [
    (re.compile(rb"\xff\xd8\xff"), ImageFormat.JPEG),
    (re.compile(rb"\x89PNG\r\n\x1a\n"), ImageFormat.PNG),
    (re.compile(rb"RIFF....WEBP", re.DOTALL), ImageFormat.WEBP),
    (re.compile(rb"GIF8[79]a"), ImageFormat.GIF),
    # + is BigTIFF; Canon's raw files (CR) hold a thumbnail where a TIFF holds its image.
    (re.compile(rb"(II[*+]\x00|MM\x00[*+])(?!....CR)", re.DOTALL), ImageFormat.TIFF),
]
_BMP_HEADER_BYTES = {12, 16, 40, 52, 56, 64, 108, 124}
_AVIF_BRANDS = {b"avif", b"avis"}
_HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx"}

_LOOK = "it is not the image, look at what it says"
_UNPACK = "unpack it"
_EXPORT = "export it as JPEG, PNG or TIFF"
_FRAMES = "extract its frames, as with ffmpeg"
_AGAIN = "fetch it again"
_DELETE = "delete it"
_TEXT = rb"(?i)(\xef\xbb\xbf)?\s*(<\?xml[^>]*>\s*)?(<!--(?:(?!-->).)*-->\s*)*"
_RAW = "a camera's raw file"
RAW = f"{_RAW}: {_EXPORT}"
"""Description of one that has the first bytes of a TIFF."""
# First bytes; what they are; what to do.
_KINDS = [
    (rb"version https://git-lfs", "a Git LFS pointer", "run `git lfs pull`"),
    (rb"(\.\./)*(\.git/annex|/annex)/objects/", "a git-annex pointer", "run `git annex get`"),
    (_TEXT + rb"<(!doctype html|html|head|body|script|meta)\b", "an HTML page", f"the download failed, {_AGAIN}"),
    (_TEXT + rb"(<!doctype svg[^>]*>\s*)?<svg\b", "SVG", _EXPORT),
    (_TEXT + rb"<(\?xml|[a-z]+ xmlns|error>)", "XML", _LOOK),
    (rb"(\xef\xbb\xbf)?\s*[{\[]\s*[\"{\[\d]", "JSON", _LOOK),
    (rb"\s*data:image/", "a data: URL", "decode its base64"),
    (rb"%PDF-", "PDF", "extract its images, as with pdfimages"),
    (rb"%!PS|\xc5\xd0\xd3\xc6", "PostScript", _EXPORT),
    (rb"PK(\x03\x04|\x05\x06)", "a ZIP archive", _UNPACK),
    (rb"\x1f\x8b|BZh|\xfd7zXZ|\x28\xb5\x2f\xfd", "compressed data", _UNPACK),
    (rb"7z\xbc\xaf\x27\x1c|Rar!|.{257}ustar", "an archive", _UNPACK),
    (rb"....ftyp(crx )|FUJIFILMCCD-RAW|IIU\x00|IIR[OS]|MMOR|(II\*\x00|MM\x00\*)....CR|\x00MRM|FOVb", _RAW, _EXPORT),
    (rb"....ftyp(mif[12]|msf1|miaf|MiHB|MiHE|avc[is]|vvi[cs]|evbi|j2ki|jpe?gs?)", "HEIF", _EXPORT),
    (rb"....ftyp(M4A|M4B)", "sound", _DELETE),
    (rb"....(ftyp|moov|mdat|wide)", "a video (MP4 or QuickTime)", _FRAMES),
    (rb"\x1a\x45\xdf\xa3", "a video (WebM or Matroska)", _FRAMES),
    (rb"RIFF....AVI |\x00\x00\x01[\xb3\xba]|FLV\x01|\x30\x26\xb2\x75\x8e\x66\xcf\x11", "a video", _FRAMES),
    (rb"G.{187}G.{187}G", "a video (MPEG transport stream)", _FRAMES),
    (rb"ID3|RIFF....WAVE|OggS|fLaC|\xff[\xfb\xf3\xf2]", "sound", _DELETE),
    (rb"\x00\x00\x00\x0cjP  |\xff\x4f\xff\x51", "JPEG 2000", _EXPORT),
    (rb"\xff\x0a|\x00\x00\x00\x0cJXL ", "JPEG XL", _EXPORT),
    (rb"II\xbc\x01", "JPEG XR", _EXPORT),
    (rb"8BPS|8BPB", "Photoshop", _EXPORT),
    (rb"gimp xcf", "GIMP", _EXPORT),
    (rb"\x00\x00[\x01\x02]\x00[^\x00]\x00", "an icon", _EXPORT),
    (rb"icns", "an icon (Apple)", _EXPORT),
    (rb"P[1-7fF]\s", "Netpbm", _EXPORT),
    (rb"qoif", "QOI", _EXPORT),
    (rb"DDS ", "a DirectDraw texture", _EXPORT),
    (rb"\x76\x2f\x31\x01|#\?(RADIANCE|RGBE)", "a high dynamic range image (OpenEXR or Radiance)", _EXPORT),
    (rb".{128}DICM", "DICOM", _EXPORT),
    (rb"SIMPLE  =", "FITS", _EXPORT),
    (rb"\x89HDF\r\n\x1a\n", "HDF5", "export its images"),
    (rb"\x93NUMPY", "a NumPy array", "export it as images"),
    (rb"PAR1", "Parquet", "export its images"),
    (rb"SQLite format 3", "an SQLite database", _DELETE),
    (rb"\x00\x05\x16[\x00\x07]", "what macOS keeps beside a file (AppleDouble)", _DELETE),
    (rb"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an Office document or Thumbs.db", _DELETE),
    (rb"L\x00\x00\x00\x01\x14\x02\x00|\[InternetShortcut\]", "a Windows shortcut", "put the file itself there"),
    (rb"MZ.{58}|\x7fELF", "a program", _DELETE),
]  # fmt: skip
_DESCRIPTIONS = [(re.compile(pattern, re.DOTALL), f"{name}: {remedy}") for pattern, name, remedy in _KINDS]


def image_format(head: bytes) -> ImageFormat | None:
    """The supported format that these first bytes begin; None for anything else."""
    for pattern, found in _IMAGES:
        if pattern.match(head):
            return found
    # Two letters are too little to tell a bitmap from a text.
    if head.startswith(b"BM") and int.from_bytes(head[14:18], "little") in _BMP_HEADER_BYTES:
        return ImageFormat.BMP
    if head[4:8] == b"ftyp":
        # The first brand may be a general one (mif1), which says only that it is a still image.
        end = min(int.from_bytes(head[:4], "big"), HEAD_BYTES)
        brands = {head[at : at + 4] for at in (8, *range(16, end, 4))}
        if brands & _AVIF_BRANDS:
            return ImageFormat.AVIF
        if brands & _HEIC_BRANDS:
            return ImageFormat.HEIC
    return None


def describe(head: bytes) -> str:
    """Describe content that is no supported image, and what to do: ``an HTML page: the download failed``.

    There are few descriptions before the colon, because rejections are counted by them.
    """
    head = head[:HEAD_BYTES]
    for pattern, found in _DESCRIPTIONS:
        if pattern.match(head):
            return found
    if not head.strip(b"\x00"):
        return f"nothing but zero bytes: {_AGAIN}"
    try:
        text = _UTF8().decode(head, final=len(head) < HEAD_BYTES)  # the last character may be cut
    except UnicodeDecodeError:
        text = "\0"
    if all(character.isprintable() or character in "\t\r\n\f" for character in text):
        return f"text: {_LOOK}"
    return f"unknown data: its first bytes are {head[:8].hex(' ')}"


def boxes_end(data: bytes) -> int:
    """Where the last box of an ISO base media file (AVIF, HEIC, MP4) ends, by its own account."""
    at = 0
    for _ in range(1000):
        if at >= len(data):
            break
        if at + 8 > len(data):  # not even its length
            return at + 8
        size = int.from_bytes(data[at : at + 4], "big")
        if size == 1:
            size = int.from_bytes(data[at + 8 : at + 16], "big")
        if size < 8:  # 0: up to the end of the file
            return len(data)
        at += size
    return at
