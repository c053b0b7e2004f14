"""`orchard run` on ten, a hundred and a thousand thousand images: what grows, and whether anything faster than they do.

    python benchmarks/growth.py --sizes 10000 100000 1000000 --scratch /var/tmp/growth --json growth.json

Images of 32 x 32 pixels are drawn from photographs, each with noise of its own, under so many labels (`--labels`); with
`--links` only so many are drawn, and the others are hard links to them, with the same bytes. A small network (MobileNet
of width 0.25 at 64 pixels, drawn weights) leaves the time to everything else. Each size is a run on a new output and
one more that finds nothing new, as fresh processes: seconds by stage, the kernel's high-water marks (VmHWM) of the
driver's Python and JVM and of the largest worker, commits and files, the sizes of what is written for people.

With `--scratch`, images and outputs stay there, so that a benchmark that was cut off goes on where it was when it is
started again; a size that the JSON file already has is printed and not measured again.
"""

import contextlib
import io
import itertools
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from measuring import MB, Kind, MemoryWatch, images_folder, parser, report, save
from orchard import log
from orchard.images.sources import list_images
from orchard.storage import S3Options, open_storage

PIXELS = 32
FLAGS = ("--backbone", "MobileNet", "--alpha", "0.25", "--input-size", "64", "--weights", "random")
STAGES = ("list", "start", "extract", "reduce", "neighbours", "classify", "review", "report")
# What takes less says more about the machine's other work than about growth.
SHORT_SECONDS = 2.0
# Of the logarithms: what is called faster than the images. Ten times as many may take 12.6 times as long.
FASTER = 1.1


@dataclass(frozen=True)
class Size:
    """What so many images came to."""

    images: int
    labels: int
    seconds: float
    resumed: bool
    """Whether an earlier start had done a part of it: then `seconds` and `peaks` are of the last part."""
    stages: Mapping[str, float]
    peaks: Mapping[str, int]
    """Bytes resident: of each kind of process the largest at its largest."""
    second_seconds: float
    second_peaks: Mapping[str, int]
    commits: int
    files: int
    bytes: Mapping[str, int]
    """Of the whole output, its log, metrics.json, run.json, report.html."""

    @property
    def driver_peak(self) -> int:
        """Of the driver's Python and JVM, in bytes, added as if they had come at once."""
        return max(found.get(Kind.DRIVER, 0) + found.get(Kind.JVM, 0) for found in (self.peaks, self.second_peaks))


# --- Images -------------------------------------------------------------------------------------------------


def _patterns(source: Path, labels: int) -> list[NDArray[np.float32]]:
    """Return a picture of 32 x 32 pixels for each label: photographs, in other hues where there are more labels."""
    rows = list_images(str(source), S3Options(), limit=None, labels=None, seed=0).table.select(["path", "label"])
    of_label = {label: path for path, label in zip(*(column.to_pylist() for column in rows.columns), strict=True)}
    photographs = [Image.open(of_label[label]).convert("HSV").resize((PIXELS, PIXELS)) for label in sorted(of_label)]
    turns = math.ceil(labels / len(photographs))
    found = []
    for number in range(labels):
        pixels = np.array(photographs[number % len(photographs)])
        pixels[..., 0] += np.uint8(256 * (number // len(photographs)) // turns)
        found.append(np.asarray(Image.fromarray(pixels, "HSV").convert("RGB"), np.float32))
    return found


def _drawn(patterns: Sequence[NDArray[np.float32]], images: int) -> Iterator[bytes]:
    """Yield so many JPEGs, of the labels in turn; each is other than all others."""
    generator = np.random.default_rng(0)
    for number in range(images):
        light = np.kron(generator.normal(0, 16, (4, 4, 3)), np.ones((PIXELS // 4, PIXELS // 4, 1)))
        noise = generator.normal(0, 8, (PIXELS, PIXELS, 1))
        pixels = np.clip(patterns[number % len(patterns)] + light + noise, 0, 255).astype(np.uint8)
        sink = io.BytesIO()
        Image.fromarray(pixels).save(sink, "JPEG")
        yield sink.getvalue()


def make_images(folder: Path, images: int, *, source: Path, labels: int, links: int | None) -> None:
    """Write ``<label>/<number>.jpg`` below `folder`, if it is not there yet.

    Args:
        folder: what to make; it appears when all is there.
        images: how many.
        source: photographs by label.
        labels: how many.
        links: draw at most so many, and link the others to them; None: draw all.
    """
    if folder.exists():
        return
    part = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    names = [f"label-{number:04d}" for number in range(labels)]
    for name in names:
        (part / name).mkdir(parents=True)
    drawn = min(links or images, images)
    for number, content in enumerate(_drawn(_patterns(source, labels), drawn)):
        (part / names[number % labels] / f"{number:08d}.jpg").write_bytes(content)
    step = drawn // labels * labels or drawn  # a link has the label of what it is linked to
    for number in range(drawn, images):
        original = number % step
        target = part / names[original % labels] / f"{number:08d}.jpg"
        target.hardlink_to(part / names[original % labels] / f"{original:08d}.jpg")
    part.rename(folder)


# --- Runs ---------------------------------------------------------------------------------------------------


def run(source: Path, output: Path, flags: Sequence[str]) -> tuple[float, dict[str, int], dict[str, Any]]:
    """Run the command; return its seconds, the peaks of its processes in bytes, and its metrics."""
    command = [sys.executable, "-m", "orchard", "run", str(source), "--output", str(output), "--json", *flags]
    environment = {k: v for k, v in os.environ.items() if k == "ORCHARD_CACHE" or not k.startswith("ORCHARD_")}
    started = time.perf_counter()
    with (
        tempfile.TemporaryFile() as printed,
        # In a folder of its own: an orchard.toml of the present one would count.
        subprocess.Popen(command, stdout=printed, env=environment, cwd=output.parent) as process,
        contextlib.ExitStack() as ending,
        MemoryWatch(process.pid) as memory,
    ):
        ending.callback(process.terminate)  # a benchmark that is ended ends its run, which commits what it has
        process.wait()
        seconds = time.perf_counter() - started
        printed.seek(0)
        text = printed.read()
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}.")
    return seconds, {str(kind): peak for kind, peak in memory.peaks.items()}, json.loads(text)["metrics"]


def measure(source: Path, output: Path, images: int, *, labels: int, flags: Sequence[str]) -> Size:
    """Run twice on `output`."""
    resumed = output.exists()
    seconds, peaks, metrics = run(source, output, flags)
    found = metrics["images"]
    if not found["listed"] == found["featurized"] == images:
        raise SystemExit(f"{images} images were made, and the run counts {found}.")
    second_seconds, second_peaks, second = run(source, output, flags)
    if second["images"]["decoded"]:
        raise SystemExit(f"The second run decoded {second['images']['decoded']} images again.")
    records = log.records(open_storage(str(output), S3Options())).values()
    sizes = {path.relative_to(output).as_posix(): path.stat().st_size for path in output.rglob("*") if path.is_file()}
    return Size(
        images=images,
        labels=labels,
        seconds=seconds,
        resumed=resumed,
        stages=metrics["seconds"],
        peaks=peaks,
        second_seconds=second_seconds,
        second_peaks=second_peaks,
        commits=len(records),
        files=len(sizes),
        bytes={
            "output": sum(sizes.values()),
            "log": sum(sizes[key] for key in records),
            **{name: sizes[name] for name in ("metrics.json", "run.json", "report.html")},
        },
    )


# --- Results ------------------------------------------------------------------------------------------------


def figures(size: Size) -> dict[str, float]:
    """Return what is compared: seconds, bytes and counts by name."""
    return {
        **{f"{stage}, s": size.stages.get(stage, 0.0) for stage in STAGES},
        "first run, s": size.seconds,
        "second run, s": size.second_seconds,
        **{f"{kind}, MB": size.peaks.get(kind, 0) / MB for kind in (Kind.DRIVER, Kind.JVM, Kind.WORKER)},
        "second run, driver, Python, MB": size.second_peaks.get(Kind.DRIVER, 0) / MB,
        "commits": size.commits,
        "files": size.files,
        **{f"{name}, MB": found / MB for name, found in size.bytes.items()},
    }


def exponent(before: Size, after: Size, name: str) -> float | None:
    """Return with which power of the number of images a figure grew; None if it is too small to tell."""
    old, new = figures(before)[name], figures(after)[name]
    if not old or not new or (name.endswith(", s") and new < SHORT_SECONDS):
        return None
    return math.log(new / old) / math.log(after.images / before.images)


def table(sizes: Sequence[Size]) -> tuple[list[str], list[tuple[str, ...]], list[str]]:
    """Return headers and rows of all figures, and sentences about the targets."""
    headers = ["", *(f"{size.images:,}" for size in sizes), *("power" for _ in sizes[1:])]
    rows, faster = [], []
    for name in figures(sizes[0]):
        powers = [exponent(before, after, name) for before, after in itertools.pairwise(sizes)]
        values = [figures(size)[name] for size in sizes]
        shown = [f"{value:,.0f}" if name in ("commits", "files") else f"{value:,.2f}" for value in values]
        rows.append((name, *shown, *("" if power is None else f"{power:.2f}" for power in powers)))
        faster += [f"{name} ({power:.2f})" for power in powers if power is not None and power > FASTER]
    last = sizes[-1]
    lines = [
        f"grows faster than the images (a power over {FASTER}): {', '.join(faster) or 'nothing'}",
        f"driver, Python and JVM, {last.driver_peak / MB:,.0f} MB at {last.images:,} (target: 3,000 at 1,000,000)",
        f"report.html {last.bytes['report.html'] / MB:.2f} MB (target: under 5)",
    ]
    if any(size.resumed for size in sizes):
        lines.append("Some were cut off and went on: seconds and memory of the first run are those of the last part.")
    return headers, rows, lines


def _known(file: Path | None) -> dict[tuple[int, int], Size]:
    if file is None or not file.exists():
        return {}
    return {(one["images"], one["labels"]): Size(**one) for one in json.loads(file.read_text())["sizes"]}


def main() -> None:
    """Measure each size that is not measured yet, and print all."""
    arguments = parser(__doc__)
    arguments.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000, 1_000_000], metavar="N")
    arguments.add_argument("--labels", type=int, default=100, help="of the images [%(default)s]")
    arguments.add_argument("--links", type=int, metavar="N", help="draw at most N images; the others are hard links")
    arguments.add_argument("orchard", nargs="*", help="after --: further arguments of `orchard run`")
    given = arguments.parse_args()

    scratch = (given.scratch or Path(tempfile.mkdtemp(prefix="orchard-growth-"))).resolve()
    scratch.mkdir(parents=True, exist_ok=True)
    measured = _known(given.json)
    try:
        for images in sorted(given.sizes):
            if (images, given.labels) not in measured:
                name = f"{images}-{given.labels}" + (f"-{given.links}" if given.links else "")
                source = scratch / f"images-{name}"
                photographs = images_folder(given.images, scratch)
                make_images(source, images, source=photographs, labels=given.labels, links=given.links)
                measured[images, given.labels] = measure(
                    source,
                    scratch / f"out-{name}",
                    images,
                    labels=given.labels,
                    flags=(*FLAGS, *given.orchard),
                )
                save(given.json, {"sizes": [asdict(size) for size in measured.values()]})
            print(f"{images:,} images: {measured[images, given.labels].seconds:.0f} s", flush=True)
    finally:
        if given.scratch is None:
            shutil.rmtree(scratch, ignore_errors=True)
    sizes = [measured[images, given.labels] for images in sorted(given.sizes)]
    report(f"{given.labels} labels, orchard run {' '.join((*FLAGS, *given.orchard))}", *table(sizes))


if __name__ == "__main__":
    main()
