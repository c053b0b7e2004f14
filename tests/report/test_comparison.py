"""Backbones side by side: the page, the rule of the best trade-off, and what is checked before anything runs."""

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from orchard import comparison
from orchard.comparison import Row, compare
from orchard.errors import UsageError, WeightsUnavailable
from orchard.report.comparison import render
from orchard.settings import load


def _row(name: str, accuracy: float, ms: float) -> Row:
    interval = accuracy - 0.02, accuracy + 0.01
    return Row(name, "linear_discriminant", accuracy, interval, "all", 1280, 90, 3_400_000, 13.6, ms, 40.0)


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The pipeline's part, which takes Spark, is left out: what it would measure is given."""
    found = {"EfficientNetLite0": _row("EfficientNetLite0", 0.95, 9), "MobileNetV2": _row("MobileNetV2", 0.93, 6)}
    done: list[str] = []

    def run(_source: str, _output: str, name: str, *_: Any) -> dict[str, Any]:
        done.append(name)
        return {}

    monkeypatch.setattr(comparison, "_run", run)
    monkeypatch.setattr(comparison, "common", lambda _: "all")
    monkeypatch.setattr(comparison, "_measured", lambda *given: found[given[2].backbone])
    session = SimpleNamespace(of_cluster=None, stop=lambda: None)
    monkeypatch.setattr(comparison, "Session", lambda *_: session)
    return done


@pytest.mark.parametrize(
    ("tolerance", "best"), [(0.01, "EfficientNetLite0"), (0.02, "MobileNetV2"), (0.0, "EfficientNetLite0")]
)
def test_the_tolerance_decides_which_is_the_best_trade_off(
    tolerance: float, best: str, runs: list[str], tmp_path: Path
) -> None:
    names = ["mobilenetv2", "EfficientNetLite0"]
    (tmp_path / ".killed.orchard-tmp").touch()
    rows = compare("/images", str(tmp_path), names, load({"weights": "random"}), tolerance=tolerance)
    assert runs == ["MobileNetV2", "EfficientNetLite0"]
    assert [row["backbone"] for row in rows if row["best_trade_off"]] == [best]
    assert f"{best} is the best trade-off" in (tmp_path / "compare.html").read_text()
    assert f'"tolerance": {tolerance}' in (tmp_path / "compare.json").read_text()
    assert not list(tmp_path.glob(".*"))


def test_a_backbone_may_be_compared_at_several_input_sizes(runs: list[str], tmp_path: Path) -> None:
    names = ["efficientnetlite0", "EfficientNetLite0@128"]
    rows = compare("/images", str(tmp_path), names, load({"weights": "random"}))
    assert {row["backbone"] for row in rows} == {"EfficientNetLite0", "EfficientNetLite0@128"}
    assert runs == ["EfficientNetLite0", "EfficientNetLite0@128"]
    assert 'href="EfficientNetLite0%40128/report.html"' in (tmp_path / "compare.html").read_text()
    of_size = comparison._of_variant(load({"input_size": 96}), runs[1])
    assert (of_size.backbone, of_size.input_size) == ("EfficientNetLite0", 128)
    assert comparison._of_variant(load({"input_size": 96}), runs[0]).input_size == 96
    for name, sentence in (
        ("MobileNetV2@100", "--input-size 100 is none of"),
        ("MobileNetV2@", "write it as"),
        ("MobileNetV2@" + 5_000 * "1", "write it as"),
        ("MobileNetV2@\u0661\u0662\u0668", "write it as"),
    ):
        with pytest.raises(UsageError, match=sentence):
            compare("/images", str(tmp_path), [name], load())


@pytest.mark.parametrize(
    ("name", "content"),
    [("compare.json", "[1]"), ("compare.json", '{"mine": 1}'), ("compare.json", "{"), ("compare.html", "<p>mine")],
)
def test_a_page_and_a_table_of_somebody_else_stay(name: str, content: str, runs: list[str], tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(UsageError, match=f"already holds {name}, and Orchard did not write them"):
        compare("/images", str(tmp_path), ["MobileNetV2"], load({"weights": "random"}))
    assert (tmp_path / name).read_text() == content
    assert not runs


def test_a_comparison_replaces_its_own_page_and_empty_files(runs: list[str], tmp_path: Path) -> None:
    (tmp_path / "compare.json").touch()
    for _ in range(2):
        compare("/images", str(tmp_path), ["MobileNetV2"], load({"weights": "random"}))
    assert runs == ["MobileNetV2", "MobileNetV2"]


@pytest.mark.parametrize("tolerance", [-0.1, 1.0, float("nan")])
def test_a_tolerance_that_is_no_share_is_refused(tolerance: float, runs: list[str], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--tolerance"):
        compare("/images", str(tmp_path), ["MobileNetV2"], load(), tolerance=tolerance)
    assert runs == []


def test_weights_that_are_missing_stop_it_before_the_first_run(
    runs: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.setenv("HOME", str(tmp_path))
    asked: list[str] = []

    def build(backbone: Any, **_: Any) -> None:
        asked.append(backbone.name)
        raise WeightsUnavailable("no network")

    monkeypatch.setattr(comparison, "build_artifact", build)
    with pytest.raises(WeightsUnavailable):
        compare("/images", str(tmp_path / "out"), ["EfficientNetLite0", "MobileNetV2"], load())
    assert asked == ["MobileNetV2"]
    assert runs == []


def test_the_page_loads_nothing_and_names_are_text() -> None:
    hostile = "/data/<script>alert(1)</script>"
    rows = [{**vars(_row("EfficientNetLite0", 0.95, 9)), "best_trade_off": True}]
    page = render(hostile, rows, tolerance=0.01)
    assert "<script" not in page
    assert "http" not in page.replace("http-equiv", "")
    assert re.search(r'id="race".*?<circle[^>]*r="6"', page, re.DOTALL)
    assert "93.0 to 96.0%" in page
