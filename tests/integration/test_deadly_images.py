"""Images that end the process that decodes them end no command: they are rejected, and everything else is done."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq

import deadly


def test_images_that_end_their_decoder_are_rejected(photos: Path, tmp_path: Path) -> None:
    """The run ended at its fourth attempt, at every start, and named no image."""
    environment = os.environ | deadly.environment(tmp_path / "site")

    def run(*arguments: object, code: int = 0) -> str:
        command = [sys.executable, "-m", "orchard", *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        assert done.returncode == code, done.stderr
        return done.stdout

    folder = photos / "Training" / "Lemon #2"
    for name, number in (("SIGSEGV", signal.SIGSEGV), ("SIGKILL", signal.SIGKILL), ("endless", 0)):
        (folder / f"{name}.jpg").write_bytes(deadly.deadly(number))
    out = tmp_path / "out"
    run("run", photos, "--output", out, "--precision", "int8", "--max-decode-seconds", "0.5")
    counts = json.loads((out / "metrics.json").read_text())["images"]
    assert (counts["listed"], counts["featurized"], counts["rejected"]) == (93, 90, 3)
    rejected = {Path(row["path"]).name: row["reason"] for row in pq.read_table(out / "rejected").to_pylist()}
    assert rejected == {"SIGSEGV.jpg": "corrupt", "SIGKILL.jpg": "too_many_pixels", "endless.jpg": "too_slow"}
    (folder / "endless.jpg").unlink()
    del rejected["endless.jpg"]
    for where in ("--spark", "--no-spark"):
        answers = map(json.loads, run("predict", out, folder, "--format", "jsonl", where, code=1).splitlines())
        assert {Path(answer["path"]).name: answer["reason"] for answer in answers if "reason" in answer} == rejected
    planned = json.loads(run("plan", photos, "--precision", "float32", "--json"))  # half of a measurement dies
    assert planned["images"] == 92 and planned["rejected_kinds"]
