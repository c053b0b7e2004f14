"""Tasks are neither too many nor too few, and every image is in one of them."""

import pyarrow as pa
import pytest

from orchard.features.extraction import (
    MAXIMUM_TASK_IMAGES,
    ExtractionResult,
    _common_folder,
    _Plan,
    task_images,
    tasks_of,
    tasks_per_batch,
)


def plan_all(images: int, slots: int, seconds_per_image: float) -> list[list[int]]:
    """The tasks' sizes, batch by batch, of a run whose workers take so long for an image."""
    plan = _Plan(pa.table({"path": [str(n) for n in range(images)]}))
    batches, seen = [], []
    while not plan.is_exhausted:
        tasks = plan.next_batch(slots)
        batches.append([task.num_rows for task in tasks])
        seen += [path for task in tasks for path in task["path"].to_pylist()]
        plan.learn(ExtractionResult(images=len(seen), worker_seconds=len(seen) * seconds_per_image))
    assert seen == [str(n) for n in range(images)]
    return batches


@pytest.mark.parametrize(
    ("images", "slots", "seconds_per_image", "least", "most"),
    [
        (12_158, 2, 0.003, 40, 80),  # a laptop, the default backbone
        (1_000_000, 40, 0.003, 600, 3_000),  # a cluster
        (12_158, 2, 0.3, 300, 800),  # a slow backbone: tasks stay short
    ],
)
def test_tasks_are_neither_two_nor_two_thousand(
    images: int, slots: int, seconds_per_image: float, least: int, most: int
) -> None:
    tasks = sum(map(len, plan_all(images, slots, seconds_per_image)))
    assert least <= tasks <= most
    assert tasks_of(images, slots, seconds_per_image) == tasks  # as a plan says


def test_an_executor_that_joins_late_finds_work_until_near_the_end() -> None:
    batches = plan_all(12_158, 2, 0.003)
    assert batches[0] == [32] * 4  # to have features soon, and to learn
    assert all(len(batch) >= 8 * 2 for batch in batches[1:-1])
    assert max(size for batch in batches for size in batch) <= 12_158 / 16


def test_the_first_tasks_are_small_and_later_ones_take_some_seconds() -> None:
    assert task_images(10**6, 16, None) == 32
    assert task_images(10**6, 16, 0.01) == 500
    assert task_images(10**6, 16, 1e-6) == MAXIMUM_TASK_IMAGES
    assert task_images(10, 16, 0.01) == 50  # half a second's, though so many are not left


def test_tasks_are_of_the_size_that_was_asked_for() -> None:
    plan, sizes = _Plan(pa.table({"path": [str(n) for n in range(1000)]}), 300), []
    while not plan.is_exhausted:
        sizes += [task.num_rows for task in plan.next_batch(2)]
        plan.learn(ExtractionResult(images=1000, worker_seconds=0.001))
    assert sizes == [300, 300, 300, 100]
    assert tasks_of(1000, 2, 0.001, 300) == 4


def test_a_batch_grows_with_the_cluster() -> None:
    assert tasks_per_batch(100) == 4 * tasks_per_batch(25) == 400


@pytest.mark.parametrize(
    ("paths", "folder"),
    [
        (["/photos/a/1.jpg", "/photos/b/2.jpg"], "/photos"),
        (["/photos/a/1.jpg", "s3a://bucket/2.jpg"], None),
        (["abfss://c@account/1.jpg", "/photos/a/1.jpg"], None),
        (["/photos/a/1.jpg", "https://host/2.jpg"], None),  # is rejected, and stops nothing
        (["https://host/1.jpg", "https://host/2.jpg"], None),
        (["C:/photos/1.jpg", "/photos/a/1.jpg"], None),
    ],
)
def test_executors_must_see_the_folder_of_all_images_where_there_is_one(paths: list[str], folder: str | None) -> None:
    assert _common_folder(pa.chunked_array([paths])) == folder
