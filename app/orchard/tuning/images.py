"""Which images a backbone is tuned on, and which decide when to stop."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from orchard.errors import TrainingError
from orchard.images.selection import codes, ranks, seeded_hashes
from orchard.images.splits import hold_out
from orchard.inference.calibration import LEAST_ROWS
from orchard.vocabulary import Split

MOST_HELD_OUT = 4000
"""Images that an epoch is measured on: more would make its figure no steadier."""


def chosen(images: pa.Table, *, most: int, seed: int) -> tuple[pa.Table, pa.Table]:
    """Return the images to train on, at most `most`, and those to measure epochs on; test images are in neither.

    They are held out as for the classifiers: the validation split, or else a part of training, see
    `orchard.images.splits.hold_out`; so nothing that classifiers are calibrated on was trained on. Each label has as
    many images as the others, as far as it has them.

    Args:
        images: ``path, size, label, split, group``, every row with its split.
        most: images to train on.
        seed: of what is held out, and of the choice.

    Raises:
        TrainingError: there are no two labels to train on, or too few images to hold out.
    """
    images = images.filter(images["label"].is_valid()).sort_by("path")
    training = images.filter(pc.equal(images["split"], Split.TRAIN))
    held = images.filter(pc.equal(images["split"], Split.VALIDATION))
    if held.num_rows < LEAST_ROWS:
        paths, labels, groups = (training[name].to_pylist() for name in ("path", "label", "group"))
        is_held = pa.array(hold_out(paths, labels, seed, groups))
        held, training = training.filter(is_held), training.filter(pc.invert(is_held))
    if pc.count_distinct(training["label"]).as_py() < 2 or not held.num_rows:
        raise TrainingError(
            f"There is too little to tune a backbone with ({training.num_rows} training images, {held.num_rows} held "
            "out): give more labelled images, of at least two labels, or run without --tune."
        )
    return _balanced(training, most, seed), _balanced(held, MOST_HELD_OUT, seed)


def _balanced(images: pa.Table, most: int, seed: int) -> pa.Table:
    """Return at most `most` rows, the first of each label before the second of any."""
    hashes = seeded_hashes(images["path"], seed)
    rank, _ = ranks(codes(images["label"]), hashes)
    return images.take(pa.array(np.sort(np.lexsort((hashes, rank))[:most])))
