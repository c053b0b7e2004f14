"""Neighbours are the true ones, whatever the blocks; cells hold near ones together."""

import numpy as np
import pytest

from orchard.neighbours import search
from orchard.neighbours.search import Nearest, centres, probed
from orchard.neighbours.space import Space


def _unit(rows: int, width: int = 16, seed: int = 0) -> np.ndarray:
    found = np.random.default_rng(seed).normal(size=(rows, width)).astype(np.float32)
    unit: np.ndarray = found / np.linalg.norm(found, axis=1, keepdims=True)
    return unit


@pytest.mark.parametrize("block", [7, 64, 4096])
def test_the_search_finds_what_a_full_sort_does(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "BLOCK_ROWS", block)
    base, labels = _unit(300), np.arange(300) % 7
    queries, itself = np.concatenate([base[:50], _unit(30, seed=1)]), np.r_[np.arange(50), np.full(30, -1)]
    query_labels = np.r_[labels[:50], np.full(30, 3)]
    nearest = Nearest.none(80)
    for half in (slice(0, 120), slice(120, 300)):
        nearest.meet(queries, base[half], np.arange(300)[half], itself=itself, labels=query_labels,
                     base_labels=labels[half])  # fmt: skip
    similarity = queries @ base.T
    similarity[np.arange(50), np.arange(50)] = -np.inf
    order = np.argsort(-similarity, axis=1)[:, : search.NEAREST]
    assert (nearest.rows == order).all()
    np.testing.assert_allclose(nearest.similarities, np.take_along_axis(similarity, order, axis=1), rtol=1e-5)
    similarity[query_labels[:, None] == labels] = -np.inf
    np.testing.assert_allclose(nearest.other, similarity.max(axis=1), rtol=1e-5)


@pytest.mark.parametrize("columns", [1, 2, 5, 6, 7, 30, 64, 101, 1024])
def test_the_largest_are_those_of_a_full_sort(columns: int) -> None:
    random = np.random.default_rng(columns)
    values = random.normal(size=(200, columns)).astype(np.float32).round(1)  # many are equal
    values[random.random(values.shape) < 0.3] = -np.inf
    rows = np.flatnonzero(random.random(200) < 0.5)
    found, at = search._largest(values, rows, search._highest(values, 5)[rows], 5)
    k = min(5, columns)
    np.testing.assert_array_equal(np.sort(found)[:, ::-1][:, :k], np.sort(values[rows])[:, ::-1][:, :k])
    is_one = np.isfinite(found)
    np.testing.assert_array_equal(found[is_one], values[rows[:, None], at][is_one])
    assert all(len(set(row[one])) == one.sum() for row, one in zip(at, is_one, strict=True)), "none twice"


def test_few_rows_leave_places_empty_and_rows_without_label_have_no_other() -> None:
    nearest = Nearest.none(2)
    base = _unit(2)
    nearest.meet(base, base, np.array([4, 9]), itself=np.array([4, 9]), labels=np.array([-1, 0]),
                 base_labels=np.array([-1, 0]))  # fmt: skip
    assert nearest.rows.tolist() == [[9, -1, -1, -1, -1], [4, -1, -1, -1, -1]]
    assert np.isneginf(nearest.other).all()


def test_cells_gather_what_is_near_and_none_is_empty() -> None:
    scenes = _unit(40, seed=2)
    rows = np.repeat(scenes, 50, axis=0) + np.random.default_rng(3).normal(size=(2000, 16)).astype(np.float32) * 0.02
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    found = centres(rows, 20, seed=0)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-5)
    cells = probed(rows, found, probes=3)
    assert np.unique(cells[:, 0]).size == 20
    assert (cells[:, 0] == (rows @ found.T).argmax(axis=1)).all()
    together = [np.unique(cells[start : start + 50, 0]).size == 1 for start in range(0, 2000, 50)]
    assert np.mean(together) > 0.8
    assert probed(rows[:5], found[:2]).shape == (5, 2)


def test_the_space_keeps_the_cosines_of_what_varies() -> None:
    basis = _unit(6, width=64, seed=4)
    rows = np.abs(np.random.default_rng(5).normal(size=(200, 6))).astype(np.float32) @ basis
    space = Space.of(rows, directions=6)
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    np.testing.assert_allclose(space(rows) @ space(rows).T, unit @ unit.T, atol=1e-4)
    assert (space(np.zeros((1, 64), np.float32)) == 0).all()


def test_the_space_of_few_rows_does_not_depend_on_their_order() -> None:
    rows, others = np.abs(_unit(30, width=64, seed=6)), np.abs(_unit(10, width=64, seed=7))
    rows = np.concatenate([rows, rows[:5]])
    before, after = (space(others) @ space(rows).T for space in (Space.of(rows, 40), Space.of(rows[::-1], 40)))
    np.testing.assert_allclose(before, after, atol=1e-5)
    assert Space.of(np.zeros((2, 64), np.float32))(rows).any(), "of nothing but zeros any space will do"
