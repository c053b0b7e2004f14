"""What pip knows Orchard by: a name of its own, which no document gives away to a stranger's package."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

from conftest import REPOSITORY
from orchard.version import DISTRIBUTION, VERSION

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
INSTALL = re.compile(
    r"(?:\bpip3?|\bpipx|\buv(?: pip| tool)?|\bpip, |-m pip)\s+(?:install|add)\b([^\n`]*)|\buvx\s+([^\n`]*)"
)
WITH_VALUE = {"-r", "-c", "-t", "--target", "--python-version", "--requirement", "--constraint", "--out-dir"}
NOT_FROM_AN_INDEX = re.compile(r"[.$/\"{]|.*\.whl\b|.*\.lock$|.*\.txt$")


def requirement_names(line: str) -> list[str]:
    """The names that a line of shell has pip ask an index for."""
    words = iter(re.split(r"[\s'\"]+", line.partition("\\")[0].split(" && ")[0].split(" # ")[0].strip()))
    names = []
    for word in words:
        if word in WITH_VALUE:
            next(words, None)
        elif word and not word.startswith("-") and not NOT_FROM_AN_INDEX.match(word):
            found = re.match(r"[A-Za-z0-9][A-Za-z0-9._-]*", word)
            if not found or word != re.sub(r"[^\w.\[\],=<>~!;:)-]", "", word):
                break  # prose goes on where the command ends
            names.append(re.sub(r"[-_.]+", "-", found[0].rstrip(".")).lower())
            if re.search(r"[.;:)]$", word):
                break
    return names


def test_nobody_is_told_to_install_a_package_that_is_not_ours() -> None:
    groups = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["dependency-groups"]["dev"]
    wanted = [
        *PROJECT["dependencies"],
        *groups,
        *(name for extra in PROJECT["optional-dependencies"].values() for name in extra),
    ]
    known = {re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", name)[0]).lower() for name in wanted}  # type: ignore[index]
    tracked = subprocess.run(
        ["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, text=True, check=True
    ).stdout
    strangers, seen = [], 0
    for name in filter(None, tracked.split("\0")):
        path = REPOSITORY / name
        if path == Path(__file__) or path.suffix in (".lock", ".png", ".json") or not path.is_file():
            continue
        for found in INSTALL.finditer(path.read_text(errors="replace")):
            seen += 1
            strangers += [
                f"{name}: {found[0]}" for asked in requirement_names(found[1] or found[2]) if asked not in known
            ]
    assert not strangers
    assert seen > 5


def test_the_scan_finds_a_name_that_is_not_ours() -> None:
    (found,) = INSTALL.finditer("It needs the extra (`pip install 'orchard[serve]'`), no Spark")
    assert requirement_names(found[1]) == ["orchard"]
    assert requirement_names("-q --no-deps -r requirements.lock '.[serve]' onnx>=1.18 Pillow") == ["onnx", "pillow"]


def test_the_name_and_version_are_those_that_the_build_takes() -> None:
    assert PROJECT["name"] == DISTRIBUTION != "orchard"
    assert "version" in PROJECT["dynamic"]
    assert PROJECT["scripts"] == {"orchard": "orchard.__main__:main"}


def test_the_version_is_known_without_an_installed_distribution(tmp_path: Path) -> None:
    """From a plain PYTHONPATH, with nothing of ours in the metadata, and a stranger's ``orchard`` there."""
    stranger = tmp_path / "orchard-9.9.dist-info"
    stranger.mkdir()
    (stranger / "METADATA").write_text("Metadata-Version: 2.1\nName: orchard\nVersion: 9.9\n")
    code = "import sys; sys.path.insert(0, sys.argv.pop(1)); from orchard.cli import main; main()"
    asked = [sys.executable, "-c", code, str(tmp_path), "--version"]
    said = subprocess.run(asked, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert said.stdout.strip() == f"orchard, version {VERSION}", said.stderr
