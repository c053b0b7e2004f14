"""A seeded order of images, and the selection of those that a run works on."""

import difflib
import hashlib
import unicodedata
from collections.abc import Collection, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from orchard.errors import InputError
from orchard.vocabulary import Split


def seeded_hashes(paths: Sequence[str] | pa.ChunkedArray, seed: int, purpose: str = "") -> npt.NDArray[np.uint64]:
    """Return a pseudo-random number for each path, (n,), that depends on nothing but seed, purpose and path.

    Args:
        paths: (n,).
        seed: of the run, or a constant.
        purpose: what the numbers are for; empty for the split and for `--limit`. A sample of what another draw has
            left needs numbers of its own: images with the lowest of the split's numbers are test images, so a tenth of
            the training images, drawn by the same numbers, would be empty.
    """
    names = paths.to_pylist() if isinstance(paths, pa.ChunkedArray | pa.Array) else paths
    start = hashlib.blake2b(f"{seed} {purpose}\n".encode() if purpose else f"{seed}\n".encode(), digest_size=8)
    digests = bytearray()
    for name in names:
        one = start.copy()
        one.update(name.encode())
        digests += one.digest()
    return np.frombuffer(digests, dtype="<u8")


def drawn(paths: Sequence[str] | pa.ChunkedArray, share: float, seed: int, purpose: str) -> npt.NDArray[np.bool_]:
    """Return which paths are in a sample of about a share of all, (n,); further arguments as in `seeded_hashes`."""
    return seeded_hashes(paths, seed, purpose) < share * 2.0**64


def ranks(
    groups: npt.NDArray[np.integer], hashes: npt.NDArray[np.uint64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Each row's rank by hash within its group, from 0, and its group's size; both shape (n,)."""
    order = np.lexsort((hashes, groups))
    ordered = groups[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]]) if len(ordered) else np.empty(0, int)
    sizes = np.diff(np.r_[starts, len(ordered)])
    rank, size = np.empty(len(ordered), np.int64), np.empty(len(ordered), np.int64)
    rank[order] = np.arange(len(ordered)) - np.repeat(starts, sizes)
    size[order] = np.repeat(sizes, sizes)
    return rank, size


def codes(column: pa.ChunkedArray | pa.Array) -> npt.NDArray[np.int64]:
    """An integer for each distinct string, null included; shape (n,)."""
    column = pc.fill_null(column, "\0")
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    encoded = column.dictionary_encode()
    return np.asarray(encoded.indices, dtype=np.int64)


def with_labels(listing: pa.Table, labels: Collection[str]) -> pa.Table:
    """The rows of these labels. Raises InputError for a label that the listing has not."""
    labels = [unicodedata.normalize("NFC", label) for label in labels]
    present = [label for label in pc.unique(listing["label"]).to_pylist() if label is not None]
    for label in labels:
        if label not in present:
            folded = {name.casefold(): name for name in present}
            near = [folded[name] for name in difflib.get_close_matches(label.casefold(), folded, n=3)]
            hint = f"did you mean {' or '.join(map(repr, near))}?" if near else _some(present)
            raise InputError(f"no image of the source has the label {label!r}: {hint}")
    return listing.filter(pc.is_in(listing["label"], pa.array(labels, pa.string())))


def _some(labels: list[str]) -> str:
    shown = ", ".join(sorted(labels)[:5])
    return f"its {len(labels)} labels are {shown}{', ...' if len(labels) > 5 else '.'}"


def sample(listing: pa.Table, limit: int, seed: int) -> pa.Table:
    """At most ``limit`` rows, in the listing's order, shared out by label and split in proportion.

    The same seed chooses the same rows. As far as the limit allows, every label keeps an image, and every split
    of every label.
    """
    if listing.num_rows <= limit:
        return listing
    hashes = seeded_hashes(listing["path"], seed)
    label = codes(listing["label"])
    is_test = np.asarray(pc.fill_null(pc.equal(listing["split"], Split.TEST), False))
    split = codes(listing["split"])
    rank, size = ranks(label * (split.max() + 1) + split, hashes)
    # The k-th of n rows stands at (k + 1/2) / n, so that any first rows hold each stratum's share ...
    position = (rank + 0.5) / size
    # ... but the first row of each stratum goes before those, and one of each label before all.
    position[rank == 0] = -1
    first = np.flatnonzero(rank == 0)
    first = first[np.lexsort((hashes[first], is_test[first], label[first]))]
    position[first[np.r_[True, label[first][1:] != label[first][:-1]]]] = -2
    chosen = np.lexsort((hashes, position))[:limit]
    return listing.take(pa.array(np.sort(chosen)))
