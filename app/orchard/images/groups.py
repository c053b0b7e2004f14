"""Groups of images that belong together: from a manifest's column, a pattern of paths, or consecutive names."""

import re
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from orchard.errors import UsageError
from orchard.images.selection import seeded_hashes
from orchard.layout import Grouping, GroupSource

FRAMES = "frames"
"""The value of ``--group-by`` that has consecutive frames guessed from the numbers in files' names."""
# Consecutive frames of one sequence in a group: of a turntable's 330 frames, a twelfth of a turn.
FRAMES_PER_GROUP = 27
_NUMBERS = re.compile(r"\d+")
_EXAMPLES = 2
_PATHS = 3


def groups_of(group_by: str, paths: Sequence[str], labels: Sequence[str | None]) -> pa.Array:
    """Return the group of each image, string, shape (n,); null for an image without a group.

    Args:
        group_by: `FRAMES`, or a regular expression whose first group, or else whole match, in a path is the name of
            its group.
        paths: of the images.
        labels: of the images.

    Raises:
        UsageError: `group_by` is no regular expression, or finds nothing in any path.
    """
    if group_by == FRAMES:
        return pa.array(frame_names(paths, labels), pa.string())
    try:
        pattern = re.compile(group_by)
    except re.error as error:
        raise UsageError(
            f"--group-by {group_by!r} is no column of a manifest, and no regular expression ({error}): correct it."
        ) from None
    found = [pattern.search(path) for path in paths]
    names = [match and ((match[1] if pattern.groups else match[0]) or None) for match in found]
    if names and not any(names):
        raise UsageError(
            f"--group-by {group_by!r} is no column of a manifest, and as a regular expression it finds nothing in any "
            f"path, such as {paths[0]}: correct it."
        )
    return pa.array(names, pa.string())


def regrouped(images: pa.Table, groups: pa.Array) -> pa.Table:
    """Return the images with their column ``group`` replaced."""
    return images.set_column(images.schema.get_field_index("group"), images.schema.field("group"), groups)


def group_names(images: pa.Table) -> list[str]:
    """Return a name for each image's group, shape (n,); an image without a group gets a name of its own.

    Args:
        images: ``path, group``.
    """
    # Without slashes, which make groups follow each other.
    return [
        group if group is not None else "\0" + path.replace("/", "\0")
        for group, path in zip(images["group"].to_pylist(), images["path"].to_pylist(), strict=True)
    ]


def describe(group_by: str, images: pa.Table, *, from_column: bool) -> Grouping:
    """Return what a report says about groups: their origin, their number, and two examples.

    Args:
        group_by: the setting.
        images: ``path, group``.
        from_column: whether a manifest named them.
    """
    source = GroupSource.COLUMN if from_column else GroupSource.FRAMES if group_by == FRAMES else GroupSource.PATTERN
    counts = pc.value_counts(images["group"].drop_null().combine_chunks())
    sizes = {row["values"]: row["counts"] for row in counts.to_pylist()}
    largest = sorted(sizes, key=lambda name: (-sizes[name], name))[:_EXAMPLES]
    shown = images.filter(pc.is_in(images["group"], pa.array(largest, pa.string()))).sort_by("path")
    rows = list(zip(shown["group"].to_pylist(), shown["path"].to_pylist(), strict=True))
    return Grouping(
        by=group_by,
        source=source,
        groups=len(sizes),
        ungrouped=images["group"].null_count,
        examples=[
            {"name": name, "images": sizes[name], "paths": [path for group, path in rows if group == name][:_PATHS]}
            for name in largest
        ],
    )


def straddles(images: pa.Table) -> bool:
    """Whether a group has images on both sides of the split.

    Args:
        images: ``split, group``.
    """
    grouped = images.filter(pc.is_valid(images["group"]))
    train, test = (pc.unique(grouped.filter(pc.equal(grouped["split"], split))["group"]) for split in ("train", "test"))
    return bool(pc.any(pc.is_in(test, train)).as_py())


def draw_groups(
    groups: Sequence[str],
    labels: Sequence[str | None],
    *,
    test_fraction: float,
    seed: int,
    side: Sequence[bool | None] | None = None,
) -> npt.NDArray[np.bool_]:
    """Draw whole groups for testing; True is test, shape (n,).

    Groups are looked at in an order by hash of seed and name, and one is taken if that brings the labels nearer to
    ``test_fraction`` of their images, in sum. A label that got none gets its smallest group. Every label keeps an
    image for training. Groups whose names differ only after the last slash, as those of consecutive frames do,
    follow each other from a seeded start: the fewer borders, the fewer images have their neighbour on the other
    side.

    Args:
        groups: (n,) names.
        labels: (n,); a group may have several.
        test_fraction: 0 to 1.
        seed: another seed, another draw.
        side: (n,) what has been decided before: True is test, None is open. A group that has a decided image is on
            its side, so the same groups are drawn whether a run was cut off in between or not.
    """
    members: dict[str, dict[str | None, int]] = {}
    decided: dict[str, bool] = {}
    for row, (name, label) in enumerate(zip(groups, labels, strict=True)):
        counts = members.setdefault(name, {})
        counts[label] = counts.get(label, 0) + 1
        known = side[row] if side is not None else None
        if known is not None:
            decided.setdefault(name, known)
    total: dict[str | None, int] = {}
    for counts in members.values():
        for label, images in counts.items():
            total[label] = total.get(label, 0) + images
    wanted = {label: test_fraction * images for label, images in total.items()}
    taken = dict.fromkeys(total, 0)
    in_test: set[str] = set()

    def take(name: str) -> None:
        in_test.add(name)
        for label, images in members[name].items():
            taken[label] += images

    def leaves_training(name: str) -> bool:
        return all(taken[label] + images < total[label] for label, images in members[name].items())

    order = _order(list(members), seed)
    for name in order:
        nearer = sum(
            abs(wanted[label] - taken[label]) - abs(wanted[label] - taken[label] - images)
            for label, images in members[name].items()
        )
        if decided[name] if name in decided else nearer > 0 and leaves_training(name):
            take(name)
    for name in sorted(order, key=lambda name: sum(members[name].values())):
        is_open = name not in in_test and name not in decided and leaves_training(name)
        if is_open and test_fraction > 0 and any(not taken[label] for label in members[name]):
            take(name)
    return np.array([name in in_test for name in groups], bool)


def _order(names: list[str], seed: int) -> list[str]:
    """The names in the order in which they are drawn."""
    series: dict[str, list[str]] = {}
    for name in sorted(names):
        head, slash, _ = name.rpartition("/")
        series.setdefault(head if slash else name, []).append(name)
    heads = list(series)
    hashes = dict(zip(heads, seeded_hashes(heads, seed).tolist(), strict=True))
    order: list[str] = []
    for head in sorted(heads, key=lambda head: (hashes[head], head)):
        start = hashes[head] % len(series[head])
        order += series[head][start:] + series[head][:start]
    return order


def frame_names(paths: Sequence[str], labels: Sequence[str | None], frames: int = FRAMES_PER_GROUP) -> list[str | None]:
    """Names of groups of near-identical images: consecutive frames of the same video or turntable; shape (n,).

    A sequence is all files of one label whose names are equal but for the frame number, whichever folder of the
    splits they are in: ``Training/Plum/r0_7_100.jpg`` and ``Test/Plum/r0_8_100.jpg`` are neighbours. The frame
    number is the number in the name that takes the most values in that label; ``_100`` in Fruits-360, the size,
    takes one. A sequence is cut into equal runs of at most ``frames`` frames. A file without a number, or alone
    in its sequence, is of no group. A group is called after label, sequence and its first frame, such as
    ``Plum/r0_#_100/000027``.
    """
    names = [path.rsplit("/", maxsplit=1)[-1].rsplit(".", maxsplit=1)[0] for path in paths]
    numbers = [_NUMBERS.findall(name) for name in names]
    # label and shape of the name (its text with every number left out) -> rows
    shapes: dict[tuple[str | None, str], list[int]] = {}
    for row, name in enumerate(names):
        shapes.setdefault((labels[row], _NUMBERS.sub("\0", name)), []).append(row)

    groups: list[str | None] = [None] * len(names)
    for (label, _), rows in shapes.items():
        width = len(numbers[rows[0]])
        values = [{numbers[row][place] for row in rows} for place in range(width)]
        # Of equals the last, as in scene2_frame17.
        frame = max(range(width), key=lambda place: (len(values[place]), place), default=None)
        if frame is None:
            continue
        sequences: dict[tuple[str, ...], list[int]] = {}
        for row in rows:
            others = numbers[row][:frame] + numbers[row][frame + 1 :]
            sequences.setdefault(tuple(others), []).append(row)
        for sequence in sequences.values():
            if len(sequence) == 1:
                continue
            sequence.sort(key=lambda row: (int(numbers[row][frame]), paths[row]))
            places = iter(range(width))
            shape = _NUMBERS.sub(lambda found: "#" if next(places) == frame else found[0], names[sequence[0]])  # noqa: B023
            n_runs = -(-len(sequence) // frames)
            runs = np.arange(len(sequence)) * n_runs // len(sequence)
            firsts = [int(numbers[sequence[int(np.searchsorted(runs, run))]][frame]) for run in range(n_runs)]
            for row, run in zip(sequence, runs.tolist(), strict=True):
                # The run's number tells apart those that begin with the same frame, as of Training and Test.
                groups[row] = f"{label or ''}/{shape}/{run:06d} from {firsts[run]}"
    return groups
