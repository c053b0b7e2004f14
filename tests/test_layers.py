"""Imports point one way: from a module's own floor or from those below; docs/design.md shows the floors."""

import ast
import graphlib
import re
from collections.abc import Collection, Iterator
from pathlib import Path

from conftest import REPOSITORY

APP = REPOSITORY / "app"
DESIGN = REPOSITORY / "docs" / "design.md"

FLOORS = (
    ("__main__", "cli", "api"),
    ("comparison", "pipeline", "featurizing"),
    ("planning", "report", "summary", "headline", "verify", "erasure"),
    ("exports", "serving", "watching", "cluster"),
    ("review", "neighbours", "tuning", "classification"),
    ("inference", "reduction"),
    ("features",),
    (
        "spark",
        "processes",
        "tasks",
        "workers",
        "datasets",
        "stages",
        "monitoring",
        "usage",
        "cluster.executors",
        "cluster.client",
    ),
    ("images", "settings", "settings_text", "flags", "cluster.autoscaling", "cluster.reasons"),
    ("output", "log", "models", "lock", "upgrade"),
    ("cards", "files", "delimited"),
    ("storage", "commandline", "child", "runlog", "webhook", "progress", "interruption", "scratch"),
    ("orchard", "errors", "layout", "vocabulary", "redaction", "memory", "machine", "npz", "version"),
)
"""The rooms of `orchard`, the highest floor first. A module of a package may stand on another floor than the rest."""

RULE = "imports point one way, from higher floors to lower ones (FLOORS in tests/test_layers.py, docs/design.md)"


def modules() -> dict[str, Path]:
    """Every module's name, below ``orchard``, and its file."""
    found = {}
    for path in sorted((APP / "orchard").rglob("*.py")):
        if "page" not in path.relative_to(APP).parts:
            parts = path.relative_to(APP / "orchard").with_suffix("").parts
            found[".".join(parts).removesuffix(".__init__").replace("__init__", "orchard")] = path
    return found


def floor(module: str) -> int | None:
    """The floor of a module, by its own name or that of the package that it is in; 0 is the highest."""
    named = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
    while module and module not in named:
        module = module.rpartition(".")[0]
    return named.get(module)


def imported(path: Path, known: Collection[str]) -> Iterator[tuple[int, str]]:
    """The line and name of each module of ours that a file imports, in functions too, but not for its types alone."""
    tree = ast.parse(path.read_text())
    for_types = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if node in for_types:
            continue
        if not isinstance(node, ast.Import | ast.ImportFrom):
            continue
        if isinstance(node, ast.Import):
            names = [name.name for name in node.names]
        else:
            names = [f"{node.module}.{name.name}" for name in node.names]
        for name in names:
            if name == "orchard" or name.startswith("orchard."):
                inner = name.partition(".")[2]
                while inner and inner not in known:
                    inner = inner.rpartition(".")[0]
                yield node.lineno, inner or "orchard"


def violations() -> list[str]:
    """What is against the rule, a sentence each."""
    known = modules()
    wrong = [
        f"app/orchard/{path.relative_to(APP / 'orchard')} is on no floor: {RULE}"
        for name, path in known.items()
        if floor(name) is None
    ]
    for name, path in known.items():
        for line, target in imported(path, known):
            here, there = floor(name), floor(target)
            if here is not None and there is not None and there < here:
                wrong.append(f"{path.relative_to(APP)}:{line} imports orchard.{target} from a higher floor: {RULE}")
    return wrong


def test_imports_point_one_way() -> None:
    assert not violations(), "\n".join(violations())


def test_no_modules_import_each_other() -> None:
    """Not even within functions: `graphlib` names the modules of a circle, if there is one."""
    known = modules()
    imports = {
        name: {target for _, target in imported(path, known)} - {name, "orchard"} for name, path in known.items()
    }
    graphlib.TopologicalSorter(imports).prepare()


def test_every_room_on_a_floor_is_there_and_on_one_floor_alone() -> None:
    rooms = [room for rooms in FLOORS for room in rooms]
    assert len(rooms) == len(set(rooms))
    packages = {name.rpartition(".")[0] for name in modules()}
    assert not {room for room in rooms if room not in modules() and room not in packages}


def test_the_design_shows_the_same_floors_and_numbers_its_decisions_in_order() -> None:
    text = DESIGN.read_text()
    rows = re.findall(r"^\| (\d+) \| (.+?) \|", text.partition("## Floors")[2].partition("\n## ")[0], re.MULTILINE)
    shown = tuple(tuple(re.findall(r"`(?:orchard/)?([\w.]+?)`", rooms)) for _, rooms in rows)
    assert shown == FLOORS
    assert [int(number) for number, _ in rows] == list(range(1, len(FLOORS) + 1))
    decisions = [int(number) for number in re.findall(r"^(\d+)\. ", text.partition("## Decisions")[2], re.MULTILINE)]
    assert decisions == list(range(1, len(decisions) + 1))


def test_a_constant_is_defined_once() -> None:
    """A second value under the same name would silently take the place of the first for all who import it."""
    twice = []
    for module, path in modules().items():
        seen: set[str] = set()
        for node in ast.parse(path.read_text()).body:
            targets = node.targets if isinstance(node, ast.Assign) else []
            names = [target.id for target in targets if isinstance(target, ast.Name)]
            twice += [f"{module}.{name} (line {node.lineno})" for name in names if name in seen]
            seen.update(names)
    assert not twice
