"""`orchard run` as a person starts it: seconds, memory and accuracy of a first run and of a second, unchanged one.

    python benchmarks/end_to_end.py --cold --repeat 3 --json end_to_end.json

Each turn runs the command twice, as fresh processes, on a new output. Seconds are from before the process starts to
after it has ended, with the starts of Python and Spark; the first features count when their file lies in OUT/features.
Memory is what the kernel says was resident at most (VmHWM), looked up four times a second for each process; the
driver is its Python process and its JVM, whose peaks are added up as if they had come at once.
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from measuring import MB, Kind, MemoryWatch, copy_images, images_folder, parser, report, save, use_shared_keras_home

POLL_SECONDS = 0.02
STAGES = ("list", "start", "extract", "reduce", "classify", "report")


@dataclass(frozen=True)
class Run:
    """One run of the command."""

    seconds: float
    first_features_seconds: float | None
    """From the start to the first file in OUT/features; None if they were there before."""
    peaks: dict[str, int]
    """Bytes resident: of each kind of process the largest at its largest."""
    metrics: Mapping[str, Any]

    @property
    def driver_peak(self) -> int:
        """Of the driver's Python process and its JVM together, in bytes."""
        return self.peaks.get(Kind.DRIVER, 0) + self.peaks.get(Kind.JVM, 0)


def run(source: Path, output: Path, arguments: Sequence[str], environment: Mapping[str, str]) -> Run:
    """Run the command and watch it."""
    command = [sys.executable, "-m", "orchard", "run", str(source), "--output", str(output), "--json", *arguments]
    first = None
    started = time.perf_counter()
    with (
        tempfile.TemporaryFile() as printed,
        # In a folder of its own: an orchard.toml of the present one would count.
        subprocess.Popen(command, stdout=printed, env=dict(environment), cwd=output.parent) as process,
        MemoryWatch(process.pid) as memory,
    ):
        is_new = not output.exists()
        while process.poll() is None:
            if is_new and first is None and any((output / "features").glob("*.parquet")):
                first = time.perf_counter() - started
            time.sleep(POLL_SECONDS)
        seconds = time.perf_counter() - started
        printed.seek(0)
        text = printed.read()
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}.")
    return Run(seconds, first, {str(kind): peak for kind, peak in memory.peaks.items()}, json.loads(text)["metrics"])


def _counts(metrics: Mapping[str, Any]) -> str:
    images = metrics["images"]
    return f"{images['listed']:,} listed = {images['featurized']:,} featurized + {images['rejected']:,} rejected"


def _cells(number: int, name: str, done: Run) -> tuple[str, ...]:
    decoded = done.metrics["images"]["decoded"]
    # A stage that was skipped keeps the seconds of the run that did it.
    stages = [f"{done.metrics['seconds'].get(stage, 0):.1f}" if decoded else "" for stage in STAGES]
    first = "" if done.first_features_seconds is None else f"{done.first_features_seconds:.1f}"
    memory = [f"{done.peaks.get(kind, 0) / MB:,.0f}" for kind in (Kind.DRIVER, Kind.JVM, Kind.WORKER)]
    return f"{number} {name}", f"{done.seconds:.1f}", f"{decoded:,}", *stages, first, *memory


def main() -> None:
    """Measure and print."""
    arguments = parser(__doc__)
    arguments.add_argument("--cold", action="store_true", help="start each turn without Orchard's cache of networks")
    arguments.add_argument(
        "--at-least", type=int, metavar="N", help="copy images under other names until there are N (for memory)"
    )
    arguments.add_argument("orchard", nargs="*", help="after --: further arguments of `orchard run`")
    given = arguments.parse_args()

    use_shared_keras_home()
    scratch = Path(tempfile.mkdtemp(prefix="orchard-benchmark-", dir=given.scratch)).resolve()
    environment = {k: v for k, v in os.environ.items() if k == "ORCHARD_CACHE" or not k.startswith("ORCHARD_")}
    options = [*given.orchard, *(("--limit", str(given.limit)) if given.limit else ())]
    turns = []
    try:
        source = images_folder(given.images, scratch)
        if given.at_least:
            copy_images(source, scratch / "images", limit=given.at_least)
            source = scratch / "images"
        for n in range(1, given.repeat + 1):
            if given.cold:
                environment["ORCHARD_CACHE"] = str(scratch / f"cache-{n}")
            output = scratch / f"out-{n}"
            turns.append((run(source, output, options, environment), run(source, output, options, environment)))
            shutil.rmtree(output)
            print(f"turn {n} of {given.repeat}: {turns[-1][0].seconds:.1f} s, {turns[-1][1].seconds:.1f} s", flush=True)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)

    firsts, seconds = zip(*turns, strict=True)
    accuracy = {name: found["accuracy"] for name, found in firsts[-1].metrics.get("classifiers", {}).items()}
    worker = max(turn.peaks.get(Kind.WORKER, 0) for turn in firsts)
    driver = max(turn.driver_peak for turn in firsts)
    first_features = [turn.first_features_seconds or turn.seconds for turn in firsts]
    report(
        f"orchard run {source} {' '.join(options)}".rstrip() + (", no cache" if given.cold else ""),
        (
            *("run", "s", "decoded"),
            *(f"{stage}, s" for stage in STAGES),
            *("first features, s", "driver Python, MB", "JVM, MB", "worker, MB"),
        ),
        [
            _cells(n, name, done)
            for n, turn in enumerate(turns, 1)
            for name, done in zip(("first", "again"), turn, strict=True)
        ],
        (
            f"images: {_counts(firsts[-1].metrics)} (target: nothing lost)",
            *(f"accuracy of {name.replace('_', ' ')}: {value:.4f}" for name, value in accuracy.items()),
            "  (target for logistic regression: at least 0.98)",
            f"first run {statistics.median(turn.seconds for turn in firsts):.1f} s (median), at "
            f"{statistics.median(turn.metrics['images_per_second'] for turn in firsts):,.0f} images/s in extraction",
            f"first features after {max(first_features):.1f} s at the latest (target: under 15 s)",
            f"second run {max(turn.seconds for turn in seconds):.1f} s at the longest (target: under 15 s), "
            f"{max(turn.metrics['images']['decoded'] for turn in seconds)} images decoded (target: 0)",
            f"Python worker {worker / MB:,.0f} MB at the most (target: under 500 MB)",
            f"driver, Python and JVM, {driver / MB:,.0f} MB at the most (target: under 2,000 MB for 20,000 images)",
        ),
    )
    save(
        given.json,
        {
            "cold": given.cold,
            "options": options,
            "accuracy": accuracy,
            "images": firsts[-1].metrics["images"],
            "worker_peak_bytes": worker,
            "driver_peak_bytes": driver,
            "turns": [{"first": _summary(first), "second": _summary(second)} for first, second in turns],
        },
    )


def _summary(done: Run) -> dict[str, object]:
    kept = ("images", "pca", "seconds", "images_per_second", "warnings")
    metrics = {name: done.metrics[name] for name in kept if name in done.metrics}
    return asdict(done) | {"metrics": metrics, "driver_peak_bytes": done.driver_peak}


if __name__ == "__main__":
    main()
