"""All of Fruits-360, or what images there are, on each target: time, cost and accuracy beside the notebooks' flow.

    python benchmarks/targets.py --target local
    python benchmarks/targets.py --dataset https://example.org/fruits-360.git --bucket s3://bucket/fruits-360 \\
        --target local --target emr-ec2 --with "emr-ec2=--cluster-id j-1A2B3C4D5E6F7" --core-hour-price 0.07

It does what a person would: gets the images, copies them to the bucket where a target needs one, runs `orchard run` or
`orchard submit`, waits by `orchard status`, and reads `metrics.json` and `run.json` of the output. Each target has its
flags by `--with`; keys, context and region are the environment's.
"""

import argparse
import json
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import urllib.request
import zipfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from measuring import REPOSITORY, images_folder, parser, report, save
from orchard.storage import S3Options, open_storage

TARGETS = ("local", "kubernetes", "emr-eks", "emr-ec2", "emr-serverless")
SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp"}
POLL_SECONDS = 15.0
NOTEBOOKS = (
    # images, seconds end to end, images a second once started
    (4_000, 273.3, 15),
    (12_158, 742.1, 17),
)
"""What the notebooks' flow took on two cores of one machine: notebook.py, whose table is in benchmarks/README.md.

It ends with the reduced table: it has no classifier, so no accuracy, and its machine no price.
"""
HEADERS = ("", "images", "end to end, s", "run, s", "images/s", "core-hours", "cost", "accuracy", "measured on")


# --- Images -------------------------------------------------------------------------------------------------


def fetch(address: str, folder: Path) -> Path:
    """Get a data set, by git or as an archive, and return the folder that has its ``Training`` and ``Test``.

    Args:
        address: of a repository (``….git``, or what git clones), or of a zip or tar file.
        folder: where it is kept; what is there already is not fetched again.

    Raises:
        OSError: it cannot be had, or has no images in such folders.
    """
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
            got = Path(temporary) / "got"
            if re.search(r"\.(zip|tar|tgz|tar\.\w+)$", address):
                archive = Path(temporary) / "archive"
                with urllib.request.urlopen(address, timeout=60) as response, archive.open("wb") as file:  # noqa: S310
                    shutil.copyfileobj(response, file)
                if zipfile.is_zipfile(archive):
                    zipfile.ZipFile(archive).extractall(got)  # noqa: S202 -- it leaves no folder
                else:
                    with tarfile.open(archive) as tar:
                        tar.extractall(got, filter="data")
            else:
                command = ["git", "clone", "--quiet", "--depth=1", "--", address, str(got)]
                done = subprocess.run(command, check=False, capture_output=True, text=True)
                if done.returncode:
                    raise OSError(done.stderr.strip().splitlines()[-1] if done.stderr else "git cannot clone it")
            split(got)
            got.rename(folder)
    return split(folder)


def split(folder: Path) -> Path:
    """Return the folder with ``Training`` and ``Test`` that is highest below one. Raises OSError if there is none."""
    found = [each.parent for each in folder.rglob("Training") if (each.parent / "Test").is_dir()]
    if not found:
        raise OSError(f"{folder} has no folders Training and Test")
    return min(found, key=lambda each: len(each.parts))


def upload(folder: Path, address: str) -> str:
    """Copy the images of a folder to a bucket's prefix, those that are not there with the same size; return it."""
    store = open_storage(address, S3Options().resolved())
    there = {entry.key: entry.size for entry in store.list()}
    missing = [
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES and there.get(str(path.relative_to(folder))) != path.stat().st_size
    ]
    print(f"{len(missing):,} images to copy to {store.url}", flush=True)
    with ThreadPoolExecutor(16) as pool:
        for _ in pool.map(lambda path: store.write(str(path.relative_to(folder)), path.read_bytes()), missing):
            pass
    return store.url


# --- Targets ------------------------------------------------------------------------------------------------


def orchard(*words: str, check: bool = True) -> str:
    """Run a command of Orchard's and return what it printed; exit if it fails."""
    done = subprocess.run(
        [sys.executable, "-m", "orchard", *words], check=False, capture_output=True, text=True, cwd=REPOSITORY
    )
    if check and done.returncode > 1:  # 1: more rejected than wished
        raise SystemExit(f"orchard {words[0]} failed: {(done.stderr.splitlines() or ['it said nothing'])[-1]}")
    return done.stdout


def followed(said: str) -> list[str]:
    """Return the words that ask for the status of a job, of what `orchard submit --detach` says."""
    found = re.search(r"orchard status (.+)", said)
    if found is None:
        raise SystemExit(f"orchard submit named no job: {said.strip()}")
    return shlex.split(found[1])


def run(target: str, source: str, output: str, flags: Sequence[str]) -> dict[str, Any]:
    """Run the pipeline on a target and return what it took and found."""
    begun = time.monotonic()
    if target == "local":
        orchard("run", source, "--output", output, *flags)
    else:
        said = orchard("submit", source, "--output", output, "--target", target, "--detach", *flags)
        words = followed(said)
        while (state := json.loads(orchard("status", *words, "--json", check=False) or "{}")).get("exit_code") is None:
            if not state:
                raise SystemExit(f"orchard status {shlex.join(words)} says nothing")
            time.sleep(POLL_SECONDS)
        if state["exit_code"] > 1:
            raise SystemExit(f"{target}: {state.get('reason') or 'the job failed'}")
    seconds = time.monotonic() - begun
    store = open_storage(output, S3Options().resolved())
    metrics, made = (json.loads(store.read(name)) for name in ("metrics.json", "run.json"))
    return figures(metrics, made, seconds)


def figures(metrics: Mapping[str, Any], made: Mapping[str, Any], seconds: float) -> dict[str, Any]:
    """Return of a run's `metrics.json` and `run.json` what the table shows.

    Args:
        metrics: of the run.
        made: its `run.json`.
        seconds: from the command to the end of the job, with the start of whatever had to start.
    """
    headline, used = metrics.get("headline") or {}, made["usage"]["total"]
    return {
        "images": metrics["images"]["featurized"],
        "seconds": round(seconds, 1),
        "run_seconds": metrics["seconds"]["total"],
        "images_per_second": metrics["images_per_second"],
        "core_hours": used["core_hours"],
        "cost": used.get("cost"),
        "accuracy": headline.get("accuracy"),
        "interval": headline.get("accuracy_interval"),
        "measure": headline.get("measure"),
        "test_rows": headline.get("test_rows"),
        "backbone": made["settings"].get("backbone"),
    }


def row(name: str, found: Mapping[str, Any]) -> tuple[str, ...]:
    """Return a run as cells of the table; what was not measured is a dash."""
    accuracy, cost = "-", "-" if found["cost"] is None else f"{found['cost']:.4f}"
    measured = "-"
    if found["accuracy"] is not None:
        low, high = found["interval"]
        accuracy = f"{found['accuracy']:.3f} ({low:.3f} to {high:.3f})"
        measured = f"{found['test_rows']:,} test images, {found['measure']}"
    return (
        name,
        f"{found['images']:,}",
        f"{found['seconds']:,.1f}",
        f"{found['run_seconds']:,.1f}",
        f"{found['images_per_second']:,.1f}",
        f"{found['core_hours']:.4f}",
        cost,
        accuracy,
        measured,
    )


def notebooks() -> list[tuple[str, ...]]:
    """Return the rows of the notebooks' flow."""
    return [
        ("notebooks' flow, 2 cores", f"{images:,}", f"{seconds:,.1f}", "-", f"{rate}", "-", "-", "-", "no classifier")
        for images, seconds, rate in NOTEBOOKS
    ]


def flags_of(given: Sequence[str]) -> dict[str, list[str]]:
    """Return each target's flags, of ``TARGET=FLAGS``. Raises SystemExit for what names no target."""
    found: dict[str, list[str]] = {}
    for each in given:
        target, equals, flags = each.partition("=")
        if target not in TARGETS or not equals:
            raise SystemExit(f"--with {each!r} is not TARGET=FLAGS with a target of {', '.join(TARGETS)}")
        found.setdefault(target, []).extend(shlex.split(flags))
    return found


# --- All ----------------------------------------------------------------------------------------------------


def source_of(settings: argparse.Namespace, scratch: Path) -> Path:
    """Return the folder of images: the data set where it can be had, else `--images` or what there is."""
    if settings.dataset:
        try:
            return fetch(settings.dataset, REPOSITORY / "build" / "fruits-360")
        except OSError as error:
            print(f"{settings.dataset} cannot be had ({error}): taking what there is", file=sys.stderr)
    return images_folder(settings.images, scratch)


def main() -> None:
    """Run each target and print."""
    arguments = parser(__doc__)
    arguments.set_defaults(repeat=1)
    arguments.add_argument("--dataset", metavar="URL", help="repository or archive of the whole data set")
    arguments.add_argument("--bucket", metavar="s3://…", help="where images and outputs go for targets in a cluster")
    arguments.add_argument("--target", action="append", choices=TARGETS, help="can be repeated [local]")
    arguments.add_argument("--with", dest="flags", action="append", default=[], metavar="TARGET=FLAGS")
    arguments.add_argument("--flag", action="append", default=[], help="further flag of every run; can be repeated")
    arguments.add_argument("--core-hour-price", type=float, metavar="NUMBER", help="to tell the cost [none]")
    settings = arguments.parse_args()
    targets, own = settings.target or ["local"], flags_of(settings.flags)
    remote = [target for target in targets if target != "local"]
    if remote and not settings.bucket:
        arguments.error(f"{', '.join(remote)} need --bucket, where the images are copied to")

    common = list(settings.flag)
    common += ["--limit", str(settings.limit)] if settings.limit else []
    common += ["--core-hour-price", str(settings.core_hour_price)] if settings.core_hour_price else []
    scratch = Path(tempfile.mkdtemp(prefix="orchard-benchmark-", dir=settings.scratch)).resolve()
    runs: list[dict[str, Any]] = []
    try:
        folder = source_of(settings, scratch)
        bucket = settings.bucket and settings.bucket.rstrip("/").replace("s3://", "s3a://")
        source = upload(folder, f"{bucket}/images") if remote else ""
        for turn in range(1, settings.repeat + 1):
            for target in targets:
                place, where = (str(folder), str(scratch)) if target == "local" else (source, f"{bucket}/results")
                output = f"{where}/{int(time.time())}-{target}"
                found = run(target, place, output, [*common, *own.get(target, [])])
                runs.append({"target": target, "turn": turn, **found})
                print(f"{target}: {found['images']:,} images in {found['seconds']:,.1f} s", flush=True)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    report(
        f"{folder.name}, {runs[0]['backbone']}",
        HEADERS,
        [*(row(found["target"], found) for found in runs), *notebooks()],
        (
            "end to end: from the command to the job's end, with the start of whatever had to start",
            "images/s: extraction; of the notebooks' flow once started, with all its passes over the network",
            "cost: core-hours of the run at --core-hour-price; nodes that wait or start are not in it",
            "notebooks' flow: as notebook.py measured it (benchmarks/README.md), down to the reduced table",
        ),
    )
    save(settings.json, {"runs": runs, "notebooks": NOTEBOOKS})


if __name__ == "__main__":
    main()
