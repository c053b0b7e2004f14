"""Places of paths in a long column: right, and at a price that does not depend on how long it is."""

import time

import numpy as np
import pyarrow as pa

from orchard.images.lookup import PathIndex


def test_places_are_those_of_the_column_whatever_its_chunks() -> None:
    paths = pa.chunked_array([["b", "a"], [], ["ünï", "c"]], pa.string())
    index = PathIndex(paths)
    assert len(index) == 4
    wanted = pa.chunked_array([["c", "nowhere"], ["b", None, "ünï", "a"]], pa.string())
    assert index.places(wanted).tolist() == [3, -1, 0, -1, 2, 1]
    assert index.has(wanted.combine_chunks()).tolist() == [True, False, True, False, True, True]


def test_of_no_paths_none_is_found() -> None:
    index = PathIndex(pa.chunked_array([], pa.string()))
    assert index.places(pa.array(["a"])).tolist() == [-1]
    assert PathIndex(pa.array(["a"])).places(pa.array([], pa.string())).tolist() == []


def test_a_look_up_does_not_go_through_the_whole_column() -> None:
    paths = pa.array([f"s3a://bucket/photographs/{number:020d}.jpg" for number in range(100_000)])
    started = time.process_time()
    index = PathIndex(paths)
    built = time.process_time() - started
    some = paths.slice(50_000, 100)
    started = time.process_time()
    found = [index.places(some) for _ in range(5)]
    assert time.process_time() - started < built / 4
    assert all(np.array_equal(places, np.arange(50_000, 50_100)) for places in found)
