"""`spark-submit` starts Orchard as an operator or EMR does: with a JVM and a master of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pyspark

from orchard.images.sample import write_sample

ENCRYPTED = ("spark.authenticate", "spark.network.crypto.enabled", "spark.io.encryption.enabled")


def test_spark_submits_master_holds_and_everything_can_be_encrypted(tmp_path: Path) -> None:
    write_sample(tmp_path / "photos")
    application = tmp_path / "main.py"
    application.write_text("from orchard.cli import main\n\nmain()\n")
    submit = Path(pyspark.__file__).with_name("bin") / "spark-submit"
    command: list[str | Path] = [
        submit,
        "--master",
        "local[1]",
        *(f"--conf={key}=true" for key in ENCRYPTED),
        application,
    ]
    command += ["run", tmp_path / "photos", "--output", tmp_path / "out", "--limit", "60", "--json"]
    command += ["--classifiers", "linear_discriminant"]
    environment = os.environ | {"PYSPARK_PYTHON": sys.executable, "PYSPARK_DRIVER_PYTHON": sys.executable}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    run = json.loads((tmp_path / "out" / "run.json").read_text())
    assert run["machine"]["spark_master"] == "local[1,4]"
