"""Promises of the leak figures."""

import pyarrow as pa

from orchard.classification.leak import conflict_warnings, find_leak, label_conflicts


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


def test_the_same_bytes_under_two_labels_are_named() -> None:
    images = [  # path, label, digest
        ("a", "Apple", "1"),
        ("b", "Pear", "1"),
        ("c", "Apple", "1"),
        ("d", "Kiwi", "2"),
        ("e", "Kiwi", "2"),  # twins of one label
        ("f", None, "3"),
        ("g", "Kiwi", "3"),  # one of them has none
        ("h", "Kiwi", None),
        ("i", "Pear", None),
        ("j", "Plum", "4"),
        ("k", "Fig", "4"),
    ]
    paths, labels, digests = zip(*images, strict=True)
    found = label_conflicts(pa.table({"path": paths, "label": labels, "digest": digests}))
    assert found == {
        "images": 5,
        "pairs": [
            {"paths": ["a", "b"], "labels": ["Apple", "Pear"]},
            {"paths": ["j", "k"], "labels": ["Plum", "Fig"]},
        ],
    }
    assert conflict_warnings(found) == [
        "5 images have the same bytes as one of another label, such as a (Apple) and b (Pear); j (Plum) and k (Fig): "
        "keep each image under one label."
    ]
    none = label_conflicts(pa.table({name: pa.array([], pa.string()) for name in ("path", "label", "digest")}))
    assert none == {"images": 0, "pairs": []}
    assert conflict_warnings(none) == []
