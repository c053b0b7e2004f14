"""Right on photos from shops: what views, test views and a better backbone bring, by whole runs of `orchard run`.

The photos are those of the Grocery Store data set (Klasson, Zhang & Kjellström 2019), in ``../shared/grocery`` beside
the repository or in ``--images``: fitted on its train part, measured on its validation part, as ``split.csv`` says.
Accuracy is that of the classifier that `predict` uses, by label and by kind. `--only` takes some of the rows.
"""

import csv
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import measuring

DISCRIMINANT = ("--classifiers", "linear_discriminant")
ROWS = {
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
    command = [sys.executable, "-m", "orchard", "run", str(source), "--output", str(output), *DISCRIMINANT, *flags]
    started = time.monotonic()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    seconds = time.monotonic() - started
    found = json.loads((output / "metrics.json").read_text())["classifiers"]["linear_discriminant"]
    return found["accuracy"], found["by_kind"]["accuracy"], seconds


def main() -> None:
    """Measure, print, save."""
    parser = measuring.parser(__doc__)
    parser.add_argument("--only", default=";".join(ROWS), metavar="A;B", help="rows [all]")
    given = parser.parse_args()
    images = (given.images or measuring.SHARED / "grocery").resolve()
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
