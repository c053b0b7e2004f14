"""Right on photos from shops: what views, test views and a better backbone bring, by whole runs of `orchard run`.

The photos are those of the Grocery Store data set (Klasson, Zhang & Kjellström 2019), in ``../shared/grocery`` beside
the repository or in ``--images``: fitted on its train part, measured on its validation part, as ``split.csv`` says.
Accuracy is that of the classifier that `predict` uses, by label and by kind. `--only` takes some of the rows: the
qualities are those of `--quality`, with no other flag.

`--few` measures another thing: how many photos of a market a model of studio pictures needs. The studio is
``../shared/fruits``, its kinds those that the shops have, too, and the market 0 to 20 photos a kind of the train part;
accuracy is that by source on the photos of the validation part. `--photos` and `--weights` take some of these;
`--views` and `--backgrounds` are settings of the runs.
"""

import csv
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import measuring
import orchard
from orchard.images.selection import seeded_hashes

FEW = (0, 1, 2, 5, 10, 20)
"""Photos of the market, of each kind."""
FRAMES = 80
"""Studio frames of each kind, at the most."""
WEIGHTS = (1.0, 0.3, 0.1)
"""Of the studio."""
DISCRIMINANT = ("--classifiers", "linear_discriminant")
ROWS = {
    "fast": ("--quality", "fast"),
    "balanced": ("--quality", "balanced"),
    "best": ("--quality", "best"),
    "Lite0": ("--backbone", "EfficientNetLite0"),
    "Lite0, 5 views": ("--backbone", "EfficientNetLite0", "--views", "5"),
    "Lite0, 3 test views": ("--backbone", "EfficientNetLite0", "--test-views", "3"),
    "Lite0, 5 views, 3 test views": ("--backbone", "EfficientNetLite0", "--views", "5", "--test-views", "3"),
    "Lite2": ("--backbone", "EfficientNetLite2"),
    "Lite2, 5 views": ("--backbone", "EfficientNetLite2", "--views", "5"),
    "Lite2, 3 test views": ("--backbone", "EfficientNetLite2", "--test-views", "3"),
    "Lite2, 5 views, 3 test views": ("--backbone", "EfficientNetLite2", "--views", "5", "--test-views", "3"),
}


def manifest(folder: Path, target: Path) -> Path:
    """Write ``split.csv`` with the images' full paths."""
    with (folder / "split.csv").open(newline="") as source, target.open("w", newline="") as file:
        rows = csv.DictReader(source)
        writer = csv.writer(file)
        writer.writerow(["path", "label", "kind", "split"])
        writer.writerows([folder / row["path"], row["label"], row["kind"], row["split"]] for row in rows)
    return target


def measure(source: Path, output: Path, flags: tuple[str, ...]) -> tuple[float, float, float]:
    """Return accuracy by label and by kind, and the seconds of the whole command."""
    given = flags if "--quality" in flags else (*DISCRIMINANT, *flags)
    command = [sys.executable, "-m", "orchard", "run", str(source), "--output", str(output), *given]
    started = time.monotonic()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    seconds = time.monotonic() - started
    metrics = json.loads((output / "metrics.json").read_text())
    found = metrics["classifiers"][metrics["selection"]["chosen"]]
    return found["accuracy"], found["by_kind"]["accuracy"], seconds


def first_of_each(rows: list[tuple[Path, str]], most: int) -> list[tuple[Path, str]]:
    """Return at most so many images of each kind, by the hash of their paths: of fewer, the same ones."""
    found: dict[str, list[tuple[Path, str]]] = {}
    paths = [str(path) for path, _ in rows]
    order = seeded_hashes([path.rpartition("/shared/")[2] for path in paths], 0).argsort()
    for row in (rows[at] for at in order):
        found.setdefault(row[1], []).append(row)
    return [row for kind in sorted(found) for row in found[kind][:most]]


def few(
    shops: Path,
    studio: Path,
    scratch: Path,
    *,
    photos_a_kind: Sequence[int] = FEW,
    weights: Sequence[float] = WEIGHTS,
    **settings: object,
) -> dict[str, list[float]]:
    """Return accuracy on photos of shops, by photos a kind, for each weight of the studio; 0 photos for the first."""
    with (shops / "split.csv").open(newline="") as file:
        photos = [(shops / row["path"], row["kind"], row["split"]) for row in csv.DictReader(file)]
    frames = [(path, path.parent.name.split()[0]) for path in sorted((studio / "Training").glob("*/*.jpg"))]
    kinds = {kind for _, kind in frames} & {kind for _, kind, _ in photos}
    frames = first_of_each([row for row in frames if row[1] in kinds], FRAMES)
    market = [(path, kind) for path, kind, split in photos if split == "train" and kind in kinds]
    test = [(path, kind, "test") for path, kind, split in photos if split == "test" and kind in kinds]
    lists = [scratch / name for name in ("studio.csv", "market.csv")]
    write(lists[0], [(path, kind, "train") for path, kind in frames])
    print(f"{len(frames)} studio frames, {len(test)} photos to measure, of {len(kinds)} kinds", flush=True)
    found: dict[str, list[float]] = {}
    for number in photos_a_kind:
        write(lists[1], [*((path, kind, "train") for path, kind in first_of_each(market, number)), *test])
        for weight in weights if number else weights[:1]:
            settings |= {"classifiers": "linear_discriminant", "source_weight": {str(lists[0]): weight}, "prune": True}
            sources = [str(path) for path in lists]
            metrics = orchard.run(None, sources, str(scratch / "few"), **settings).metrics
            measured = metrics["sources"][sources[1]]["classifiers"]["linear_discriminant"]
            found.setdefault(str(number), []).append(measured["accuracy"])
            print(number, weight, measured, flush=True)
    return found


def write(target: Path, rows: list[tuple[Path, str, str]]) -> None:
    """Write a manifest."""
    with target.open("w", newline="") as file:
        csv.writer(file).writerows([("path", "label", "split"), *rows])


def main() -> None:
    """Measure, print, save."""
    parser = measuring.parser(__doc__)
    parser.add_argument("--only", default=";".join(ROWS), metavar="A;B", help="rows [all]")
    parser.add_argument("--few", action="store_true", help="measure how many photos of a market it takes")
    parser.add_argument("--photos", default=",".join(map(str, FEW)), metavar="A,B", help="of --few [%(default)s]")
    parser.add_argument("--weights", default=",".join(map(str, WEIGHTS)), metavar="A,B", help="of --few [%(default)s]")
    parser.add_argument("--views", type=int, default=0, metavar="N", help="of --few: random views of each image")
    parser.add_argument("--backgrounds", metavar="FOLDER", help="of --few: what studio frames are pasted onto in views")
    given = parser.parse_args()
    images = (given.images or measuring.SHARED / "grocery").resolve()
    if given.few:
        weights = [float(weight) for weight in given.weights.split(",")]
        with tempfile.TemporaryDirectory(dir=given.scratch) as scratch:
            curve = few(
                images,
                measuring.SHARED / "fruits",
                Path(scratch),
                photos_a_kind=[int(number) for number in given.photos.split(",")],
                weights=weights,
                views=given.views,
                backgrounds=given.backgrounds,
            )
        rows = [(number, *(f"{accuracy:.3f}" for accuracy in figures)) for number, figures in curve.items()]
        headers = ("photos a kind", *(f"studio weighs {weight:g}" for weight in weights))
        measuring.report(
            "Accuracy on photos from shops", headers, [(*row, *[""] * (len(headers) - len(row))) for row in rows], []
        )
        measuring.save(given.json, {"few": curve})
        return
    found = {}
    with tempfile.TemporaryDirectory(dir=given.scratch) as scratch:
        source = manifest(images, Path(scratch) / "split.csv")
        for number, name in enumerate(given.only.split(";")):
            found[name] = measure(source, Path(scratch) / f"out{number}", ROWS[name])
            print(name, *found[name], flush=True)
    rows = [(name, f"{label:.3f}", f"{kind:.3f}", f"{seconds:.0f}") for name, (label, kind, seconds) in found.items()]
    measuring.report("Photos from shops", ("settings", "label", "kind", "seconds"), rows, [])
    measuring.save(given.json, {"rows": found})


if __name__ == "__main__":
    main()
