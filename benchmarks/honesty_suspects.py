"""How many wrong labels the review finds: some training labels of an output are flipped, and it is reviewed anew.

    python benchmarks/honesty_suspects.py OUT            # an output of `orchard extract`; it is copied, not changed

One line of JSON for each seed.
"""

from __future__ import annotations

import csv
import json
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from orchard.features.pending import renamed
from orchard.layout import INVENTORY, LISTING, SUSPECT_LIST, Dataset, Fault
from orchard.output import Output
from orchard.pipeline import Pipeline
from orchard.settings import load
from orchard.vocabulary import Split


def flip(output: Output, share: float, seed: int) -> dict[str, str]:
    """Give a share of the training images another label, drawn uniformly; return the right labels by path."""
    images = output.read(Dataset.INVENTORY, [*LISTING.names, "featurized"], INVENTORY)
    images = images.filter(pc.and_(images["featurized"], pc.equal(images["split"], Split.TRAIN))).sort_by("path")
    labels = images["label"].to_pylist()
    names = sorted(set(labels))
    random = np.random.default_rng(seed)
    at = random.choice(len(labels), round(share * len(labels)), replace=False)
    wrong = [str(random.choice([name for name in names if name != labels[i]])) for i in at]
    images = images.take(pa.array(at)).select(LISTING.names)
    images = images.set_column(LISTING.get_field_index("label"), LISTING.field("label"), pa.array(wrong, pa.string()))
    with output.writing():
        add, remove = renamed(output, images)
        output.commit(add, remove=remove)
    return {path: labels[i] for path, i in zip(images["path"].to_pylist(), at, strict=True)}


def measure(source: str, *, share: float = 0.05, looked_at: float = 0.06, seed: int = 0) -> dict[str, Any]:
    """Flip, review, and count.

    Args:
        source: a local output with features.
        share: of the training labels that are flipped, 0..1.
        looked_at: of the training images, those most suspect by label, 0..1.
        seed: of the flips.

    Returns:
        ``recall``: share of the flipped labels among those looked at; ``suggested_right``: how often the label
        suggested for them is the right one; ``precision``: share of flipped ones among all that are listed; counts.
    """
    with tempfile.TemporaryDirectory() as folder:
        url = f"{folder}/out"
        shutil.copytree(source, url)
        right = flip(Output(url), share, seed)
        with Pipeline(url, load({"classifiers": "linear_discriminant"})) as pipeline:
            pipeline.reduce()
            pipeline.classify()
            started = time.perf_counter()
            pipeline.review()
            seconds = time.perf_counter() - started
        train = Output(url).read(Dataset.INVENTORY, ["split"], INVENTORY)["split"].to_pylist().count(Split.TRAIN)
        listed = [row for row in _suspects(Path(url, SUSPECT_LIST)) if row["split"] == Split.TRAIN]
    top = listed[: round(looked_at * train)]
    found = [row for row in top if row["path"] in right]
    return {
        "seed": seed,
        "train": train,
        "flipped": len(right),
        "listed": len(listed),
        "recall": round(len(found) / len(right), 4),
        "precision": round(sum(row["path"] in right for row in listed) / max(1, len(listed)), 4),
        "suggested_right": round(sum(right[row["path"]] == row["suggested"] for row in found) / max(1, len(found)), 4),
        "review_seconds": round(seconds, 1),
    }


def _suspects(file: Path) -> Iterator[dict[str, str]]:
    with file.open(encoding="utf-8", newline="") as text:
        yield from (row for row in csv.DictReader(text) if row["fault"] == Fault.LABEL)


@click.command()
@click.argument("output")
@click.option("--seeds", default=2, help="how many seeds of the flips")
def main(output: str, seeds: int) -> None:
    """Flip 5 % of the training labels of OUTPUT's copy, and look at the 6 % that are most suspect."""
    for seed in range(seeds):
        click.echo(json.dumps(measure(output, seed=seed)))


if __name__ == "__main__":
    main()
