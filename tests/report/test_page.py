"""The page: complete, self-contained, harmless and small."""

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from orchard.classification.metrics import evaluate
from orchard.headline import headline
from orchard.layout import ClassifierMetrics, Metrics, Run
from orchard.output import Output
from orchard.report import ReportData, collect, render
from orchard.report.page import MAX_SHEETS
from orchard.report.samples import (
    MAX_MISTAKES,
    MAX_MISTAKES_OF_A_PAIR,
    MAX_POINTS,
    Mistake,
    Neighbour,
    Point,
    RejectedImage,
)
from orchard.report.thumbnails import BUDGET

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'&{{ 7*7 }}"


class Elements(HTMLParser):
    """The elements of a page with their attributes, and the text of its scripts."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.text: list[str] = []
        self._within = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        self._within = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, _tag: str) -> None:
        self._within = ""

    def handle_data(self, data: str) -> None:
        if self._within == "script":
            self.scripts[-1] += data
        else:
            self.text.append(data)


def _visible(page: str) -> str:
    return " ".join(" ".join(Elements(page).text).split())


def test_a_whole_run_is_shown(
    tmp_path: Path,
    labels: list[str],
    a_run: Callable[[], Run],
    metrics_of: Callable[..., Metrics],
    write_output: Callable[..., Callable[[str], bytes]],
) -> None:
    read_image = write_output(tmp_path, labels)
    metrics = metrics_of(labels)
    data = collect(Output(str(tmp_path)), metrics, a_run(), read_image)
    page = render(data)
    text = _visible(page)
    assert len(data.points) == 24
    assert all(data.pictures)
    assert set(data.icons) == set(labels)
    mistakes = data.mistakes["logistic_regression"]
    assert [mistake.label for mistake in mistakes] == ["Mango", "Lemon", "Cherry", "Apple"]
    assert [near.path for near in mistakes[0].neighbours] == ["train/Mango/1.jpg", "train/Apple/1.jpg"]
    assert {near.path for mistake in mistakes for near in mistake.neighbours} <= set(data.shots)
    for expected in (
        "some fruits",
        "2 January 2026, 03:05 UTC",
        "202 listed = 200 featurized + 2 rejected",
        "1 test image is also in training",
        "Something to look at.",
        "The file ends before the image does.",
        "5 of 40 components hold 96.9% of the variance",
        "123",
        "Calibration error before 7.1%",
        "“Not sure” below 83.0%",
        "Accuracy of the sure ones 99.1%",
        "321 images of training were held out to choose and to calibrate",
        "99.0% (as wanted) 62.0%",
        "Wrongly sure 2.0% (1)",
        "(AUROC) 0.975",
        "1 class leads to none.",
        "Nearest in training: Mango cosine 0.910 train/Mango/1.jpg",
        "87.5% confident; answer: not sure; familiarity 0.42",
        "Extract 20.0 s 17.2 s 13.8 s to 22.4 s",
        "Memory of a worker 300 MiB 312 MiB",
        "Memory of the driver's JVM 1 GiB \N{EN DASH}",
        "Core-hours 0.0123 0.0234",
        "9 tasks of 200 images by 2 workers",
        "1, spark-<b>1</b> 32 4.50 s 1.25 s",
        "spark-<b>1</b> 9 200 18.0 s 4.50 s",
        "ripeness by eye 2 85.0%",
        "nothing was learned",
        "raw taken for ripe 3",
        "/data/studio <b> 52 40 1 0.3 12 75.0%",
        "s3a://market/photos 5 5 0 1 0",
    ):
        assert expected in text
    assert "77.0 s" not in text  # the plan of another run's classifiers
    assert len(re.findall(r"^\.p\d+\{background-image", page, re.MULTILINE)) == len(data.shots) == 8
    opened = set(re.findall(r'popovertarget="([^"]+)"', page))
    assert opened == set(re.findall(r'<div popover class="sheet" id="([^"]+)"', page))
    assert len(opened) == 11  # 3 and 4 pairs of labels that the figures know, 2 of kinds by each classifier


def test_hostile_names_are_text_wherever_they_stand(
    a_run: Callable[[], Run], metrics_of: Callable[..., Metrics], classifier: Callable[..., ClassifierMetrics]
) -> None:
    metrics = metrics_of([HOSTILE, "b"])
    metrics["warnings"] = [HOSTILE]
    run = a_run()
    run["source"] = run["output"] = f"/data/{HOSTILE}"
    run["settings"][HOSTILE] = HOSTILE
    run["backbone"]["name"] = HOSTILE
    one = classifier([HOSTILE, "b"], [[1, 3], [0, 4]])
    metrics["classifiers"] = {name: {**one, "by_kind": one} for name in metrics["classifiers"]}
    metrics["cards"]["labels_without"] = [HOSTILE]
    metrics["columns"] = {
        HOSTILE: {**metrics["columns"]["ripeness_by_eye"], "values": {HOSTILE: {"train": 1}}, "test": one}
    }
    near = Neighbour(HOSTILE, HOSTILE, 0.9)
    mistake = Mistake(HOSTILE, HOSTILE, "b", 0.9, HOSTILE, 0.5, HOSTILE, "b", (near,))
    data = ReportData(
        metrics,
        run,
        [Point(HOSTILE, HOSTILE, HOSTILE, 0.0, 1.0), Point("x", "b", "test", 1.0, 0.0)],
        ["UklGRg==", None],
        {"logistic_regression": [mistake], "random_forest": [mistake]},
        {HOSTILE: "UklGRg=="},
        [RejectedImage(HOSTILE, HOSTILE, HOSTILE)],
        {HOSTILE: "UklGRg=="},
    )
    page = Elements(render(data))
    assert sum("popover" in attributes for _, attributes in page.found) == 4
    assert len(page.scripts) == 2  # the data and ours
    block = json.loads(page.scripts[0])
    assert block["labels"][0].startswith(HOSTILE[:45])
    assert not [attributes for tag, attributes in page.found if tag == "img" and attributes.get("src") == "x"]
    assert not [name for _, attributes in page.found for name in attributes if name.startswith("on")]
    assert "{{ 7*7 }}" in " ".join(page.text)


def test_the_page_loads_nothing_from_anywhere(
    tmp_path: Path,
    labels: list[str],
    a_run: Callable[[], Run],
    metrics_of: Callable[..., Metrics],
    write_output: Callable[..., Callable[[str], bytes]],
) -> None:
    read_image = write_output(tmp_path, labels)
    page = render(collect(Output(str(tmp_path)), metrics_of(labels), a_run(), read_image))
    assert "http://" not in page
    assert "https://" not in page
    for tag, attributes in Elements(page).found:
        for name in ("src", "href", "action", "data", "poster", "srcset"):
            value = attributes.get(name)
            assert value is None or value.startswith(("#", "data:")), (tag, name, value)
    assert all(url.startswith("data:") for url in re.findall(r"url\(([^)]*)\)", page))
    assert "@import" not in page
    assert "default-src 'none'" in page


def test_the_page_of_a_huge_collection_stays_under_five_megabytes(
    a_run: Callable[[], Run], metrics_of: Callable[..., Metrics]
) -> None:
    labels = [f"{i:04d} " + "🍒" * 200 for i in range(3_000)]
    random = np.random.default_rng(0)
    metrics = metrics_of([])
    metrics["images"] |= {"listed": 10**6 + 2, "featurized": 10**6, "decoded": 10**6}
    metrics["labels"] = {label: {"train": 400, "validation": 30, "test": 100} for label in labels}
    one = evaluate(*(labels + [labels[i] for i in random.integers(0, 3_000, 100_000)] for _ in range(2)))
    assert one["confusion_left_out"] > 50_000
    metrics["classifiers"] = {f"classifier_{i}": one for i in range(8)}
    metrics["columns"] = {f"column_{i}": {**metrics["columns"]["ripeness_by_eye"], "test": one} for i in range(16)}
    metrics["warnings"] = ["🍒" * 300] * 5_000
    path = "🍒/" * 200
    points = [
        Point(f"{path}{i}.jpg", labels[i], "train", *map(float, random.normal(size=2))) for i in range(MAX_POINTS)
    ]
    near = tuple(Neighbour(f"{path}{i}.png", labels[i], 0.9) for i in range(3))
    wrong = [(label, answer) for label, row in one["confusion"].items() for answer in row if answer != label]
    mistakes = [
        Mistake(f"{path}{i}.jpg", *wrong[i // 4], 0.9, "sure", 0.9, labels[0], labels[1], near)
        for i in range(MAX_MISTAKES + MAX_MISTAKES_OF_A_PAIR * max(MAX_SHEETS))
    ]
    of_others = MAX_MISTAKES + MAX_MISTAKES_OF_A_PAIR * MAX_SHEETS[1]
    share = BUDGET // (600 + len(mistakes) + 120)
    data = ReportData(
        metrics,
        a_run(),
        points,
        ["A" * share] * 600,
        {"classifier_0": mistakes} | {f"classifier_{i}": mistakes[:of_others] for i in (1, 2, 3)},
        {mistake.path: "A" * share for mistake in mistakes},
        [RejectedImage(path, "corrupt", "x" * 5_000)] * 35,
        dict.fromkeys(labels[:120], "A" * share),
    )
    page = render(data).encode()
    assert page.count(b'class="sheet"') > 100
    assert len(page) < 5_000_000


def _no_classifier(metrics: Metrics) -> None:
    for key in (
        "classifiers",
        "baseline",
        "leak",
        "group_split",
        "without_near_twins",
        "headline",
        "columns",
        "sources",
    ):
        metrics.pop(key)  # type: ignore[misc]


def _no_test_rows(metrics: Metrics) -> None:
    for one in metrics["classifiers"].values():
        one |= {"test_rows": 0, "accuracy": float("nan")}
    metrics["columns"]["ripeness_by_eye"].pop("test")


def _features_only(metrics: Metrics) -> None:
    _no_classifier(metrics)
    metrics.pop("pca")


def _nothing(metrics: Metrics) -> None:
    _features_only(metrics)
    metrics["images"] |= {"listed": 0, "featurized": 0, "rejected": 0, "decoded": 0, "rejected_by_reason": {}}
    metrics |= {"labels": {}, "warnings": [], "seconds": {}, "images_per_second": 0.0}


def _no_seconds(metrics: Metrics) -> None:
    metrics |= {"seconds": {"extract": 0.0}, "images_per_second": float("nan")}


@pytest.mark.parametrize("change", [_no_classifier, _no_test_rows, _features_only, _nothing, _no_seconds])
@pytest.mark.parametrize("count", [1, 2, 100])
def test_a_page_without_some_parts_has_no_hole(
    change: Callable[[Metrics], None], count: int, a_run: Callable[[], Run], metrics_of: Callable[..., Metrics]
) -> None:
    metrics = metrics_of([f"label {i}" for i in range(count)])
    change(metrics)
    text = _visible(render(ReportData(metrics, a_run())))
    assert "nan" not in text.split()
    assert "None" not in text
    assert ("Most confused" in text) == (change is _no_seconds)
    targets = set(re.findall(r'<section id="(\w+)"', render(ReportData(metrics, a_run()))))
    links = set(re.findall(r'<li><a href="#(\w+)"', render(ReportData(metrics, a_run()))))
    assert targets == links


def test_a_later_start_that_did_little_is_not_called_the_whole_run(
    labels: list[str], a_run: Callable[[], Run], metrics_of: Callable[..., Metrics]
) -> None:
    metrics = metrics_of(labels)
    assert "whole run 31.0 s" in _visible(render(ReportData(metrics, a_run())))
    metrics["seconds"]["total"] = 0.01
    assert "whole run" not in _visible(render(ReportData(metrics, a_run())))


def test_the_honest_accuracy_stands_beside_the_optimistic_one(
    labels: list[str], a_run: Callable[[], Run], metrics_of: Callable[..., Metrics]
) -> None:
    metrics = metrics_of(labels)
    text = _visible(render(ReportData(metrics, a_run())))
    assert "50.0% rather than 87.0% on groups that are not in training" in text
    assert "Accuracy on test images of groups that are not in training 50.0% 39.0 to 61.0% with 95% confidence" in text
    assert "87.0% (74.3 to 93.9%) on all 46 test images" in text


def test_groups_that_were_guessed_are_said_to_be_and_two_are_shown(
    labels: list[str], a_run: Callable[[], Run], metrics_of: Callable[..., Metrics]
) -> None:
    text = _visible(render(ReportData(metrics_of(labels), a_run())))
    assert "12 groups, guessed: files of one class whose names differ in one number alone" in text
    assert "1 image of no group stands alone." in text
    for path in ("/data/some fruits/Apple/r0_0.jpg", "/data/some fruits/Apple/r0_27.jpg"):
        assert path in text


def test_without_groups_the_headline_is_that_of_images_without_a_near_twin(
    labels: list[str], a_run: Callable[[], Run], metrics_of: Callable[..., Metrics]
) -> None:
    metrics = metrics_of(labels)
    del metrics["group_split"], metrics["grouping"]
    line = headline(metrics)
    assert line is not None
    metrics["headline"] = line
    page = render(ReportData(metrics, a_run()))
    text = _visible(page)
    assert "Accuracy on test images without a near twin in training 70.0% 54.6 to 81.9% with 95% confidence" in text
    assert "20 test images have near twins in training" in text
    assert "on all 46 test images" in text
    near = re.search(r'<li class="alert (\w+)">(?:(?!</h3>).)*near twins in training</h3>', page, re.DOTALL)
    assert near and near[1] == "warning"
    columns = re.search(r'id="distribution".*?</svg>', page, re.DOTALL)
    assert columns and columns[0].count('class="twin"') == 5 and columns[0].count("<rect") == 20


def test_classes_of_few_test_images_are_marked(
    labels: list[str], a_run: Callable[[], Run], metrics_of: Callable[..., Metrics]
) -> None:
    few = render(ReportData(metrics_of(labels, per_label=10), a_run()))
    assert "4 classes with fewer than 20 test images" in _visible(few)
    assert few.count('<span class="few">1') == 8
    many = render(ReportData(metrics_of(labels, per_label=20), a_run()))
    assert "(few)" not in _visible(many)


def test_counts_that_do_not_add_up_are_said_so(
    labels: list[str], a_run: Callable[[], Run], metrics_of: Callable[..., Metrics]
) -> None:
    metrics = metrics_of(labels)
    metrics["images"]["listed"] += 1
    text = _visible(render(ReportData(metrics, a_run())))
    assert "The counts do not add up" in text
    assert "203 listed ≠ 200 featurized + 2 rejected" in text


def test_uneven_classes_and_those_without_training_are_named(
    labels: list[str], a_run: Callable[[], Run], metrics_of: Callable[..., Metrics]
) -> None:
    metrics = metrics_of(labels)
    metrics["labels"] |= {"Apple": {"train": 4000}, "Mango": {"test": 3}}
    text = _visible(render(ReportData(metrics, a_run())))
    assert "The largest class is 100 times the smallest" in text
    assert "No classifier can answer “Mango”" in text


def test_the_command_names_what_differs_from_the_defaults_and_no_secret(
    labels: list[str], a_run: Callable[[], Run], metrics_of: Callable[..., Metrics]
) -> None:
    run = a_run()
    run["settings"]["s3_endpoint"] = "http://me:letmein@store:9000"
    text = _visible(render(ReportData(metrics_of(labels), run)))
    for part in (
        "orchard run '/data/some fruits'",
        "--output /data/out",
        "--variance 0.9",
        "--max-rejected 10%",
        "--classifiers random_forest",
        "--spark-conf spark.executor.memory=4g",
    ):
        assert part in text
    assert "--seed" not in text
    assert "--fresh" not in text
    assert "hunter2" not in text
    assert "letmein" not in text


def test_a_name_that_is_no_text_does_not_stop_the_page(
    labels: list[str], a_run: Callable[[], Run], metrics_of: Callable[..., Metrics]
) -> None:
    run = a_run()
    run["source"] = "/data/caf\udce9"
    assert "caf?" in render(ReportData(metrics_of(labels), run)).encode().decode()
