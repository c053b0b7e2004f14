"""The part about the data's own faults: bounded, escaped, and complete."""

from collections.abc import Callable
from pathlib import Path

import pytest

from orchard.layout import DataMetrics, Fault, Metrics, ReviewMetrics, Run, Suspect
from orchard.output import Output
from orchard.report import ReportData, collect, render
from orchard.report.review import BUDGET, FAULTS, PICTURES, SAMPLES, collect_review, fault_views, pixel_bars
from orchard.report.samples import Point


@pytest.fixture
def reviewed(metrics_of: Callable[..., Metrics]) -> Callable[[list[str]], Metrics]:
    """Metrics of a run in which 12 images of each label look wrong and two are dark."""

    def of(labels: list[str]) -> Metrics:
        def suspect(fault: str, i: int, j: int) -> Suspect:
            path = f"{'test' if j % 3 == 0 else 'train'}/{labels[i]}/{j}.jpg"
            suggested = labels[i - 1] if fault == "label" else None
            return {"path": path, "label": labels[i], "suggested": suggested, "fault": fault, "score": 0.97, "also": [],
                    "split": "train", "like": None}  # fmt: skip

        n = len(labels)
        first = [suspect("label", i, j) for i in range(n) for j in range(12)][:150]
        first += [suspect("dark", i, j) for i in range(n) for j in range(2)][:50]
        data: DataMetrics = {
            "formats": {"JPEG": 50 * n},
            "shapes": {"landscape": 50 * n, "portrait": 0, "square": 0},
            "pixels": {"8192": 50 * n},
            "smallest": [64, 64],
            "largest": [100, 80],
            "labels": n,
            "images_a_label": {"fewest": 50, "median": 50.0, "most": 50},
        }
        review: ReviewMetrics = {
            "judged": 50 * n,
            "images": 14 * n,
            "faults": {"label": 12 * n, "dark": 2 * n},
            "clusters": {"clusters": 1, "images": 2, "largest": [["a", "b"]]},
            "first": first,
        }
        return {**metrics_of(labels), "data": data, "review": review}

    return of


def test_every_fault_is_explained() -> None:
    assert set(FAULTS) == set(Fault)


def test_each_fault_has_some_pictures_and_the_others_by_name(
    tmp_path: Path,
    labels: list[str],
    a_run: Callable[[], Run],
    reviewed: Callable[[list[str]], Metrics],
    write_output: Callable[..., Callable[[str], bytes]],
) -> None:
    read_image, metrics = write_output(tmp_path, labels), reviewed(labels)
    data = collect(Output(str(tmp_path)), metrics, a_run(), read_image)
    wrong, dark = fault_views(metrics, data.review)
    assert (wrong.title, wrong.images, len(wrong.pictured), len(wrong.others)) == ("Wrong label?", 48, PICTURES, 40)
    assert (dark.title, len(dark.pictured), dark.others) == ("Dark", 8, [])
    assert all(picture for suspect, picture in wrong.pictured if suspect["path"].rpartition("/")[2] < "6")
    assert [point.label for point, _ in data.review.samples] == sorted(labels * 3)
    page = render(data)
    assert page.count("Fits better") == 1
    assert "8,192 to 16,383" in page


def test_a_run_without_a_review_has_no_such_part(a_run: Callable[[], Run], metrics_of: Callable[..., Metrics]) -> None:
    page = render(ReportData(metrics_of(["Apple", "Fig"]), a_run()))
    assert 'id="review"' not in page
    assert 'id="images"' not in page


def test_names_of_strangers_are_text(a_run: Callable[[], Run], reviewed: Callable[[list[str]], Metrics]) -> None:
    hostile = "<img src=x onerror=alert(1)>"
    page = render(ReportData(reviewed([hostile, f"{hostile}2"]), a_run()))
    assert hostile not in page
    assert "&lt;img src=x" in page


@pytest.mark.parametrize("n_labels", [1, 30, 500])
def test_pictures_are_bounded(n_labels: int, reviewed: Callable[[list[str]], Metrics]) -> None:
    names = [f"label {i}" for i in range(n_labels)]
    points = [Point(f"{name}/{j}", name, "train", 0.0, 0.0) for j in range(5) for name in names]
    asked: list[str] = []

    def read_image(path: str) -> bytes:
        asked.append(path)
        return b""

    data = collect_review(reviewed(names), points, read_image)
    assert len(asked) <= PICTURES * len(Fault) + SAMPLES
    assert len(data.samples) == {1: 3, 30: 60, 500: SAMPLES}[n_labels]
    assert BUDGET < 1_000_000


def test_sizes_are_drawn_in_order(reviewed: Callable[[list[str]], Metrics]) -> None:
    data = reviewed(["a"])["data"]
    data["pixels"] = {"65536": 4, "4096": 2}
    bars = [(bar.name, bar.images, bar.width) for bar in pixel_bars(data)]
    assert bars == [("4,096 to 8,191", 2, 0.5), ("65,536 to 131,071", 4, 1.0)]
