"""Print what weighs what in an image, as a table.

::

    docker save orchard:0.1.0 | python3 docker/sizes.py

Bytes are those of the files; compressed is gzip's (level 6, as registries keep layers), each part by itself.
"""

import json
import sys
import tarfile
import zlib
from collections import defaultdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO

PACKAGES = "opt/packages/"
# Parts of their own from so many bytes; smaller ones are counted together.
OWN_LINE = 15e6


def part(path: str) -> str:
    """The line of the table that a file is counted in."""
    if path.startswith(PACKAGES):
        package = path.removeprefix(PACKAGES).partition("/")[0]
        if package == "pyspark":
            return "Spark (pyspark and jars)"
        return package.partition(".libs")[0]
    if path.startswith("opt/orchard/"):
        return "Orchard's default network, converted"
    if path.startswith("opt/java/"):
        return "Java runtime"
    return "Debian with Python"


def measure(layer: IO[bytes], sizes: dict[str, int], compressed: dict[str, int]) -> None:
    """Add a layer's files to the sizes of their parts."""
    compressors = defaultdict(lambda: zlib.compressobj(6))
    with tarfile.open(fileobj=layer) as files:
        for member in files:
            if not member.isfile():
                continue
            name = part(member.name)
            content = files.extractfile(member)
            assert content is not None
            sizes[name] += member.size
            while block := content.read(1 << 20):
                compressed[name] += len(compressors[name].compress(block))
    for name, compressor in compressors.items():
        compressed[name] += len(compressor.flush())


def main() -> None:
    """Read an image from standard input, print the table."""
    sizes: dict[str, int] = defaultdict(int)
    compressed: dict[str, int] = defaultdict(int)
    with TemporaryDirectory() as folder:
        with tarfile.open(fileobj=sys.stdin.buffer, mode="r|*") as image:
            image.extractall(folder)  # noqa: S202 - Docker's own
        for layer in json.loads(Path(folder, "manifest.json").read_text())[0]["Layers"]:
            with Path(folder, layer).open("rb") as file:
                measure(file, sizes, compressed)
    small = [name for name in sizes if sizes[name] < OWN_LINE]
    rows = [(name, sizes[name], compressed[name]) for name in sizes if name not in small]
    rows.sort(key=lambda row: -row[1])
    rows.append((f"{len(small)} smaller parts", sum(sizes[n] for n in small), sum(compressed[n] for n in small)))
    rows.append(("**all**", sum(sizes.values()), sum(compressed.values())))
    lines = ["| part | MB | MB compressed |", "| --- | ---: | ---: |"]
    lines += [f"| {name} | {size / 1e6:,.0f} | {packed / 1e6:,.0f} |" for name, size, packed in rows]
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
