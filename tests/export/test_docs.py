"""What docs/export.md says about a file is so."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

from export.runtimes import Exporter
from orchard.exports.card import model_card
from orchard.exports.formats import Format, Precision, card_beside
from orchard.inference.model import Model

PAGE = (Path(__file__).parents[2] / "docs" / "export.md").read_text()


def block(language: str) -> str:
    (found,) = re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    return found


def test_the_example_in_python_tells_a_fruit(exported: Exporter, fruits: Path, tmp_path: Path) -> None:
    file = exported(Format.ONNX, Precision.FLOAT32)
    shutil.copy(file, tmp_path / "fruits.onnx")
    card = json.loads(card_beside(file).read_text())
    (tmp_path / "fruits.onnx.json").write_text(json.dumps(card | {"threshold": 0.5, "familiarity_threshold": 0.3}))
    shutil.copy(next((fruits / "Test" / "Mango").glob("*.jpg")), tmp_path / "photo.jpg")
    run = [sys.executable, "-c", block("python")]
    assert subprocess.run(run, cwd=tmp_path, capture_output=True, text=True, check=True).stdout.startswith("Mango ")


def test_the_card_in_the_page_has_the_fields_of_a_card(model: Model) -> None:
    shown, card = json.loads(block("json")), model_card(model, Format.ONNX, Precision.FLOAT32)
    assert set(shown) == {*card, "cards", "file"}
    for part in ("input", "answers", "backbone", "licences"):
        assert set(shown[part]) == set(card[part])
    *outputs, of_kinds, of_column = ({**output, "shape": None} for output in shown["outputs"])
    assert [*outputs, {**of_column, "name": "colour_probabilities"}] == [
        {**output, "shape": None} for output in card["outputs"]
    ]
    assert of_kinds["name"] == "kind_probabilities"  # of a model that knows kinds
    assert set(shown["columns"][0]) == set(card["columns"][0])
    assert {*shown["training"]} <= {*card["training"]}
