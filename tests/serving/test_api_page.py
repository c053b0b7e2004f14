"""The examples of docs/api.md run as they stand, and its tables name what there is."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from orchard.cli.serve import serve
from orchard.serving.problems import STATUS, Refusal
from orchard.vocabulary import Reason

from .conftest import Server

PAGE = Path(__file__).resolve().parents[2] / "docs" / "api.md"


@pytest.fixture(scope="module")
def text() -> str:
    return PAGE.read_text()


@pytest.fixture
def folder(fruits: Path, tmp_path: Path) -> Path:
    for name, label in (("mango", "Mango"), ("plum", "Plum 5")):
        shutil.copy(min((fruits / "Test" / label).iterdir()), tmp_path / f"{name}.jpg")
    return tmp_path


def _run(command: list[str], language: str, text: str, server: Server, folder: Path) -> str:
    (example,) = re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)
    assert "http://localhost:8080" in example
    suffix = {"bash": "sh", "python": "py", "javascript": "mjs"}[language]
    (folder / f"example.{suffix}").write_text(example.replace("http://localhost:8080", server.url))
    done = subprocess.run(
        [*command, f"example.{suffix}"], cwd=folder, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")
def test_the_curl_examples(text: str, server: Server, folder: Path) -> None:
    answers = _run(["bash", "-e"], "bash", text, server, folder).replace("}{", "}\n{").splitlines()
    one, several, raw = [json.loads(answer)["predictions"] for answer in answers]
    assert one[0]["label"] == raw[0]["label"] == "Mango"
    assert [(entry["filename"], entry["label"], len(entry["top"])) for entry in several] == [
        ("mango.jpg", "Mango", 3),
        ("plum.jpg", "Plum 5", 3),
    ]


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")
def test_the_curl_examples_of_regions_and_cards(text: str, server: Server, folder: Path) -> None:
    shutil.copy(folder / "mango.jpg", folder / "basket.jpg")
    examples = re.findall(r"^curl .*(?:regions|cards)=.*$", text, re.MULTILINE)
    command = " && ".join(examples).replace("http://localhost:8080", server.url)
    done = subprocess.run(["bash", "-ec", command], cwd=folder, capture_output=True, text=True, check=True, timeout=60)
    where, card = (json.loads(line)["predictions"][0] for line in done.stdout.replace("}{", "}\n{").splitlines())
    assert where["regions"][0]["name"] == "Mango" and where["map"]
    assert card["card"] is None  # this model has none


def test_the_python_example(text: str, server: Server, folder: Path) -> None:
    lines = _run([sys.executable], "python", text, server, folder).splitlines()
    assert re.fullmatch(r"mango.jpg Mango \d+%", lines[0])
    assert re.fullmatch(r"plum.jpg Plum 5 \d+%", lines[1])


@pytest.mark.skipif(shutil.which("node") is None, reason="there is no Node.js")
def test_the_javascript_example(text: str, server: Server, folder: Path) -> None:
    assert re.fullmatch(r"Mango [01]\.?\d*\n", _run(["node"], "javascript", text, server, folder))


def test_the_tables_name_every_reason_and_every_flag_that_limits(text: str) -> None:
    rows = dict(re.findall(r"^\| `([a-z_]+)` \| (\d+)", text, re.MULTILINE))
    assert rows == {str(reason): str(int(STATUS[reason])) for reason in (*Reason, *Refusal)}
    flags = set(re.findall(r"`(--[a-z-]+)", text))
    usage = CliRunner().invoke(serve, ["--help"]).output
    assert flags <= set(re.findall(r"--[a-z-]+", usage))
