"""Mutated files, one after the other, in a process of its own: ``fuzz.py TARGET SEED FIRST COUNT``.

Prints the number of a case before it begins and what came out after it, so that whoever started it knows what a crash
or a hang was about; ``fuzz.py images 7 123 1`` does case 123 of seed 7 again.
"""

import contextlib
import gzip
import io
import os
import random
import struct
import sys
import time
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from orchard import memory

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
    forms: list[tuple[Image.Image, str, Mapping[str, object]]] = [
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
    rows = [f'"{name}","{name.split("/")[0]}",train,{n * 100}' for n, name in enumerate(names)]
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


def cards() -> Case:
    """Any table of cards is read as it will be sent, or refused in one sentence."""
    from orchard.cards import Cards
    from orchard.errors import InputError

    rows = [
        "label,kind,language,name,text,link",
        'Äpfel,,de,Apfel,"rot,\nsüß",https://example.org/',
        ",Apple,pt_BR,Maçã,,",
    ]
    table = "\r\n".join(rows)
    originals = [table.encode(), table.replace(",", ";").encode("utf-16"), f"sep=,\n{table}".encode()]

    def case(chance: random.Random) -> str:
        data = mutated(chance.choice(originals), chance, chance.choice(originals))
        try:
            found = Cards.from_csv(data, "cards.csv")
        except InputError as error:
            sentence = str(error)
            assert "\n" not in sentence, sentence
            assert len(sentence) < 1000, sentence
            return "refused in one sentence"
        assert Cards.from_bytes(found.to_bytes()) == found
        return "read"

    return case


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def _zeros(count: int) -> bytes:
    """Return `count` zero bytes, compressed."""
    packer = zlib.compressobj(1)
    parts = [packer.compress(bytes(2**20)) for _ in range(count // 2**20)]
    return b"".join([*parts, packer.compress(bytes(count % 2**20)), packer.flush()])


def _png(side: int, bits: int, colour: int, *, interlaced: bool = False, extra: bytes = b"") -> bytes:
    samples = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    header = struct.pack(">IIBBBBB", side, side, bits, colour, 0, 0, interlaced)
    palette = _chunk(b"PLTE", bytes(768)) if colour == 3 else b""
    rows = _chunk(b"IDAT", _zeros(side * (1 + interlaced + side * samples * bits // 8)))
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + extra + palette + rows + _chunk(b"IEND", b"")


def _tiff(side: int, bits: int, form: int, samples: int = 1) -> bytes:
    """Return a TIFF whose strips are all the same few bytes."""
    rows = 64
    strip = zlib.compress(bytes(rows * side * samples * bits // 8))
    count = -(-side // rows)
    tags = [(256, 4, 1, side), (257, 4, 1, side), (258, 3, 1, bits), (259, 3, 1, 8), (262, 3, 1, 1 + (samples > 2))]
    after = 8 + 2 + 12 * 10 + 4
    tags += [(273, 4, count, after), (277, 3, 1, samples), (278, 4, 1, rows)]
    tags += [(279, 4, count, after + 4 * count), (339, 3, 1, form)]
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    offsets = struct.pack(f"<{count}I", *[after + 8 * count] * count)
    sizes = struct.pack(f"<{count}I", *[len(strip)] * count)
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + offsets + sizes + strip


def _scans(times: int, side: int) -> bytes:
    """Return a progressive JPEG whose last scan comes again and again."""
    file = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (side, side, 3), np.uint8)
    Image.fromarray(noise).save(file, "JPEG", progressive=True, quality=30)
    data = file.getvalue()[:-2]
    scan = data[data.rindex(b"\xff\xda") :]
    return data + scan * min(times, 50_000_000 // len(scan)) + b"\xff\xd9"


def bombs() -> Case:
    """Small files of much work or much memory cost neither."""
    from orchard.images.decoding import Limits, Rejection, decode

    large = 10_000
    kinds: list[Callable[[random.Random], bytes]] = [
        lambda r: _scans(r.randrange(50, 3000), r.choice([64, 1000, 3000])),
        lambda r: _png(large - r.randrange(9), 8, r.choice([0, 2, 3, 4, 6])),
        lambda r: _png(large - r.randrange(9), 16, r.choice([0, 2, 4, 6])),
        lambda r: _png(large - r.randrange(2000), 8, r.choice([0, 2, 6]), interlaced=True),
        lambda r: _png(64, 8, 2, extra=_chunk(b"iCCP", b"x\0\0" + _zeros(r.randrange(10**6, 10**9)))),
        lambda r: _png(64, 8, 2, extra=_chunk(b"zTXt", b"x\0\0" + _zeros(r.randrange(10**6, 10**8))) * 8),
        lambda r: _png(64, 8, 2, extra=_chunk(b"tEXt", b"x\0y") * r.randrange(10**5, 10**6)),
        lambda r: _tiff(large - r.randrange(9), 32, 3),
        lambda r: _tiff(large - r.randrange(9), r.choice([8, 16]), r.choice([1, 2])),
        lambda r: _tiff(large - r.randrange(2000), 8, 1, samples=r.choice([3, 4])),
        lambda r: _tiff(60_000 + r.randrange(9), 8, 1),
        lambda r: b"GIF89a" + struct.pack("<HHBBB", 65535, 65535 - r.randrange(9), 0xF7, 0, 0) + bytes(900),
        lambda r: (
            b"BM" + struct.pack("<IIIIiiHHIIIIII", 2**31, 0, 54, 40, 60000, 60000, 1, r.choice([1, 24]), *[0] * 6)
        ),
    ]

    def case(chance: random.Random) -> str:
        data = chance.choice(kinds)(chance)
        begun = time.process_time()
        found = decode(data, 224, Limits())
        seconds = time.process_time() - begun
        assert seconds < 25, f"{seconds:.0f} s of CPU time"
        return f"rejected as {found.reason}" if isinstance(found, Rejection) else "decoded"

    return case


def outputs() -> Case:  # noqa: PLR0915 -- one story
    """Of an output with damage somewhere all that is read is what was written, or one sentence says what is wrong.

    `FUZZ_OUTPUT` names the folder of a finished output, which is the case's to damage.
    """
    from orchard.errors import InputError, OrchardError
    from orchard.inference.model import Model
    from orchard.layout import HEAD, LOGS, METRICS, REPORT, RUN, SCHEMAS, SUSPECT_LIST
    from orchard.output import Output
    from orchard.verify import verify

    folder = Path(os.environ["FUZZ_OUTPUT"])
    original = {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    def restore() -> None:
        there = {path.relative_to(folder): path for path in folder.rglob("*") if path.is_file()}
        for name in there.keys() - original.keys():
            there[name].unlink()
        for name, data in original.items():
            if name not in there or there[name].stat().st_size != len(data) or there[name].read_bytes() != data:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_bytes(data)

    def rows() -> list[pa.Table]:
        output = Output(str(folder))
        tables = [output.read(dataset, schema.names, schema) for dataset, schema in SCHEMAS.items()]
        return [table.sort_by([(table.column_names[0], "ascending")]) for table in tables]

    readers: dict[str, Callable[[], object]] = {"rows": rows, "model": lambda: Model.load(str(folder)).digest}
    whole = {name: read() for name, read in readers.items()}
    # Written by no commit; a model without them only lacks what they say. People write into the list of suspects.
    loose = {METRICS, RUN, REPORT, HEAD, SUSPECT_LIST, *(str(name) for name in original if str(name).startswith(LOGS))}

    def damage(name: Path, chance: random.Random) -> bool:
        """Change or delete a file; return whether it is another now."""
        if chance.random() < 0.1:
            (folder / name).unlink()
            return True
        found = mutated(original[name], chance, original[chance.choice(sorted(original))])
        (folder / name).write_bytes(found)
        return found != original[name]

    def sentence_of(error: OrchardError) -> str:
        text = str(error)
        assert text, "an error without a sentence"
        assert "\n" not in text, text
        assert len(text) < 1000, text
        assert "unexpected" not in text, text
        return text

    def case(chance: random.Random) -> str:
        groups: dict[str, list[Path]] = {}
        for name in original:
            groups.setdefault(name.parts[0] if name.parts[0] != "_orchard" else "/".join(name.parts[:2]), []).append(
                name
            )
        name = chance.choice(sorted(groups[chance.choice(sorted(groups))]))
        data = original[name]
        if chance.random() < 0.1:
            (folder / name).unlink()
        else:
            found = mutated(data, chance, original[chance.choice(sorted(original))])
            if found == data:
                return "unchanged"
            (folder / name).write_bytes(found)
        seen = []
        try:
            for what, read in readers.items():
                try:
                    same = read() == whole[what]
                except OrchardError as error:
                    seen.append(sentence_of(error))
                else:
                    assert same, f"{what} differ, for {name} is damaged, and nothing is said"
            is_bound = str(name) not in loose and not str(name).startswith("_orchard/locks")
            verdict = verify(Output(str(folder)), mend=False)
            assert verdict["damage"] or not is_bound, f"{name} is damaged, and verify finds nothing"
            if chance.random() < 0.25:
                verify(Output(str(folder)))
                verdict = verify(Output(str(folder)), mend=False)
                assert not verdict["damage"], f"{name} was damaged, and is after mending: {verdict['damage']}"
                rows()
                with contextlib.suppress(InputError):  # no model
                    Model.load(str(folder))
                return "noticed and mended"
        except OrchardError as error:
            seen.append(sentence_of(error))
        finally:
            restore()
        return "one sentence" if seen else "noticed by verify" if is_bound else "read as it was written"

    return case


TARGETS: dict[str, Callable[[], Case]] = {
    "images": images,
    "bombs": bombs,
    "manifests": manifests,
    "cards": cards,
    "outputs": outputs,
}


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
    print(f"memory {memory.peak() // 2**20}", flush=True)


if __name__ == "__main__":
    main()
