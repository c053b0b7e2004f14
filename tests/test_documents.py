"""Every command in the documents is one that there is, with its flags, targets and values; every link leads somewhere.

What a command does is other tests' to show. Here documents are held to the command line, the Makefile and the chart.
"""

import json
import re
import shlex
import subprocess
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import click
import pytest

from conftest import REPOSITORY
from orchard.cli import cli

DOCUMENTS = sorted(
    path
    for path in (
        *REPOSITORY.glob("*.md"),
        *(
            path
            for folder in ("docs", "docker", "helm", "k8s", "benchmarks")
            for path in (REPOSITORY / folder).rglob("*.md")
        ),
    )
    if "node_modules" not in path.parts
)
MAKEFILE = (REPOSITORY / "Makefile").read_text()
TARGETS = set(re.findall(r"^([a-z0-9-]+):", MAKEFILE, re.MULTILINE))
VARIABLES = set(re.findall(r"\$[({](\w+)", MAKEFILE)) | {"CHAOS_SEED"}
SCHEMA = json.loads((REPOSITORY / "helm" / "orchard" / "values.schema.json").read_text())
SEPARATORS = {"&&", "||", "|", ";", ">", "&"}


def commands(text: str) -> Iterator[tuple[str, list[str]]]:
    """The commands in blocks of shell, each as its line and its words; a comment ends one."""
    for language, block in re.findall(r"^ *```(\w*)\n(.*?)^ *```", text, re.MULTILINE | re.DOTALL):
        if language not in ("", "sh", "bash", "console"):
            continue
        for line in re.sub(r"\\\n\s*", " ", block).splitlines():
            if not re.match(r"\s*(\S+=\S+ )*(\.venv/bin/)?(orchard|make|helm) ", line):
                continue
            lexer = shlex.shlex(line, posix=True, punctuation_chars="&|;>")
            lexer.wordchars += "{}$:,@%+\\"
            lexer.commenters = "#"
            words: list[str] = []
            for word in [*lexer, ";"]:
                if word in SEPARATORS:
                    yield line.strip(), words
                    words = []
                elif words or "=" not in word:
                    words.append(word)


def of(tool: str) -> list[Any]:
    return [
        pytest.param(words[1:], id=f"{path.relative_to(REPOSITORY)}: {line[:70]}")
        for path in DOCUMENTS
        for line, words in commands(path.read_text())
        if words and words[0].removeprefix(".venv/bin/") == tool
    ]


def test_a_checkout_may_lie_in_a_folder_with_spaces() -> None:
    for line in re.findall(r"^.*\$\(CURDIR\).*$", MAKEFILE, re.MULTILINE):
        assert line.startswith("export PATH :=") or line.count("$(CURDIR)") == line.count('"$(CURDIR)'), line


@pytest.mark.parametrize("words", of("orchard"))
def test_what_is_shown_of_orchard_parses(words: list[str]) -> None:
    assert words[0] in cli.commands, f"there is no `orchard {words[0]}`"
    cli.commands[words[0]].make_context(words[0], words[1:])


@pytest.mark.parametrize("words", of("make"))
def test_what_is_shown_of_make_has_a_target_and_variables(words: list[str]) -> None:
    for word in words:
        name, is_variable, _ = word.partition("=")
        assert name in (VARIABLES if is_variable else TARGETS), f"make knows no {name}"


@pytest.mark.parametrize("words", of("helm"))
def test_what_is_shown_of_helm_sets_values_that_the_chart_has(words: list[str]) -> None:
    for flag, value in pairwise(words):
        if flag in ("--set", "--set-string"):
            for pair in re.sub(r"\{[^}]*\}", "", value).split(","):
                assert _is_value(re.split(r"(?<!\\)\.", pair.partition("=")[0]), SCHEMA), pair
    for word in words:
        if word.startswith(("helm/", "k8s/")):
            assert (REPOSITORY / word).exists()


def _is_value(keys: list[str], schema: dict[str, Any]) -> bool:
    """Whether the chart's schema has a value: a property, or anything below one that may hold anything."""
    if "$ref" in schema:
        for part in schema["$ref"].removeprefix("#/").split("/"):
            schema = (SCHEMA if part in ("$defs", "definitions") else schema)[part]
    if not keys:
        return True
    name = re.sub(r"\[\d+\]$", "", keys[0])
    if name in schema.get("properties", {}):
        return _is_value(keys[1:], schema["properties"][name])
    if name == "global" or "properties" not in schema:
        return schema.get("additionalProperties", True) is not False
    return schema.get("additionalProperties", True) not in (False, None) and "additionalProperties" in schema


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_the_prose_names_commands_flags_targets_and_files_that_there_are(path: Path) -> None:
    text = path.read_text()
    for name, rest in re.findall(r"`orchard ([a-z]+)((?: [^`]*)?)`", text):
        assert name in cli.commands, f"there is no `orchard {name}`"
        flags = {flag for option in cli.commands[name].params for flag in (*option.opts, *option.secondary_opts)}
        assert set(re.findall(r"(?<= )--[a-z0-9-]+", rest)) <= flags | {"--help"}, f"orchard {name}{rest}"
    for target in re.findall(r"`make ([a-z0-9-]+)[^`]*`", text):
        assert target in TARGETS, f"there is no `make {target}`"
    prose = re.sub(r"^ *```.*?^ *```", "", text, flags=re.MULTILINE | re.DOTALL)
    for link in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", prose):
        assert "://" in link or link.startswith("mailto:") or (path.parent / link).exists(), link


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_nothing_to_copy_has_an_ellipsis(path: Path) -> None:
    assert not [line for line, words in commands(path.read_text()) if "…" in " ".join(words)]


def test_a_commit_that_the_contributors_guide_shows_is_in_the_history() -> None:
    text = (REPOSITORY / "CONTRIBUTING.md").read_text()
    shown = re.findall(r"\| `([0-9a-f]{7})` ", text)
    assert len(shown) >= 6
    if not (REPOSITORY / ".git").exists():
        pytest.skip("this is no checkout")
    if (
        subprocess.run(
            ["git", "rev-parse", "--is-shallow-repository"], cwd=REPOSITORY, capture_output=True, text=True, check=False
        ).stdout.strip()
        != "false"
    ):
        pytest.skip("this checkout has no history")
    for commit in shown:
        subprocess.run(["git", "cat-file", "-e", f"{commit}^{{commit}}"], cwd=REPOSITORY, check=True)


def test_the_check_sees_what_is_wrong() -> None:
    ((_, words),) = commands("```sh\n.venv/bin/orchard run photos --outptu out  # oops\n```\n")
    with pytest.raises(click.NoSuchOption):
        cli.commands["run"].make_context("run", words[2:])
    assert not _is_value(["excutor", "instances"], SCHEMA)
    assert _is_value(["executor", "instances"], SCHEMA)
