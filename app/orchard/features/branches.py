"""A network whose last blocks are there several times, each time with weights of their own: an ensemble with one trunk.

Networks that differ in the seed of their training err on different images, so their mean errs less often than one of
them does. Most of an image's time goes into the first blocks, which they can have in common (Lee et al. 2015, "Why M
Heads are Better than One: Training a Diverse Ensemble of Deep Networks", https://arxiv.org/abs/1511.06314).

The branches' features stand side by side, so the mean of linear classifiers, one on each branch, is a linear classifier
again. A file of weights says how many branches it has, and where they begin.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import keras

_NUMBER, _AFTER = "orchard_branches", "orchard_branches_after"


class Branches(NamedTuple):
    """How many there are, two at least, and the layer of the trunk after which they begin."""

    number: int
    after: str


def branched(network: keras.Model, branches: Branches) -> tuple[keras.Model, list[keras.Model]]:
    """Return `network` with branches, and these.

    It shares its trunk with `network`. The branches have the weights that the blocks of `network` have.

    Args:
        network: without a classifier; its last layer takes the average over its last grid.
        branches: at least two.

    Returns:
        From what `network` takes to (n, number x n_features); from the layer `Branches.after` to the last grid.
    """
    import keras

    trunk, pool = network.get_layer(branches.after).output, network.layers[-1]
    blocks = keras.Model(trunk, pool.input)
    parts = []
    for number in range(branches.number):
        part = keras.models.clone_model(blocks)
        part.name = f"branch{number}"
        part.set_weights(blocks.get_weights())
        parts.append(part)
    channels = 1 if keras.config.image_data_format() == "channels_first" else -1
    grid = keras.layers.Concatenate(channels, name="branches")([part(trunk) for part in parts])
    averaged = keras.layers.GlobalAveragePooling2D(name=pool.name)(grid)
    return keras.Model(network.input, averaged, name=network.name), parts


def save(network: keras.Model, path: Path, branches: Branches) -> None:
    """Write the weights of a network of `branched`; `path` ends in ``.weights.h5``."""
    import h5py

    network.save_weights(path)
    with h5py.File(path, "r+") as file:
        file.attrs[_NUMBER], file.attrs[_AFTER] = branches.number, branches.after


def branches_of(path: Path) -> Branches | None:
    """Return the branches of the network that the weights in `path` are of; None: it has none."""
    import h5py

    if not h5py.is_hdf5(path):
        return None
    with h5py.File(path) as file:
        found = file.attrs.get(_NUMBER), file.attrs.get(_AFTER)
    return Branches(int(found[0]), str(found[1])) if None not in found else None


def parameters_in(path: Path) -> int:
    """Return how many numbers a file of weights has that Keras saved."""
    import h5py

    found = 0

    def count(_: str, item: object) -> None:
        nonlocal found
        found += item.size if isinstance(item, h5py.Dataset) else 0

    with h5py.File(path) as file:
        file.visititems(count)
    return found
