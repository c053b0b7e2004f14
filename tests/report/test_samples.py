"""What the page shows is a fair and bounded sample of the output."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from orchard import layout
from orchard.layout import Dataset
from orchard.output import Output
from orchard.report.samples import quotas, sample_points, sample_rejections, worst_mistakes


def _reduced(labels: np.ndarray, first: int = 0) -> pa.Table:
    n = len(labels)
    vectors = np.arange(first, first + n, dtype=np.float32)[:, None] * np.array([1, -1], dtype=np.float32)
    paths = [f"{i}.jpg" for i in range(first, first + n)]
    nothing = pa.nulls(n, pa.string())
    return pa.table([paths, labels.tolist(), nothing, ["train"] * n, vectors.tolist()], schema=layout.REDUCED)


def test_points_are_stratified_bounded_and_always_the_same(tmp_path: Path) -> None:
    labels = np.array(["common"] * 9_000 + ["rare"] * 12 + ["middling"] * 988)
    np.random.default_rng(0).shuffle(labels)
    counts = dict(Counter(labels.tolist()))
    samples = []
    for name, cuts in (("one", [10_000]), ("many", [10, 4_000, 10_000])):
        output = Output(str(tmp_path / name))
        with output.writing():
            starts = [0, *cuts[:-1]]
            files = [output.stage(Dataset.REDUCED, _reduced(labels[a:b], a)) for a, b in zip(starts, cuts, strict=True)]
            output.commit({Dataset.REDUCED: files})
        samples.append(sample_points(output, counts, 300))
    assert samples[0] == samples[1]
    found = Counter(point.label for point in samples[0])
    assert sum(found.values()) <= 300
    assert found["rare"] >= 5
    assert found["common"] > 5 * found["middling"]
    assert {point.label for point in samples[0][:3]} == {"common", "rare", "middling"}
    assert all(point.pc1 == float(point.path.removesuffix(".jpg")) == -(point.pc2 or 0.0) for point in samples[0])


@pytest.mark.parametrize("n_labels", [1, 7, 399, 5_000])
def test_quotas_never_exceed_the_limit(n_labels: int) -> None:
    shares = quotas({str(i): i % 50 for i in range(n_labels)}, 2_000)
    assert sum(shares.values()) <= 2_000


def test_one_component_has_no_second_coordinate(
    tmp_path: Path, write_output: Callable[..., Callable[[str], bytes]]
) -> None:
    write_output(tmp_path, ["a", "b"], n_components=1)
    points = sample_points(Output(str(tmp_path)), {"a": 6, "b": 6})
    assert len(points) == 12
    assert all(point.pc2 is None for point in points)


def test_mistakes_are_of_the_test_split_and_the_classifier_surest_first(tmp_path: Path) -> None:
    rows = [
        ("t/right.jpg", "a", "test", "mine", "a", 0.99),
        ("t/sure.jpg", "a", "test", "mine", "b", 0.9),
        ("t/surer.jpg", "b", "test", "mine", "a", 0.95),
        ("t/train.jpg", "a", "train", "mine", "b", 0.97),
        ("t/sure.jpg", "a", "test", "other", "c", 0.98),
        *((f"t/{i}.jpg", "c", "test", "mine", "a", 0.5) for i in range(20)),
    ]
    output = Output(str(tmp_path))
    with output.writing():
        names = ("path", "label", "split", "classifier", "predicted", "confidence")
        said = [dict(zip(names, row, strict=True)) for row in rows]
        table = pa.Table.from_pylist(said, layout.PREDICTIONS)
        halves = [output.stage(Dataset.PREDICTIONS, part) for part in (table.slice(0, 9), table.slice(9))]
        output.commit({Dataset.PREDICTIONS: halves})
    found = worst_mistakes(output, {"mine": frozenset()})["mine"]
    assert [mistake.path for mistake in found[:2]] == ["t/surer.jpg", "t/sure.jpg"]
    assert [mistake.label for mistake in found[2:]] == ["c"] * 4
    both = worst_mistakes(output, {"mine": frozenset({("c", "a")}), "other": frozenset()}, limit=1)
    assert [mistake.label for mistake in both["mine"]] == ["b", *["c"] * 4]  # the surest, and the pair that is wanted
    assert [mistake.predicted for mistake in both["other"]] == ["c"]


def test_every_reason_has_examples(tmp_path: Path) -> None:
    output = Output(str(tmp_path))
    with output.writing():
        rows = [[f"{i}.jpg" for i in range(1_000)], ["corrupt"] * 999 + ["empty"], [None] * 1_000]
        output.commit({Dataset.REJECTED: [output.stage(Dataset.REJECTED, pa.table(rows, schema=layout.REJECTED))]})
    found = Counter(rejection.reason for rejection in sample_rejections(output))
    assert found == {"corrupt": 5, "empty": 1}
