"""Promises of the reduction stage, from committed features to committed Parquet and CSV."""

import gzip
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from pyspark.sql import SparkSession

from orchard.datasets import gathered, list_column, matrix, read
from orchard.errors import InputError, TrainingError
from orchard.layout import FEATURES, REDUCED, Dataset
from orchard.output import Output
from orchard.reduction.moments import Moments
from orchard.reduction.pca import Reduction
from orchard.reduction.stage import load, reduce, roles_of
from orchard.reduction.statistics import Role, Statistics, Sums
from orchard.workers import Workers

KINDS = ["Fruit", "=Drupe", None]
LABELS = ["plum", 'Granny "Smith"', "=Lady, Pink", "two\nlines", "café %20 #1", None]


def features(n: int = 240, d: int = 32, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(n, d)) * np.arange(1, d + 1) ** -0.8 @ rng.normal(size=(d, d)) + 3).astype(np.float32)


def commit(output: Output, values: np.ndarray, rows_per_file: int = 50) -> pa.Table:
    n = len(values)
    rows = pa.table(
        [
            pa.array([f"/in/{LABELS[i % 6]}/{i}.jpg" for i in range(n)]),
            pa.array([LABELS[i % 6] for i in range(n)]),
            pa.array([KINDS[i % 3] for i in range(n)]),
            pa.nulls(n, pa.string()),
            pa.array([("train", "test", "train", "validation")[i % 4] for i in range(n)]),
            pa.array([100] * n, pa.int32()),
            pa.array([100] * n, pa.int32()),
            list_column(values),
        ],
        schema=FEATURES,
    )
    staged = [output.stage(Dataset.FEATURES, rows.slice(i, rows_per_file)) for i in range(0, n, rows_per_file)]
    output.commit({Dataset.FEATURES: staged})
    return rows


@pytest.fixture
def output(tmp_path: Path) -> Iterator[Output]:
    output = Output(str(tmp_path / "out [1] {a} 50%"))
    with output.writing():
        yield output


def reduced_rows(output: Output) -> pa.Table:
    return output.read(Dataset.REDUCED, REDUCED.names, REDUCED)


def test_small_batches_are_joined_with_their_marks() -> None:
    """Sums of rows are added once a batch, and files of an output hold some hundred rows."""
    sizes = [3, 4, 2, 20, 1, 5, 6]
    starts = np.cumsum([0, *sizes])
    read = [
        (pa.record_batch({"row": pa.array(range(start, start + n), pa.int64())}), np.arange(start, start + n))
        for start, n in zip(starts, sizes, strict=False)
    ]
    found = list(gathered(iter(read), 9))
    assert [len(batch) for batch, _ in found] == [9, 20, 6, 6]
    for batch, marks in found:
        assert batch["row"].to_pylist() == marks.tolist()
    assert [mark for _, marks in found for mark in marks] == list(range(sum(sizes)))
    assert list(gathered(iter([]))) == []


def test_every_row_is_reduced_once_and_only_training_rows_are_fitted(workers: Workers, output: Output) -> None:
    values = features()
    values[1::4] += 50  # the test rows: they would change scaler and PCA
    rows = commit(output, values)
    done: list[int] = []

    result = reduce(workers, output, variance=0.9, progress=done.append)

    assert sum(done) == len(rows)
    train = values[::2]
    expected = Reduction.fit(Moments.of(train), variance=0.9)
    assert result.metrics["train_rows"] == 120
    assert result.metrics["k"] == expected.n_components_ == result.reduction.n_components_
    assert result.metrics["explained_variance"] >= 0.9
    assert result.warnings == []
    reduced = reduced_rows(output)
    for column in ("path", "label", "kind", "split"):
        assert reduced.column(column).to_pylist() == rows.column(column).to_pylist()
    components = matrix(reduced.column("pca_features").combine_chunks())
    np.testing.assert_allclose(components, expected.transform(values), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("n", [240, 480], ids=["few labelled validation rows", "a validation split"])
def test_the_same_pass_sums_the_labelled_training_rows_by_label(workers: Workers, output: Output, n: int) -> None:
    values = features(n=n)
    rows = commit(output, values)
    reduce(workers, output, seed=3)
    statistics = Statistics.from_bytes(output.part("statistics.npz") or b"")
    labels, split = np.array(rows["label"].to_pylist(), dtype=object), np.array(rows["split"].to_pylist())
    is_named = labels.astype(bool)
    mine = is_named & (split == "train")
    everything, expected = statistics.everything, Sums.of(values[mine], {"label": labels[mine].tolist()})
    assert everything.labelled.count == mine.sum()
    np.testing.assert_allclose(everything.labelled.scatter, expected.labelled.scatter, rtol=1e-9, atol=1e-9)
    found, wanted = everything.columns["label"], expected.columns["label"]
    assert (found.names, found.counts.tolist()) == (wanted.names, wanted.counts.tolist())
    np.testing.assert_allclose(found.sums, wanted.sums, rtol=1e-12)

    given, roles = roles_of(output, 3)
    role = np.concatenate([roles[file.name] for file in output.files(Dataset.FEATURES)])
    assert not (role[split == "test"] != Role.NONE).any()
    held_out = is_named & (role == Role.HELD_OUT)
    if n == 480:
        assert given and statistics.held_out is None
        assert held_out.sum() == (is_named & (split == "validation")).sum() == 80
    else:
        assert not given and statistics.held_out is not None
        assert statistics.held_out.labelled.count == held_out.sum() == pytest.approx(0.3 * mine.sum(), abs=1)
        assert (split[held_out] == "train").all()
        assert statistics.fit.labelled.count == (is_named & (role == Role.FIT)).sum() == mine.sum() - held_out.sum()


def test_the_csv_holds_the_same_rows_whatever_the_names(workers: Workers, output: Output) -> None:
    commit(output, features())
    k = reduce(workers, output, components=7).metrics["k"]
    parts = []
    for file in output.files(Dataset.REDUCED_CSV):
        assert file.name.endswith(".csv.gz")
        part = pd.read_csv(BytesIO(gzip.decompress(output.storage.read(file.name))))
        assert len(part) == file.rows
        parts.append(part)
    csv = pd.concat(parts, ignore_index=True)
    assert list(csv.columns) == ["path", "label", "kind", "split", *(f"pc_{i}" for i in range(1, k + 1))]
    reduced = reduced_rows(output)
    assert csv["path"].tolist() == reduced.column("path").to_pylist()
    assert "'=Lady, Pink" in set(csv["label"])  # no formula for a spreadsheet
    labels = csv["label"].str.removeprefix("'").replace({np.nan: None})
    assert labels.tolist() == reduced.column("label").to_pylist()
    assert set(csv["kind"].dropna()) == {"Fruit", "'=Drupe"}
    components = matrix(reduced.column("pca_features").combine_chunks())
    np.testing.assert_array_equal(csv.iloc[:, 4:].to_numpy(np.float32), components)


def test_reducing_again_replaces_and_the_saved_reduction_serves_new_images(workers: Workers, output: Output) -> None:
    values = features()
    rows = commit(output, values)
    reduce(workers, output, components=3)
    result = reduce(workers, output, components=5)
    assert output.rows(Dataset.REDUCED) == output.rows(Dataset.REDUCED_CSV) == len(rows)
    reduced = matrix(reduced_rows(output).column("pca_features").combine_chunks())
    assert reduced.shape[1] == 5
    np.testing.assert_allclose(load(Output(output.url)).transform(values), reduced, atol=1e-5)
    np.testing.assert_array_equal(load(output).components_, result.reduction.components_)


def test_the_rows_are_a_dataframe_in_spark(workers: Workers, spark: SparkSession, output: Output) -> None:
    rows = commit(output, features())
    reduce(workers, output, components=3)
    frame = read(spark, output, Dataset.REDUCED)
    assert frame.columns == REDUCED.names
    collected = {row["path"]: row for row in frame.collect()}
    expected = reduced_rows(output).to_pylist()
    assert len(collected) == len(expected) == len(rows)
    for row in expected:
        assert collected[row["path"]].asDict() == row
    assert read(spark, output, Dataset.PREDICTIONS).count() == 0


def test_more_components_than_there_are_is_a_warning(workers: Workers, output: Output) -> None:
    commit(output, features(n=16))
    result = reduce(workers, output, components=20)
    assert result.metrics["k"] == 7  # 8 training rows
    assert result.warnings == ["20 components were asked for; 8 training rows of 32 features have only 7."]


def test_one_image_is_reduced_to_zero_with_a_warning(workers: Workers, output: Output) -> None:
    commit(output, features(n=1))
    result = reduce(workers, output)
    assert result.metrics["k"] == 1
    assert len(result.warnings) == 1
    assert reduced_rows(output).column("pca_features").to_pylist() == [[0.0]]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_feature_that_is_not_finite_is_named_even_outside_training(
    workers: Workers, output: Output, bad: float
) -> None:
    values = features()
    values[101, 5] = bad  # a test row, in the third file
    rows = commit(output, values)
    with pytest.raises(TrainingError) as error:
        reduce(workers, output)
    assert rows.column("path")[101].as_py() in str(error.value)
    assert output.files(Dataset.REDUCED) == []


def test_without_features_the_error_says_so(workers: Workers, output: Output) -> None:
    with pytest.raises(InputError, match="no features"):
        reduce(workers, output)
