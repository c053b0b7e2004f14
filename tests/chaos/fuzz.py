"""Mutated files, one after the other, in a process of its own: ``fuzz.py TARGET SEED FIRST COUNT``.

Prints the number of a case before it begins and what came out after it, so that whoever started it knows what a crash or
a hang was about; ``fuzz.py images 7 123 1`` does case 123 of seed 7 again. Imported by nothing.
"""

import gzip
import io
import random
import resource
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

Case = Callable[[random.Random], str]

_EXTREMES = [0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF]


def mutated(data: bytes, chance: random.Random, other: bytes) -> bytes:
    """Return `data` with one to eight things wrong with it."""
    content = bytearray(data)
    for _ in range(chance.choice([1, 1, 1, 2, 4, 8])):
        # Half of all in the head, where formats say what they are.
        length = max(1, len(content))
        at = chance.randrange(min(length, 200) if chance.random() < 0.5 else length)
        match chance.randrange(9):
            case 0:
                content[at : at + 1] = bytes([content[at] ^ 1 << chance.randrange(8)]) if content else b"\0"
            case 1:
                content[at : at + 1] = chance.randbytes(1)
            case 2:
                del content[at:]
            case 3:
                del content[at : at + chance.randrange(1, 64)]
            case 4:
                content[at:at] = chance.randbytes(chance.randrange(1, 64))
            case 5:
                end = at + chance.randrange(1, 256)
                content[at:at] = content[at:end] * chance.choice([1, 2, 50])
            case 6:
                begin = chance.randrange(max(1, len(other)))
                content[at : at + 64] = other[begin : begin + 64]
            case 7:
                width = chance.choice([1, 2, 4])
                value = chance.choice(_EXTREMES) & (256**width - 1)
                content[at : at + width] = value.to_bytes(width, chance.choice(["little", "big"]))
            case _:
                content += chance.randbytes(chance.randrange(1, 2000))
    return bytes(content)


def _pictures() -> list[bytes]:
    """Return small images of every format, in many of its forms."""
    chance = np.random.default_rng(1)
    y, x = np.mgrid[:48, :64]
    pixels = np.stack([x * 4, y * 5, (x + y) * 2], -1).astype(np.uint8) ^ chance.integers(0, 16, (48, 64, 3), np.uint8)
    rgb = Image.fromarray(pixels)
    sixteen = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)
    real = Image.fromarray(pixels[..., 0].astype(np.float32) / 255)
    exif = Image.Exif()
    exif[0x0112] = 6
    palette, alpha = rgb.convert("P"), rgb.convert("RGBA")
    palette.info["transparency"] = 3
    forms: list[tuple[Image.Image, str, dict[str, object]]] = [
        (rgb, "JPEG", {}),
        (rgb, "JPEG", {"progressive": True, "exif": exif, "quality": 95}),
        (rgb.convert("L"), "JPEG", {"restart_marker_blocks": 2}),
        (rgb.convert("CMYK"), "JPEG", {"icc_profile": b"x" * 200}),
        (rgb, "PNG", {"exif": exif}),
        (alpha, "PNG", {}),
        (palette, "PNG", {}),
        (sixteen, "PNG", {}),
        (rgb.convert("1"), "PNG", {}),
        (rgb, "WEBP", {"quality": 60}),
        (alpha, "WEBP", {"lossless": True, "exif": exif}),
        (rgb, "WEBP", {"save_all": True, "append_images": [alpha], "duration": 10}),
        (rgb, "BMP", {}),
        (palette, "BMP", {}),
        (rgb.convert("1"), "BMP", {}),
        (palette, "GIF", {}),
        (palette, "GIF", {"save_all": True, "append_images": [rgb.convert("P")], "duration": 10}),
        (rgb, "TIFF", {}),
        *((rgb, "TIFF", {"compression": c}) for c in ("tiff_lzw", "tiff_deflate", "jpeg", "packbits")),
        (rgb.convert("1"), "TIFF", {"compression": "group4"}),
        (sixteen, "TIFF", {}),
        (real, "TIFF", {}),
        (real, "TIFF", {"compression": "tiff_lzw"}),
        (alpha, "TIFF", {"big_tiff": True}),
        (rgb, "AVIF", {}),
    ]
    files = []
    for image, kind, options in forms:
        file = io.BytesIO()
        try:
            image.save(file, kind, **options)
        except (KeyError, OSError):  # this Pillow cannot write it
            continue
        files.append(file.getvalue())
    return files


def images() -> Case:
    """Any bytes are pixels or a rejection, never an exception."""
    from orchard.images.decoding import Decoded, Limits, Rejection, decode

    originals = _pictures()

    def case(chance: random.Random) -> str:
        data = mutated(chance.choice(originals), chance, chance.choice(originals))
        found = decode(data, chance.choice([32, 224]), Limits())
        if isinstance(found, Rejection):
            assert found.detail.isprintable() or found.detail == "", found.detail
            return f"rejected as {found.reason}"
        assert isinstance(found, Decoded)
        assert found.pixels.dtype == np.uint8
        assert found.pixels.ndim == 3
        assert found.pixels.shape[2] == 3
        assert found.width > 0
        assert found.height > 0
        return "decoded"

    return case


def _manifests() -> list[tuple[str, bytes]]:
    names = [f"{label}/photo {n}.jpg" for label in ("Äpfel, rot", "Lemon #2") for n in range(6)]
    rows = [f'"{name}",{name.split("/")[0]!r},train,{n * 100}' for n, name in enumerate(names)]
    comma = "\r\n".join(["path,label,split,size", *rows]).encode()
    inventory = "\n".join(
        f'"my-bucket","photos/a%20b+{n}.jpg","v{n}","true","false","{n}","{n:032x}"' for n in range(9)
    ).encode()
    table = pa.table({"path": names, "label": ["a"] * 6 + ["b"] * 6, "split": ["train", "test"] * 6, "size": range(12)})
    parquet = io.BytesIO()
    pq.write_table(table, parquet)
    plain = io.BytesIO()
    pq.write_table(table, plain, compression="none", use_dictionary=False)
    return [
        ("list.csv", comma),
        ("list.csv", b"\xef\xbb\xbf" + comma.replace(b",", b";")),
        ("list.csv", comma.decode().encode("utf-16")),
        ("list.csv.gz", gzip.compress(comma, mtime=0)),
        ("inventory.csv", inventory),
        ("inventory.csv.gz", gzip.compress(inventory, mtime=0)),
        ("list.parquet", parquet.getvalue()),
        ("list.parquet", plain.getvalue()),
    ]


def manifests() -> Case:
    """Any manifest is a table or one sentence."""
    from orchard.errors import InputError
    from orchard.images.manifests import read_manifest
    from orchard.layout import LISTING

    originals = _manifests()

    def case(chance: random.Random) -> str:
        name, data = chance.choice(originals)
        data = mutated(data, chance, chance.choice(originals)[1])
        if name.endswith(".csv.gz") and chance.random() < 0.5:  # what is packed is wrong, not the packing
            data = gzip.compress(mutated(gzip.decompress(dict(originals)[name]), chance, data), mtime=0)
        try:
            manifest = read_manifest(data, f"{chance.choice(['/data', 's3a://bucket/lists'])}/{name}")
        except InputError as error:
            sentence = str(error)
            assert "\n" not in sentence, sentence
            assert len(sentence) < 2000, sentence
            return "refused in one sentence"
        assert manifest.table.schema.names == LISTING.names
        return "read"

    return case


TARGETS: dict[str, Callable[[], Case]] = {"images": images, "manifests": manifests}


def main() -> None:
    """Do the cases and say what came out of each."""
    target, seed, first, count = sys.argv[1], *map(int, sys.argv[2:])
    case = TARGETS[target]()
    for number in range(first, first + count):
        print(f"begin {number}", flush=True)
        try:
            outcome = case(random.Random(f"{target} {seed} {number}"))
        except Exception as error:
            outcome = f"FAILED {type(error).__module__}.{type(error).__name__}: {error}".replace("\n", " ")[:500]
        print(f"end {outcome}", flush=True)
    print(f"memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024}", flush=True)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2] / "app"))
    main()
