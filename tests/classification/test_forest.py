"""Promises of the forest: scikit-learn's answers, from arrays without pickles, and the same again."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray
from sklearn.tree import ExtraTreeClassifier

from orchard import interruption
from orchard.classification import forest
from orchard.classification.forest import TREES, Forest, grow
from orchard.classification.rows import Rows
from orchard.datasets import list_column
from orchard.files import DataFile
from orchard.images.splits import assign_splits
from orchard.layout import LISTING
from orchard.reduction.statistics import Role

LABELS = ["apple", "lemon", "plum"]
rng = np.random.default_rng(0)
CLASSES = rng.integers(0, 3, 400)
VALUES = (rng.normal(size=(3, 6))[CLASSES] * 2 + rng.normal(size=(400, 6))).astype(np.float32)
ROLES = np.repeat(np.array([Role.FIT, Role.HELD_OUT, Role.NONE], np.int8), [250, 50, 100])


def rows(values: NDArray[np.float32] = VALUES, classes: NDArray[np.integer] = CLASSES, *, last: int = 0) -> Rows:
    """Return rows in batches, from batch `last` on."""

    def read(_: DataFile) -> Iterator[tuple[pa.RecordBatch, NDArray[np.int8]]]:
        for start in np.roll(range(0, len(values), 64), -last).tolist():
            part = slice(start, start + 64)
            columns = {
                "path": pa.array([f"{i}.jpg" for i in range(len(values))][part]),
                "label": pa.array([LABELS[i] for i in classes[part]]),
                "pca_features": list_column(values[part]),
            }
            yield pa.record_batch(columns), ROLES[part]

    return Rows([DataFile("reduced/one", len(values))], read)


def test_a_forest_that_grows_ends_when_the_command_is_to_end(monkeypatch: pytest.MonkeyPatch) -> None:
    grown = []

    def check() -> None:
        grown.append(1)
        if len(grown) > 5:
            raise KeyboardInterrupt

    monkeypatch.setattr(interruption, "check", check)
    with pytest.raises(KeyboardInterrupt):
        grow(rows(), 300, LABELS, seed=3, memory=2**29)


def test_it_answers_as_the_trees_that_it_was_made_of(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[ExtraTreeClassifier] = []
    plain = forest._plain

    def noted(tree: ExtraTreeClassifier) -> object:
        made.append(tree)
        return plain(tree)

    monkeypatch.setattr(forest, "_plain", noted)
    # Two equal rows of two labels end in one leaf, which is sure of neither.
    values, classes = VALUES.copy(), CLASSES.copy()
    values[1], classes[:2] = values[0], [0, 1]
    grown, lack = grow(rows(values, classes), 300, LABELS, seed=3, memory=2**29)
    assert grown and lack is None and len(made) == TREES
    expected = np.mean([tree.predict_proba(values) for tree in made], axis=0)
    np.testing.assert_allclose(grown(values), expected, atol=1e-6)
    assert 0.4 < grown(values[:1])[0, 0] < 0.6
    again = Forest.from_bytes(grown.to_bytes())
    np.testing.assert_array_equal(again(values), grown(values))
    assert again.labels == ("apple", "lemon", "plum")


def test_a_row_that_weighs_more_has_more_to_say() -> None:
    """Two equal rows of two labels end in one leaf."""
    values, classes = VALUES.copy(), CLASSES.copy()
    values[1], classes[:2] = values[0], [0, 1]
    plain = rows(values, classes)

    def read(file: DataFile) -> Iterator[tuple[pa.RecordBatch, NDArray[np.int8]]]:
        for batch, roles in plain.read(file):
            is_first = pa.compute.equal(batch.column("path"), "0.jpg")
            weight = pa.compute.if_else(is_first, pa.scalar(9, pa.float32()), pa.scalar(1, pa.float32()))
            yield batch.append_column("weight", weight), roles

    grown, _ = grow(Rows(plain.files, read), 300, LABELS, seed=3, memory=2**29)
    assert grown and grown(values[:1])[0, 0] == pytest.approx(0.9, abs=0.05)


def test_nothing_of_test_rows_is_in_it_and_the_same_seed_grows_the_same() -> None:
    wrong = np.where(ROLES == Role.NONE, 0, CLASSES)
    one, other = (grow(rows(classes=c), 300, LABELS, seed=1, memory=2**29)[0] for c in (CLASSES, wrong))
    assert one and other and one.to_bytes() == other.to_bytes()
    assert (one(VALUES[ROLES != Role.NONE]).argmax(axis=1) == CLASSES[ROLES != Role.NONE]).all()
    assert (one(VALUES[ROLES == Role.NONE]).argmax(axis=1) == CLASSES[ROLES == Role.NONE]).mean() > 0.8


def test_trees_of_a_large_table_grow_on_samples_and_are_good_together(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, _ = grow(rows(), 300, LABELS, seed=1, memory=2**29)
    monkeypatch.setattr(forest, "TREE_ROWS", 60)
    monkeypatch.setattr(forest, "ROWS", 150)
    small, lack = grow(rows(), 300, LABELS, seed=1, memory=2**29)
    assert whole and small and lack is None
    moved, _ = grow(rows(last=3), 300, LABELS, seed=1, memory=2**29)
    assert moved and moved.to_bytes() == small.to_bytes(), "the order in which tasks ended changes it"
    assert len(small.features) <= 2 * 60 * TREES < len(whole.features) * 2
    assert (small(VALUES[ROLES == Role.NONE]).argmax(axis=1) == CLASSES[ROLES == Role.NONE]).mean() > 0.8


@pytest.mark.parametrize("seed", [0, 42])
def test_a_sample_is_drawn_from_all_that_the_split_has_left_for_training(seed: int) -> None:
    """By the split's own numbers the sample would be empty: images with the lowest fifth of them are for testing."""
    n, share = 2000, 0.15
    listing = pa.Table.from_pylist([{"path": f"{i}.jpg", "label": LABELS[0]} for i in range(n)], LISTING)
    split = assign_splits(listing, None, test_fraction=0.2, seed=seed)["split"].to_pylist()
    roles = np.array([Role.NONE if side == "test" else Role.FIT for side in split], np.int8)

    def read(_: DataFile) -> Iterator[tuple[pa.RecordBatch, NDArray[np.int8]]]:
        batch = pa.record_batch(
            {
                "path": listing["path"].combine_chunks(),
                "label": listing["label"].combine_chunks(),
                "pca_features": list_column(np.zeros((n, 2), np.float32)),
            }
        )
        yield batch, roles

    found, _, _ = forest._sample(Rows([DataFile("reduced/one", n)], read), LABELS, share, seed)
    assert len(found) == pytest.approx(share * (roles == Role.FIT).sum(), rel=0.2)


def test_labels_of_one_image_each_grow_without_a_word_of_the_library() -> None:
    """A run of few images printed a hundred warnings; in a process of its own, as pytest undoes the module's filter."""
    code = (
        "import test_forest as t\n"
        "t.LABELS = [f'{i:03}' for i in range(250)]\n"
        "grown, _ = t.grow(t.rows(classes=t.np.arange(400) % 250), 250, t.LABELS, seed=3, memory=2**29)\n"
        "assert grown"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stderr) == (0, "")
