"""How much chaos, by which seeds, and a table of what came out of it.

The gate runs a part of the chaos suite; ``make chaos`` sets ``CHAOS``, which is how many times as long it runs. Another
``CHAOS_SEED`` chooses another course of events, and the same seed the same one.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

TIMES = int(os.environ.get("CHAOS", "1"))
SEED = int(os.environ.get("CHAOS_SEED", "10"))
SUMMARY = os.environ.get("CHAOS_SUMMARY")

Note = Callable[[str, int, str], None]


def seeds(few: int, many: int) -> list[int]:
    """Return the seeds of a parametrized test: few in the gate, many in ``make chaos``."""
    return [SEED * 1000 + n for n in range(few if TIMES == 1 else many)]


@pytest.fixture
def note(request: pytest.FixtureRequest) -> Note:
    """Put a line into the table: what was done, how often, what came out of it."""

    def add(what: str, times: int, outcome: str) -> None:
        # A report brings its test's properties here, whichever process the test ran in.
        request.node.user_properties.append(("chaos", (str(what), int(times), str(outcome), request.function.__name__)))

    return add


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Show what was done and what came out; write it to the file `CHAOS_SUMMARY` too."""
    rows: dict[tuple[str, str, str], int] = {}
    reports = [report for reports in terminalreporter.stats.values() for report in reports]
    for report in reports:
        if getattr(report, "when", None) != "call":
            continue
        for what, times, outcome, test in (value for name, value in report.user_properties if name == "chaos"):
            rows[what, outcome, test] = rows.get((what, outcome, test), 0) + times
    lines = ["| what was done | times | what came out | test |", "| --- | ---: | --- | --- |"]
    lines += [f"| {what} | {times:,} | {outcome} | `{test}` |" for (what, outcome, test), times in rows.items()]
    if rows:
        terminalreporter.section("chaos")
        terminalreporter.write_line("\n".join(lines))
    if rows and SUMMARY:
        Path(SUMMARY).parent.mkdir(parents=True, exist_ok=True)
        Path(SUMMARY).write_text("\n".join(lines) + "\n")
