"""Which images train and which test: seeded, stratified by label, and stable when images are added."""

import math
import re
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from orchard.images.groups import draw_groups, group_names
from orchard.images.selection import codes, ranks, seeded_hashes
from orchard.layout import LISTING
from orchard.vocabulary import Split

_HELD, _MOST_HELD = 0.1, 0.3
"""Share of the training images that is held out, and what it may grow to where there are few."""
_LEAST_HELD = 60
"""Images held out, if there are as many: fewer say too little."""


def assign_splits(new: pa.Table, done: pa.Table | None, *, test_fraction: float, seed: int) -> pa.Table:
    """Give every image of a listing that has no split one.

    For each label, of all train and test images, done and new together, ``round(test_fraction * n)`` are to
    test: the missing ones are the new images of the lowest hash of seed and path. So a run that was cut off and
    goes on assigns as one that was not, and what was assigned stays. A label's only image is for training.
    Where images have groups, whole groups go to one side instead, see `draw_groups`.

    Args:
        new: Schema `LISTING`; rows with a split keep it.
        done: ``path, label, split, group`` of the images that have been worked on. A null split means that the image
            was rejected: it takes part in the ranking, as it did before it was known to be broken.
        test_fraction: 0 to 1.
        seed: Another seed, another draw.

    Returns:
        ``new``, in its order, without nulls in ``split``.
    """
    columns = ["path", "label", "split", "group"]
    everything = new.select(columns)
    if done is not None:
        everything = pa.concat_tables([everything, done.select(columns).cast(everything.schema)])
    if everything["group"].null_count < everything.num_rows:
        chosen = _chosen_groups(everything, test_fraction, seed)
    else:
        chosen = _chosen_images(everything, test_fraction, seed)
    drawn = pa.array(np.where(chosen, str(Split.TEST), str(Split.TRAIN))[: new.num_rows], pa.string())
    filled = pc.coalesce(new["split"], drawn)
    return new.set_column(new.schema.get_field_index("split"), LISTING.field("split"), filled)


def _chosen_images(images: pa.Table, test_fraction: float, seed: int) -> npt.NDArray[np.bool_]:
    """Whether each image that has no split is to test, shape (n,)."""
    label = codes(images["label"])
    n_labels = int(label.max(initial=-1)) + 1
    is_train, is_test, is_open = _sides(images["split"])

    n_images = np.bincount(label[is_test | is_train | is_open], minlength=n_labels)
    wanted = np.minimum(np.floor(test_fraction * n_images + 0.5), np.maximum(n_images - 1, 0))
    missing = wanted - np.bincount(label[is_test], minlength=n_labels)

    at = np.flatnonzero(is_open)
    rank, _ = ranks(label[at], seeded_hashes(images["path"].take(pa.array(at)), seed))
    chosen = np.zeros(len(label), bool)
    chosen[at] = rank < missing[label[at]]
    return chosen


def _chosen_groups(images: pa.Table, test_fraction: float, seed: int) -> npt.NDArray[np.bool_]:
    """Whether each image that has no split is to test, as its group is, shape (n,)."""
    is_train, is_test, is_open = _sides(images["split"])
    at = np.flatnonzero(is_test | is_train | is_open)
    rows = images.take(pa.array(at))
    chosen = np.zeros(images.num_rows, bool)
    chosen[at] = draw_groups(
        group_names(rows),
        rows["label"].to_pylist(),
        test_fraction=test_fraction,
        seed=seed,
        side=[None if is_open[row] else bool(is_test[row]) for row in at],
    )
    return chosen


def _sides(split: pa.ChunkedArray) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Whether each image is for training, for testing, not decided; shapes (n,)."""
    train, test = (np.asarray(pc.fill_null(pc.equal(split, side), False)) for side in (Split.TRAIN, Split.TEST))
    return train, test, np.asarray(pc.is_null(split))


def hold_out(
    paths: Sequence[str], labels: Sequence[str | None], seed: int, groups: Sequence[str | None] | None = None
) -> npt.NDArray[np.bool_]:
    """Draw a tenth of the training images to choose and calibrate classifiers on; True is held out, shape (n,).

    Of each label's images, ordered as people count (2 before 10), one stretch that follows on from a seeded start: what
    was photographed in a row stays together but for its two ends. Drawn one by one, most images would have a near twin
    among those that are fitted on, and everything would look better than it is. Of fewer than 600 images some 60 are
    drawn, up to three tenths. Where labels have few images, some of the labels give one.

    Args:
        paths: (n,) of training images.
        labels: (n,); images without a label are not drawn.
        seed: Another seed, another draw.
        groups: (n,) names of groups that stay on one side; None, as an element too: not known.
    """
    is_held = np.zeros(len(paths), bool)
    label = codes(pa.array(list(labels), pa.string()))
    is_labelled = np.array([name is not None for name in labels], bool)
    fraction = min(_MOST_HELD, max(_HELD, _LEAST_HELD / max(int(is_labelled.sum()), 1)))
    if groups is not None and any(group is not None for group in groups):
        at = np.flatnonzero(is_labelled)
        rows = pa.table({"path": pa.array(paths, pa.string()), "group": pa.array(groups, pa.string())}).take(
            pa.array(at)
        )
        known = [labels[row] for row in at.tolist()]
        names = group_names(rows)
        for share in np.linspace(fraction, _MOST_HELD, 5):  # whole groups may fall short of what is wanted
            is_held[at] = draw_groups(names, known, test_fraction=float(share), seed=seed)
            if is_held.sum() >= _LEAST_HELD:
                break
        return is_held
    order, owed = np.argsort(label, kind="stable"), 0.0
    of_labels = np.split(order, np.flatnonzero(np.diff(label[order])) + 1)
    # By name and path: the draw is the same in whatever order the images come.
    for rows in sorted((rows for rows in of_labels if is_labelled[rows].any()), key=lambda rows: str(labels[rows[0]])):
        inside = sorted(rows, key=lambda row: (_as_counted(paths[row]), paths[row]))
        start = int(seeded_hashes([str(labels[rows[0]])], seed)[0] % np.uint64(len(rows)))
        owed += fraction * len(rows)
        drawn = max(0, min(int(owed + 0.5), math.ceil(_MOST_HELD * len(rows)), len(rows) - 1))
        owed = min(owed - drawn, 1.0)
        is_held[np.roll(inside, -start)[:drawn]] = True
    return is_held


def _as_counted(path: str) -> list[tuple[int, str]]:
    """Return a key that sorts paths as people count: 2 before 10."""
    parts = re.split(r"([0-9]+)", path)
    return [(int(part), "") if index % 2 else (0, part) for index, part in enumerate(parts)]
