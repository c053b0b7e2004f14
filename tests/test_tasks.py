"""What goes wrong in a worker reaches the driver as what it was; everything else on Spark as one sentence."""

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from py4j.protocol import Py4JNetworkError
from pyspark.ml.feature import VectorAssembler
from pyspark.sql import SparkSession

from orchard import datasets, tasks
from orchard.errors import OutputDamaged, StorageError
from orchard.files import DataFile
from orchard.layout import REDUCED
from orchard.spark.properties import with_attempts
from orchard.storage import open_storage

SENTENCE = "Two lines\nof “é” \\x and ${braces}: mend them."


def raise_in_batches(error: Exception, _: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    raise error
    yield


def test_an_error_keeps_its_sentence_from_a_frame(spark: SparkSession) -> None:
    rows = tasks.map_batches(spark.range(3), partial(raise_in_batches, StorageError(SENTENCE)), "id long")
    with pytest.raises(StorageError, match=re.escape(SENTENCE)):
        tasks.collect(rows)
    with pytest.raises(StorageError, match=re.escape(SENTENCE)), tasks.at_work(spark.sparkContext):
        VectorAssembler(inputCols=["id"], outputCol="v").transform(rows).write.format("noop").mode("append").save()


@pytest.mark.parametrize("content", [None, b"PAR1 is not enough", "page"])
def test_a_damaged_file_is_named(spark: SparkSession, content: bytes | str | None, tmp_path: Path) -> None:
    name = "reduced/part-1.parquet"
    path = tmp_path / name
    path.parent.mkdir()
    if content == "page":
        table = pa.table({field.name: pa.array([None] * 2000, field.type) for field in REDUCED})
        table = table.set_column(0, "path", pa.array([str(n) * 9 for n in range(2000)]))
        pq.write_table(table, path, compression="zstd")
        data = bytearray(path.read_bytes())
        data[64:2000] = bytes(1936)
        content = bytes(data)
    if content is not None:
        path.write_bytes(content)  # type: ignore[arg-type]
    storage = open_storage(str(tmp_path))
    rows = datasets.frame(spark, [DataFile(name, 3)], REDUCED, partial(datasets.batches, storage))
    with pytest.raises(OutputDamaged, match=path.name) as caught:
        tasks.collect(rows)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "chosen"),
    [
        ("local", "local[1,4]"),
        ("local[2]", "local[2,4]"),
        ("local[*]", "local[*,4]"),
        ("local[2,8]", "local[2,8]"),
        ("local-cluster[1,1,1024]", "local-cluster[1,1,1024]"),
        ("k8s://https://cluster:6443", "k8s://https://cluster:6443"),
    ],
)
def test_only_local_masters_are_changed(given: str, chosen: str) -> None:
    assert with_attempts(given) == chosen


@pytest.mark.parametrize(
    ("says", "means"),
    [
        ("Job 3 cancelled because SparkContext was shut down", "Spark was stopped"),
        ("SparkException: x\nCaused by: java.lang.OutOfMemoryError: Java heap space", "--driver-memory"),
        ("ExecutorLostFailure (executor 1 exited caused by one of the running tasks)", "executors were lost"),
        ("java.io.IOException: No space left on device", "disk"),
        ("is bigger than spark.driver.maxResultSize (1024.0 MiB)", "maxResultSize"),
        ("ModuleNotFoundError: No module named 'orchard'", "PYSPARK_PYTHON"),
        ("[PYTHON_VERSION_MISMATCH] Python in worker has different version: 3.9", "PYSPARK_PYTHON"),
        ("Job aborted\nZeroDivisionError: division by zero\n\tat java", "ZeroDivisionError: division by zero"),
    ],
)
def test_what_spark_says_becomes_one_sentence(says: str, means: str) -> None:
    sentence = str(tasks.error_of(RuntimeError(says)))
    assert means in sentence
    assert "\n" not in sentence


@pytest.mark.parametrize(
    "error", [Py4JNetworkError("Answer from Java side is empty"), ConnectionRefusedError(111, "refused"), EOFError()]
)
def test_a_jvm_that_is_gone_is_told(error: Exception) -> None:
    told = str(tasks.error_of(error))
    assert "JVM ended" in told
    for value in ("driver.memoryOverhead", "tune.resources.memoryOverhead", "--driver-memory-overhead"):
        assert value in told  # a pod of the chart has no flags


def test_only_jobs_of_orchard_are_cancelled(spark: SparkSession) -> None:
    context: Any = spark.sparkContext
    with tasks.at_work(context):
        assert set(context.getJobTags()) == {"orchard"}
        with tasks.at_work(context):
            pass
        assert set(context.getJobTags()) == {"orchard"}
    assert set(context.getJobTags()) == set()
