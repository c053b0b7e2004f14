"""Promises of the leak figures."""

import pyarrow as pa

from orchard.classification.leak import find_leak


def test_twins_are_counted_once_for_each_image() -> None:
    images = [  # path, split, digest
        ("a", "train", "1"),
        ("b", "train", "1"),
        ("c", "test", "1"),  # a twin in train
        ("d", "test", "2"),
        ("e", "test", "2"),  # a twin, but in test
        ("f", "train", "3"),
        ("g", "validation", "3"),  # a twin, but not of a test image
        ("h", "test", "4"),
        ("i", "test", None),
        ("j", "train", None),  # unknown bytes are nobody's twin
    ]
    paths, splits, digests = zip(*images, strict=True)
    assert find_leak(pa.table({"path": paths, "split": splits, "digest": digests})) == {
        "test_rows": 5,
        "test_rows_with_twin_in_train": 1,
        "duplicate_rows": 7,
    }


def test_without_test_images_all_is_zero() -> None:
    none = pa.table({name: pa.array([], pa.string()) for name in ("path", "split", "digest")})
    assert set(find_leak(none).values()) == {0}
