"""Promises of what one pass leaves: sums that can be merged in any order, and kept in a file."""

from functools import reduce
from itertools import permutations

import numpy as np
import pytest

from orchard.reduction.statistics import ClassSums, Statistics, Sums

NAMES = ["plum", 'Granny "Smith"', "=Lady", "café #1", None]


def rows(n: int = 240, d: int = 6, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(3, 2, (n, d)).astype(np.float32)


def names(n: int, seed: int = 0) -> list[str | None]:
    return [NAMES[i] for i in np.random.default_rng(seed).integers(0, len(NAMES), n)]


def equal(one: Sums, other: Sums) -> None:
    for mine, theirs in ((one.moments, other.moments), (one.labelled, other.labelled)):
        assert mine.count == theirs.count
        np.testing.assert_allclose(mine.mean, theirs.mean, rtol=1e-12)
        np.testing.assert_allclose(mine.scatter, theirs.scatter, rtol=1e-9, atol=1e-9)
    assert one.columns.keys() == other.columns.keys()
    for column, classes in one.columns.items():
        assert classes.names == other.columns[column].names
        assert classes.counts.tolist() == other.columns[column].counts.tolist()
        np.testing.assert_allclose(classes.sums, other.columns[column].sums, rtol=1e-12)


def test_each_class_has_its_rows_and_their_sum_and_rows_of_none_are_in_no_class() -> None:
    data, labels = rows(), names(240)
    found = ClassSums.of(data, labels)
    assert list(found.names) == sorted(name for name in NAMES if name is not None)
    for name, count, total in zip(found.names, found.counts, found.sums, strict=True):
        mine = data[[label == name for label in labels]].astype(np.float64)
        assert count == len(mine) > 0
        np.testing.assert_allclose(total, mine.sum(axis=0), rtol=1e-12)
    assert found.counts.sum() == sum(label is not None for label in labels) < 240


def test_parts_with_other_classes_in_any_order_come_to_the_sums_of_all() -> None:
    data = rows()
    labels = [*["b", "a"] * 30, *[None] * 60, *["c"] * 60, *["a", None, "d"] * 20]
    kinds = [None if label is None else label.upper() for label in labels[::-1]]
    whole = Sums.of(data, {"label": labels, "kind": kinds})
    parts = [
        Sums.of(data[at : at + 60], {"label": labels[at : at + 60], "kind": kinds[at : at + 60]})
        for at in range(0, 240, 60)
    ]
    for order in permutations(parts):
        equal(reduce(Sums.merge, order), whole)
    assert (whole.moments.count, whole.labelled.count) == (240, 160)
    assert whole.columns["kind"].names == ("A", "B", "C", "D")


def test_a_column_has_the_moments_of_the_rows_with_a_value_in_it() -> None:
    data, labels = rows(), [*["a", "b"] * 100, *[None] * 40]
    ripeness = [None if row % 3 == 0 else "ripe" if row % 2 else "raw" for row in range(240)]
    columns = {"label": labels, "ripeness": ripeness, "variety": labels[::-1][::-1]}
    parts = [
        Sums.of(data[at : at + 80], {name: values[at : at + 80] for name, values in columns.items()})
        for at in range(0, 240, 80)
    ]
    whole = reduce(Sums.merge, parts)
    assert whole.of_column("label") is whole.labelled
    assert whole.of_column("variety") is whole.labelled, "columns of the same rows share what is large"
    statistics = Statistics.from_bytes(Statistics(whole).to_bytes())
    has_value = np.array([value is not None for value in ripeness])
    expected = Sums.of(data[has_value], {"label": [value for value in ripeness if value]})
    for found in (whole, statistics.fit):
        moments = found.of_column("ripeness")
        assert moments.count == 160 == found.columns["ripeness"].counts.sum()
        np.testing.assert_allclose(moments.scatter, expected.moments.scatter, rtol=1e-9, atol=1e-9)
        assert found.labelled.count == 200
    assert statistics.fit.of_column("variety") is statistics.fit.labelled


def test_a_row_that_weighs_three_counts_as_three_rows_and_one_that_weighs_nothing_not_at_all() -> None:
    data, labels = rows(), names(240)
    heavy, light = np.arange(0, 60), np.arange(60, 100)

    def of(at: np.ndarray) -> Sums:
        return Sums.of(data[at], {"label": [labels[i] for i in at], "ripeness": ["raw" if i % 2 else None for i in at]})

    changes = of(heavy).scaled(3 - 1).merge(of(light).scaled(-1))
    statistics = Statistics.from_bytes(Statistics(of(np.arange(240)), fit_weights=changes).to_bytes())
    expected = of(np.r_[np.repeat(heavy, 3), np.arange(100, 240)])
    equal(statistics.fit_seen, Sums(expected.labelled, expected.labelled, expected.columns))
    mine, theirs = (sums.of_column("ripeness") for sums in (statistics.fit_seen, expected))
    assert mine.count == theirs.count == 160
    np.testing.assert_allclose(mine.scatter, theirs.scatter, rtol=1e-9, atol=1e-9)
    assert statistics.everything.labelled.count < statistics.everything_seen.labelled.count, "others see each row once"


def test_no_rows_merge_with_some() -> None:
    data, labels = rows(20), names(20)
    some, none = Sums.of(data, {"label": labels}), Sums.of(data[:0], {"label": []})
    equal(some.merge(none), some)
    equal(none.merge(some), some)


def test_a_file_keeps_what_classifiers_need_which_is_the_labelled_rows() -> None:
    data, labels = rows(), names(240)
    fit, held_out = Sums.of(data[:180], {"label": labels[:180]}), Sums.of(data[180:], {"label": labels[180:]})
    found = Statistics.from_bytes(Statistics(fit, held_out).to_bytes())
    assert found.held_out is not None
    for mine, theirs in ((found.fit, fit), (found.held_out, held_out)):
        assert mine.labelled.count == theirs.labelled.count < theirs.moments.count
        equal(mine, Sums(theirs.labelled, theirs.labelled, theirs.columns))
    everything = Sums.of(data, {"label": labels})
    equal(found.everything, Sums(everything.labelled, everything.labelled, everything.columns))


def test_without_held_out_rows_the_file_says_so() -> None:
    statistics = Statistics.from_bytes(Statistics(Sums.of(rows(9), {"label": names(9)})).to_bytes())
    assert statistics.held_out is None
    assert statistics.everything is statistics.fit


def test_a_file_of_something_else_is_an_error() -> None:
    with pytest.raises(ValueError, match="pickled"):
        Statistics.from_bytes(b"no arrays")
