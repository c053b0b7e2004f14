"""Figures by themselves: whole, in colours, with their text."""

import io
import sys
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from orchard.errors import UsageError
from orchard.layout import Metrics, Run
from orchard.report import ReportData
from orchard.report.page import layout_of
from orchard.report.samples import Point
from orchard.report.slides import WIDTH, write_figures


@pytest.fixture
def drawn(a_run: Callable[[], Run], metrics_of: Callable[..., Metrics]) -> dict[str, str]:
    labels = ["Apple", 'a "<b>" & \x01\udce9', *(f"Pear {i}" for i in range(10))]
    points = [Point(f"{i}.jpg", label, "test", i, -i) for i, label in enumerate(labels)]
    return dict(layout_of(ReportData(metrics_of(labels), a_run(), points))[2])


def test_every_figure_is_written_as_svg_and_png(drawn: dict[str, str], tmp_path: Path) -> None:
    pytest.importorskip("resvg_py")
    written = write_figures(drawn, tmp_path / "slides")
    names = {file.stem for file in written}
    assert names == {
        *("coverage", "familiarity", "reliability", "near-twins", "map", "scree", "cumulative", "work"),
        *(
            f"confusion-{name}{kind}-{by}"
            for name in ("logistic-regression", "random-forest")
            for kind in ("", "-by-kind")
            for by in ("share", "count")
        ),
    }
    for name in names:
        svg = (tmp_path / "slides" / f"{name}.svg").read_text()
        assert ElementTree.fromstring(svg).tag == "{http://www.w3.org/2000/svg}svg"  # noqa: S314 - ours
        assert "var(" not in svg
        with Image.open(io.BytesIO((tmp_path / "slides" / f"{name}.png").read_bytes())) as image:
            assert image.width == WIDTH
            pixels = np.asarray(image.convert("RGB"))
        assert pixels[0, 0].tolist() == [0xFB, 0xFA, 0xF6]
        assert (np.ptp(pixels[::2, ::2], axis=2) > 60).any(), f"{name} has no colour"


def test_the_text_of_a_figure_is_drawn(drawn: dict[str, str], tmp_path: Path) -> None:
    pytest.importorskip("resvg_py")
    without = {name: svg.replace("<text", "<desc").replace("</text", "</desc") for name, svg in drawn.items()}
    write_figures({"coverage": drawn["coverage"]}, tmp_path / "with")
    write_figures({"coverage": without["coverage"]}, tmp_path / "without")
    ink = [np.asarray(Image.open(tmp_path / folder / "coverage.png").convert("L")) for folder in ("with", "without")]
    assert (ink[0] < 128).sum() > (ink[1] < 128).sum() + 1000


def test_what_cannot_be_written_is_said(drawn: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="name another folder"):
        write_figures(drawn, tmp_path / "file")
    monkeypatch.setitem(sys.modules, "resvg_py", None)
    with pytest.raises(UsageError, match="pip install resvg-py"):
        write_figures(drawn, tmp_path / "slides")
