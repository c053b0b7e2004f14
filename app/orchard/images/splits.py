"""Which images train and which test: seeded, stratified by label, stable as images are added."""

import math
import re
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from orchard.images.selection import codes, ranks, seeded_hashes
from orchard.layout import LISTING, Split

# Consecutive frames of one sequence in a group: of a turntable's 330 frames, a twelfth of a turn.
FRAMES_PER_GROUP = 27
_NUMBERS = re.compile(r"\d+")

_HELD, _MOST_HELD = 0.1, 0.3
"""Share of the training images that is held out, and what it may grow to where there are few."""
_LEAST_HELD = 60
"""Images held out, if there are as many: fewer say too little."""


def assign_splits(new: pa.Table, done: pa.Table | None, *, test_fraction: float, seed: int) -> pa.Table:
    """Give every image of a listing that has no split one.

    For each label, of all train and test images, done and new together, ``round(test_fraction * n)`` are to
    test: the missing ones are the new images of the lowest hash of seed and path. So a run that was cut off and
    goes on assigns as one that was not, and what was assigned stays. A label's only image is for training.

    Args:
        new: Schema `LISTING`; rows with a split keep it.
        done: ``path, label, split`` of the images that have been worked on. A null split means that the image was
            rejected: it takes part in the ranking, as it did before it was known to be broken.
        test_fraction: 0 to 1.
        seed: Another seed, another draw.

    Returns:
        ``new``, in its order, without nulls in ``split``.
    """
    columns = ["path", "label", "split"]
    everything = new.select(columns)
    if done is not None:
        everything = pa.concat_tables([everything, done.select(columns).cast(everything.schema)])
    split = everything["split"]
    label = codes(everything["label"])
    n_labels = int(label.max(initial=-1)) + 1
    is_test = np.asarray(pc.fill_null(pc.equal(split, Split.TEST), False))
    is_train = np.asarray(pc.fill_null(pc.equal(split, Split.TRAIN), False))
    is_open = np.asarray(pc.is_null(split))

    n_images = np.bincount(label[is_test | is_train | is_open], minlength=n_labels)
    wanted = np.minimum(np.floor(test_fraction * n_images + 0.5), np.maximum(n_images - 1, 0))
    missing = wanted - np.bincount(label[is_test], minlength=n_labels)

    at = np.flatnonzero(is_open)
    rank, _ = ranks(label[at], seeded_hashes(everything["path"].take(pa.array(at)), seed))
    chosen = np.zeros(len(label), bool)
    chosen[at] = rank < missing[label[at]]
    drawn = pa.array(np.where(chosen, str(Split.TEST), str(Split.TRAIN))[: new.num_rows], pa.string())
    filled = pc.coalesce(new["split"], drawn)
    return new.set_column(new.schema.get_field_index("split"), LISTING.field("split"), filled)


def frame_groups(
    paths: Sequence[str], labels: Sequence[str | None], frames: int = FRAMES_PER_GROUP
) -> npt.NDArray[np.int64]:
    """Groups of near-identical images: consecutive frames of the same video or turntable.

    A sequence is all files of one label whose names are equal but for the frame number, whichever folder of the
    splits they are in: ``Training/Plum/r0_7_100.jpg`` and ``Test/Plum/r0_8_100.jpg`` are neighbours. The frame
    number is the number in the name that takes the most values in that label; ``_100`` in Fruits-360, the size,
    takes one. A sequence is cut into equal runs of at most ``frames`` frames. A file without a number, or alone
    in its sequence, is a group of its own.

    Returns:
        A number for each path, shape (n,), int64; groups of a sequence follow each other in frame order.
    """
    names = [path.rsplit("/", maxsplit=1)[-1].rsplit(".", maxsplit=1)[0] for path in paths]
    numbers = [_NUMBERS.findall(name) for name in names]
    # label and shape of the name (its text with every number left out) -> rows
    shapes: dict[tuple[str | None, str], list[int]] = {}
    for row, name in enumerate(names):
        shapes.setdefault((labels[row], _NUMBERS.sub("\0", name)), []).append(row)

    groups = np.empty(len(names), np.int64)
    n_groups = 0
    for key in sorted(shapes, key=str):
        rows = shapes[key]
        width = len(numbers[rows[0]])
        values = [{numbers[row][place] for row in rows} for place in range(width)]
        # Of equals the last, as in scene2_frame17.
        frame = max(range(width), key=lambda place: (len(values[place]), place), default=None)
        if frame is None:
            groups[rows] = np.arange(n_groups, n_groups + len(rows))
            n_groups += len(rows)
            continue
        sequences: dict[tuple[str, ...], list[int]] = {}
        for row in rows:
            others = numbers[row][:frame] + numbers[row][frame + 1 :]
            sequences.setdefault(tuple(others), []).append(row)
        for others_key in sorted(sequences):
            sequence = sorted(sequences[others_key], key=lambda row: (int(numbers[row][frame]), paths[row]))
            n_runs = -(-len(sequence) // frames)
            groups[sequence] = n_groups + np.arange(len(sequence)) * n_runs // len(sequence)
            n_groups += n_runs
    return groups


def group_split(
    groups: npt.NDArray[np.integer], labels: Sequence[str | None], test_fraction: float, seed: int
) -> npt.NDArray[np.bool_]:
    """Draw whole groups for testing, label by label; True is test, shape (n,).

    Of each label's groups, in order, one stretch that follows on from a seeded start is taken, until it is as
    near to ``test_fraction`` of the label's images as whole groups allow: the fewer borders, the fewer frames
    have their neighbour on the other side. A label keeps at least one group for training.
    """
    groups = np.asarray(groups)
    is_test = np.zeros(len(groups), bool)
    label = codes(pa.array(list(labels), pa.string()))
    for code in range(int(label.max(initial=-1)) + 1):
        rows = np.flatnonzero(label == code)
        names, counts = np.unique(groups[rows], return_counts=True)
        if len(names) < 2:
            continue
        key = str(labels[rows[0]])
        start = int(seeded_hashes([key], seed)[0] % np.uint64(len(names)))
        taken = np.cumsum(np.roll(counts, -start))[:-1]
        n_taken = int(np.abs(np.r_[0, taken] - test_fraction * len(rows)).argmin())
        if test_fraction > 0:
            n_taken = max(n_taken, 1)
        is_test[rows] = np.isin(groups[rows], np.roll(names, -start)[:n_taken])
    return is_test


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
        names = [group if group is not None else f"\0{path}" for group, path in zip(groups, paths, strict=True)]
        is_held = group_split(codes(pa.array(names, pa.string())), labels, fraction, seed)
        is_held &= is_labelled
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
