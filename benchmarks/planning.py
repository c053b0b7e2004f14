"""What is expected beside what a run takes: by `orchard plan` before it, and by the run when its first tasks are done.

Each turn is `orchard plan` and `orchard run` on a new output, as a person starts them, then both once more on the same
output with ``--fresh``, whose estimates the first run corrects. `--images` may be a folder or a manifest.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import measuring


def orchard(command: str, source: Path, output: Path, *flags: str) -> tuple[dict[str, Any], float]:
    """Return what a command prints as JSON, and its seconds."""
    words = [sys.executable, "-m", "orchard", command, str(source), "--output", str(output), "--json", *flags]
    started = time.monotonic()
    done = subprocess.run(words, check=True, capture_output=True)
    return json.loads(done.stdout), time.monotonic() - started


def turn(source: Path, output: Path, flags: tuple[str, ...]) -> dict[str, Any]:
    """Plan, run, and set the two beside each other."""
    planned, plan_seconds = orchard("plan", source, output, *flags)
    _, seconds = orchard("run", source, output, *flags)
    run = json.loads((output / "run.json").read_text())
    before = {stage["stage"]: stage["seconds"] for stage in planned["stages"]}
    stages = {
        stage["stage"]: {"plan": before.get(stage["stage"]), "run": stage["seconds"], "took": stage.get("took")}
        for stage in run["plan"]["stages"]
    }
    return {
        "stages": stages,
        "all": {"plan": planned["seconds"], "took": seconds},
        "sizes": {name: (planned[f"{name}_bytes"], took) for name, took in run["plan"]["took"].items()},
        "core_hours": (planned["core_hours"], run["plan"]["took_core_hours"]),
        "slowdown": planned["slowdown"],
        "plan_seconds": plan_seconds,
    }


def main() -> None:
    """Measure, print, save."""
    parser = measuring.parser(__doc__)
    parser.add_argument("--again", action="store_true", help="also with --fresh on the same output")
    given, flags = parser.parse_known_args()
    source = (given.images or measuring.SHARED / "fruits").resolve()
    if given.limit:
        flags += ["--limit", str(given.limit)]
    turns = []
    with tempfile.TemporaryDirectory(dir=given.scratch) as scratch:
        for number in range(given.repeat):
            for more in ((), ("--fresh",))[: 2 if given.again else 1]:
                turns.append(turn(source, Path(scratch) / f"out{number}", (*flags, *more)))
                found = turns[-1]
                print(json.dumps(found), flush=True)

    def shown(value: float | None) -> str:
        return "" if value is None else f"{value:.1f}"

    rows = [
        (f"{number}", name, shown(one["plan"]), shown(one["run"]), shown(one["took"]))
        for number, found in enumerate(turns, 1)
        for name, one in found["stages"].items()
    ]
    rows += [
        (f"{number}", name, f"{expected / measuring.MB:,.0f} MB", "", f"{took / measuring.MB:,.0f} MB")
        for number, found in enumerate(turns, 1)
        for name, (expected, took) in found["sizes"].items()
    ]
    measuring.report("Expected beside taken", ("turn", "of", "by plan", "by the run", "took"), rows, [])
    measuring.save(given.json, {"turns": turns})


if __name__ == "__main__":
    main()
