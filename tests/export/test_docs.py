"""What docs/export.md says about a file is so."""

import io
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tree_sitter
import tree_sitter_kotlin
import tree_sitter_swift
from PIL import Image, ImageCms

from export.runtimes import Exporter
from orchard.exports.card import model_card
from orchard.exports.formats import Format, StoredPrecision, card_beside
from orchard.inference.model import Model
from orchard.serving import static
from profiles import wide_gamut
from serving.visitor import cannot

PAGE = (Path(__file__).parents[2] / "docs" / "export.md").read_text()


def block(language: str) -> str:
    found: str
    (found,) = re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    return found


def test_the_example_in_python_tells_a_fruit(exported: Exporter, fruits: Path, tmp_path: Path) -> None:
    file = exported(Format.ONNX, StoredPrecision.FLOAT32)
    shutil.copy(file, tmp_path / "fruits.onnx")
    card = json.loads(card_beside(file).read_text())
    (tmp_path / "fruits.onnx.json").write_text(json.dumps(card | {"threshold": 0.5, "familiarity_threshold": 0.3}))
    photo = Image.open(next((fruits / "Test" / "Mango").glob("*.jpg"))).convert("RGBA")
    hidden = Image.new("RGBA", photo.size, (0, 0, 255, 0))
    hidden.paste(photo, (20, 20))
    shown = Image.alpha_composite(Image.new("RGBA", photo.size, "white"), hidden)
    run = [sys.executable, "-c", block("python")]
    wide, profile = photo.convert("RGB"), wide_gamut("Display P3")
    spaces = ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB")
    converted = ImageCms.profileToProfile(wide, *spaces)
    assert converted is not None and converted.tobytes() != wide.tobytes()
    told = []
    for picture in (photo, shown, hidden, converted, wide):
        picture.save(tmp_path / "photo.jpg", "PNG", icc_profile=profile if picture is wide else None)
        told.append(subprocess.run(run, cwd=tmp_path, capture_output=True, text=True, check=True).stdout)
    assert told[0].startswith("Mango ")
    assert told[1] == told[2]  # what is transparent lies on white
    assert told[3] == told[4] != told[0]  # colours are those of sRGB


def test_the_example_for_the_web_tells_a_fruit_in_node(exported: Exporter, fruits: Path, tmp_path: Path) -> None:
    node, packages = shutil.which("node"), static.PAGE / "node_modules"
    if node is None or not packages.is_dir():
        cannot("there is no Node.js, or npm has not brought the page's runtime: make setup")
    file = exported(Format.ONNX, StoredPrecision.FLOAT16)
    shutil.copy(file, tmp_path / "fruits.onnx")
    card = json.loads(card_beside(file).read_text())
    (tmp_path / "fruits.onnx.json").write_text(json.dumps(card | {"threshold": 0.5, "familiarity_threshold": 0.3}))
    (tmp_path / "node_modules").symlink_to(packages)
    (tmp_path / "snippet.mjs").write_text(block("js"))
    photo = Image.open(next((fruits / "Test" / "Mango").glob("*.jpg"))).convert("RGBA")
    (tmp_path / "photo.rgba").write_bytes(photo.tobytes())
    browser = Path(__file__).with_name("browser.mjs")
    command: list[str | Path] = [node, browser, tmp_path / "snippet.mjs", "photo.rgba", *map(str, photo.size)]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120)
    assert run.returncode == 0, run.stderr[-1000:]
    assert json.loads(run.stdout)["answer"] == "Mango"


@pytest.mark.parametrize(("language", "grammar"), [("kotlin", tree_sitter_kotlin), ("swift", tree_sitter_swift)])
def test_the_examples_for_phones_are_what_their_grammars_allow(language: str, grammar: Any) -> None:
    parser = tree_sitter.Parser(tree_sitter.Language(grammar.language()))
    assert not parser.parse(block(language).encode()).root_node.has_error
    assert parser.parse(block(language).replace("(", "", 1).encode()).root_node.has_error


def test_the_card_in_the_page_has_the_fields_of_a_card(model: Model) -> None:
    shown, card = json.loads(block("json")), model_card(model, Format.ONNX, StoredPrecision.FLOAT32)
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
