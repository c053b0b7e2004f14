"""The figures show what the numbers say."""

import re
from collections.abc import Callable

import numpy as np
import pytest

from orchard.layout import ClassifierMetrics, Metrics, Sharing
from orchard.report import figures
from orchard.report.samples import Point


def test_the_chosen_k_is_marked_where_the_curve_reaches_its_share() -> None:
    ratios = [0.4, 0.3, 0.2, 0.06, 0.04]
    figure = figures.cumulative(ratios, 3)
    assert figure.marker is not None
    assert figure.marker.x == pytest.approx(figure.frame.x(2 / 4))
    assert figure.marker.y == pytest.approx(figure.frame.y(0.9))
    assert figure.marker.text == "k = 3: 90.0%"
    places = re.findall(r"[ML]([\d.]+) ([\d.]+)", figure.line)
    assert len(places) == 5
    assert (figure.marker.x, figure.marker.y) == tuple(map(float, places[2]))


def test_a_long_curve_is_thinned_but_keeps_its_ends_and_k() -> None:
    ratios = np.full(20_000, 1 / 20_000).tolist()
    figure = figures.cumulative(ratios, 7_777)
    assert len(figure.line) < 10_000
    assert figure.marker is not None
    assert f"{figure.marker.x:g} {figure.marker.y:g}" in figure.line
    assert figure.line.startswith(f"M{figure.frame.left:g} ")
    assert figure.line.endswith(f"{figure.frame.right:g} {figure.frame.top:g}")


def test_the_scree_marks_k_after_the_kth_column() -> None:
    figure = figures.scree([0.5, 0.25, 0.125, 0.125], 2)
    assert figure.marker is not None
    (_, _, _, first_height), second, third, _ = figure.bars
    assert second[0] + second[2] < figure.marker.x < third[0]
    assert figure.chosen_bars == 2
    assert first_height == pytest.approx(2 * second[3], abs=0.1)


@pytest.mark.parametrize("ratios", [[], [1.0], [0.0, 0.0], [float("nan")] * 3])
def test_variance_without_a_curve_is_drawn_all_the_same(ratios: list[float]) -> None:
    for figure in (figures.scree(ratios, 1), figures.cumulative(ratios, 1)):
        assert "nan" not in repr(figure).replace("anchor", "")


def test_a_confusion_stands_in_its_row_and_column(classifier: Callable[..., ClassifierMetrics]) -> None:
    matrix = figures.confusion_matrix(classifier(["a", "b", "c"], [[8, 2, 0], [0, 5, 0], [1, 0, 9]]))
    found = {(cell.row, cell.column): cell.count for cell in matrix.cells}
    assert found == {(0, 0): 8, (0, 1): 2, (1, 1): 5, (2, 0): 1, (2, 2): 9}
    wrong = next(cell for cell in matrix.cells if (cell.row, cell.column) == (2, 0))
    assert wrong.share == pytest.approx(0.1)
    x, y = figures.cell_at(matrix, wrong)
    assert x == matrix.frame.left
    assert y == pytest.approx(matrix.frame.top + 2 * matrix.cell)
    drawn = "".join(path for name, path in matrix.shades["count"].items() if name.startswith("no"))
    assert drawn.count("M") == 2
    assert "M0 2h" in drawn  # column 0, row 2


def test_of_many_classes_the_most_confused_are_drawn(classifier: Callable[..., ClassifierMetrics]) -> None:
    n = 500
    counts = np.eye(n, dtype=int) * 20
    counts[400, 3] = 7
    matrix = figures.confusion_matrix(classifier([f"class {i:03d}" for i in range(n)], counts))
    assert len(matrix.labels) == figures.MAX_MATRIX_LABELS
    assert {"class 400", "class 003"} <= set(matrix.labels)
    assert matrix.left_out == n - figures.MAX_MATRIX_LABELS
    row, column = matrix.labels.index("class 400"), matrix.labels.index("class 003")
    assert [c.count for c in matrix.cells if (c.row, c.column) == (row, column)] == [7]


def test_top_confusions_are_the_largest_mistakes_and_no_right_answer(
    classifier: Callable[..., ClassifierMetrics],
) -> None:
    found = figures.top_confusions(classifier(["a", "b", "c"], [[90, 4, 6], [1, 3, 0], [0, 0, 0]]))
    assert [(c.label, c.predicted, c.count) for c in found] == [("a", "c", 6), ("a", "b", 4), ("b", "a", 1)]
    assert found[0].share == pytest.approx(0.06)


def test_points_lie_in_the_frame_in_the_order_of_their_values() -> None:
    points = [Point("p", "b", "train", -5.0, 2.0), Point("q", "a", "test", 0.0, 9.0), Point("r", "b", "", 3.0, -4.0)]
    figure = figures.scatter(points, [0.5, 0.25])
    x, y = [mark.x for mark in figure.marks], [mark.y for mark in figure.marks]
    assert x == sorted(x)
    assert y[1] < y[0] < y[2]  # up is less in SVG
    assert all(figure.frame.left <= value <= figure.frame.right for value in x)
    assert all(figure.frame.top <= value <= figure.frame.bottom for value in y)
    assert [figure.labels[mark.label] for mark in figure.marks] == ["b", "a", "b"]
    assert "25.0%" in figure.y_title


def test_one_component_and_equal_points_are_drawn_apart() -> None:
    figure = figures.scatter([Point(str(i), "a", "", 1.0, None) for i in range(5)], [1.0])
    assert figure.one_component
    assert len({mark.y for mark in figure.marks}) == 5


@pytest.mark.parametrize(
    ("low", "high", "expected"), [(0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]), (-7, 23, [0, 10, 20]), (3, 3, [3])]
)
def test_ticks_are_round(low: float, high: float, expected: list[float]) -> None:
    assert figures.ticks(low, high) == pytest.approx(expected)


def test_the_reliability_diagram_puts_calibrated_answers_on_the_diagonal(metrics_of: Callable[..., Metrics]) -> None:
    figure = figures.reliability(metrics_of(["a", "b"])["calibration"])
    ((x, y, radius),) = figure.after
    frame = figure.frame
    assert (x - frame.left) / (frame.right - frame.left) == pytest.approx(0.8, abs=0.001)
    assert (frame.bottom - y) / (frame.bottom - frame.top) == pytest.approx(0.8, abs=0.001)
    assert figure.before[0][0] > x and figure.before[0][1] == y and radius > 10
    assert figure.marker.text == "sure from 83.0%"


def test_stretches_with_few_tasks_at_work_stand_out() -> None:
    sharing = a_sharing([4.0, 4.0, 3.0, 1.0])
    figure = figures.at_work(sharing)
    assert [stands_out for *_, stands_out in figure.columns] == [False, False, False, True]
    heights = [height for _, _, _, height, _ in figure.columns]
    assert heights[3] == pytest.approx(heights[0] / 4, abs=0.1)
    assert [tick.text for tick in figure.x_ticks][-1] == "8"  # seconds


def a_sharing(at_work: list[float]) -> Sharing:
    return Sharing(
        tasks=9,
        images=90,
        workers=4,
        worker_memory_bytes=1,
        median_task_seconds=1.0,
        by_executor=[],
        by_worker=[],
        slowest=[],
        bin_seconds=2.0,
        at_work=at_work,
    )
