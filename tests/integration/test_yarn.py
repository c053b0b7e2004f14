"""On YARN, as EMR on EC2 runs it: the same results as on this machine, in both modes, and after a kill.

The cluster is Hadoop's mini cluster; Spark is told there what EMR's configuration tells it.
"""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pyspark
import pytest
from click.testing import CliRunner
from pyspark.sql import SparkSession

import orchard
from conftest import REPOSITORY, emulator
from orchard.cli import cli
from orchard.cluster.emr_ec2 import CONFIGURATION, ENTRY_POINT
from orchard.features import conversion
from results import assert_same_results

from .conftest import COLOURS, paint
from .test_notebook import run_example

MAIN = REPOSITORY / "docker" / "main.py"
SPARK = Path(pyspark.__file__).parent
IMAGES = 240
SETTINGS: dict[str, Any] = {
    "classifiers": "linear_discriminant",
    "precision": "float32",
    "input_size": 96,
    "task_images": 8,
}
FLAGS = [word for name, value in SETTINGS.items() for word in (f"--{name.replace('_', '-')}", str(value))]
T = TypeVar("T")


@dataclass(frozen=True)
class Yarn:
    """A YARN cluster.

    Attributes:
        conf: the folder that ``HADOOP_CONF_DIR`` and ``SPARK_CONF_DIR`` name.
    """

    conf: Path

    @property
    def environment(self) -> dict[str, str]:
        """What a node of the cluster has, on which somebody submits a job or opens a notebook."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYSPARK_", "SPARK_"))}
        folders = dict.fromkeys(("HADOOP_CONF_DIR", "SPARK_CONF_DIR"), str(self.conf))
        return kept | folders | {"SPARK_LOCAL_IP": "127.0.0.1"}

    def submit(self, log: Path, *words: object) -> "subprocess.Popen[bytes]":
        """Begin ``spark-submit``; what it says goes to `log`."""
        command = [str(SPARK / "bin" / "spark-submit"), *map(str, words)]
        with log.open("wb") as said:
            return subprocess.Popen(command, env=self.environment, stdout=said, stderr=said)


@pytest.fixture(scope="module")
def yarn(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Yarn]:
    """Hadoop's mini cluster, with Spark's properties as EMR's configuration has them."""
    folder = tmp_path_factory.mktemp("yarn")
    conf, log = folder / "yarn" / "conf", folder / "log"
    command = [emulator("mini-yarn"), str(folder / "yarn")]
    with log.open("wb") as said:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=said, stderr=said)
    try:
        until(conf.joinpath("yarn-site.xml").is_file, process, log)
        lines = (f"{name} {value}\n" for name, value in spark_defaults(folder).items())
        (conf / "spark-defaults.conf").write_text("".join(lines))
        yield Yarn(conf)
    finally:
        process.communicate(timeout=60)  # its standard input ends, and with it the cluster


def spark_defaults(folder: Path) -> dict[str, str]:
    """Return the properties that EMR's configuration has, and where things lie on this machine."""
    configured = {each["Classification"]: each for each in json.loads(CONFIGURATION.read_text())}
    variables = {"PYTHONPATH": REPOSITORY / "app", "ORCHARD_CACHE": conversion.cache_folder()}
    here: dict[str, object] = {
        "spark.master": "yarn",
        "spark.pyspark.python": sys.executable,
        "spark.pyspark.driver.python": sys.executable,
        "spark.yarn.jars": f"local:{SPARK}/jars/*",
        "spark.yarn.stagingDir": (folder / "staging").as_uri(),
        "spark.yarn.am.waitTime": "300s",  # on a machine that has other things to do
        "spark.executor.cores": 1,
        "spark.dynamicAllocation.maxExecutors": 2,
        **{f"spark.executorEnv.{name}": value for name, value in variables.items()},
        **{f"spark.yarn.appMasterEnv.{name}": value for name, value in variables.items()},
    }
    properties: dict[str, str] = configured["spark-defaults"]["Properties"]
    return properties | {name: str(value) for name, value in here.items()}


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`IMAGES` images of three labels: enough for several commits."""
    folder = tmp_path_factory.mktemp("many")
    for number in range(IMAGES):
        label = list(COLOURS)[number % len(COLOURS)]
        split = "Test" if number % 5 == 0 else "Training"
        paint(folder / split / label / f"{number}.jpg", COLOURS[label], number)
    return folder


@pytest.fixture(scope="module")
def here(spark: SparkSession, many: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of a run on this machine."""
    out = tmp_path_factory.mktemp("here") / "out"
    orchard.run(spark, str(many), str(out), **SETTINGS)
    return out


def until(look: Callable[[], T | None], process: "subprocess.Popen[bytes]", log: Path) -> T:
    """Return what `look` finds as soon as it is true, while a process runs."""
    end = time.monotonic() + 300
    while not (found := look()):
        if process.poll() is not None or time.monotonic() > end:
            pytest.fail(log.read_text(errors="replace")[-3000:])
        time.sleep(0.02)
    return found


def test_a_step_in_client_mode_comes_to_the_same_and_its_network_is_shared_out_once(
    yarn: Yarn, many: Path, here: Path, tmp_path: Path
) -> None:
    events = tmp_path / "events"
    events.mkdir()
    told = {
        "spark.eventLog.enabled": "true",
        "spark.eventLog.dir": events.as_uri(),
        "spark.eventLog.compress": "false",
        "spark.eventLog.logBlockUpdates.enabled": "true",
        "spark.scheduler.minRegisteredResourcesRatio": "1",  # both executors are there when the work begins
        "spark.scheduler.maxRegisteredResourcesWaitingTime": "300s",
    }
    # What `orchard submit` would have EMR do, but for where things lie.
    words = ["submit", "s3a://bucket/photos", "--output", "s3a://bucket/out", *FLAGS, "--executors", "2"]
    words += [f"--spark-conf={name}={value}" for name, value in told.items()]
    words += ["--target", "emr-ec2", "--cluster-id", "j-1", "--dry-run"]
    request = json.loads(CliRunner().invoke(cli, words, catch_exceptions=False).stdout)
    places = {ENTRY_POINT: MAIN, "s3a://bucket/photos": many, "s3a://bucket/out": tmp_path / "out"}
    command, *words = request["Steps"][0]["HadoopJarStep"]["Args"]
    assert command == "spark-submit"
    process = yarn.submit(tmp_path / "log", *(places.get(word, word) for word in words))
    assert process.wait(300) == 0, (tmp_path / "log").read_text()[-3000:]
    assert_same_results(tmp_path / "out", here)

    stored = network_pieces(events)
    assert stored.keys() == {"driver", "1", "2"}
    assert len(stored["driver"]) > 1, "the network has more than a piece"
    assert stored["driver"] == stored["1"] == stored["2"] == Counter(set(stored["driver"])), "each has each once"


def network_pieces(events: Path) -> dict[str, Counter[str]]:
    """Return how often each executor, and the driver, stored each piece of the largest of what was broadcast."""
    (log,) = events.rglob("events_1_*")
    sizes, stored = Counter[str](), dict[str, dict[str, Counter[str]]]()
    for line in log.read_text().splitlines():
        if (event := json.loads(line))["Event"] == "SparkListenerBlockUpdated":
            block = event["Block Updated Info"]
            name, _, piece = block["Block ID"].rpartition("_")
            is_stored = block["Storage Level"]["Replication"] > 0  # of one that goes it is 0, and the size what it was
            if piece.startswith("piece") and is_stored and (size := block["Memory Size"] + block["Disk Size"]):
                sizes[name] += size
                who = stored.setdefault(name, {}).setdefault(block["Block Manager ID"]["Executor ID"], Counter())
                who[piece] += 1
    ((network, _),) = sizes.most_common(1)
    return stored[network]


def test_a_driver_that_is_killed_in_the_cluster_goes_on_in_yarns_next_attempt(
    yarn: Yarn, many: Path, here: Path, tmp_path: Path
) -> None:
    out, log = tmp_path / "out", tmp_path / "log"
    words = ["--data_source", many, "--output_uri", out, *FLAGS]
    process = yarn.submit(log, "--deploy-mode", "cluster", MAIN, *words)
    try:
        submitted = r"Submitted application application_(\d+_\d+)"
        application = until(lambda: re.search(submitted, log.read_text()), process, log)[1]
        first = f"container_{application}_01_000001"
        until(lambda: list(out.glob("features/*.parquet")), process, log)
        driver = processes(first)
        assert driver, "the first container of an application is not the driver's"
        for number in driver:
            with contextlib.suppress(ProcessLookupError):  # it went with one of the others
                os.kill(number, signal.SIGKILL)
        until(lambda: not processes(first), process, log)
        committed = committed_images(out)
        assert process.wait(300) == 0, log.read_text()[-3000:]
    finally:
        process.kill()
    assert_same_results(out, here)
    assert 0 < committed < IMAGES
    images = json.loads((out / "metrics.json").read_text())["images"]
    assert (images["listed"], images["decoded"]) == (IMAGES, IMAGES - committed)

    # Again, with nothing to do: YARN wants to see a Spark session all the same.
    process = yarn.submit(log, "--deploy-mode", "cluster", MAIN, *words)
    assert process.wait(300) == 0, log.read_text()[-3000:]
    assert json.loads((out / "metrics.json").read_text())["images"]["decoded"] == 0


def processes(container: str) -> list[int]:
    """Return the processes of one of YARN's containers."""
    name, found = f"CONTAINER_ID={container}\0".encode(), []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):  # it has just ended, or is another user's
            if name in path.read_bytes():
                found.append(int(path.parent.name))
    return found


def committed_images(out: Path) -> int:
    """Return how many images are done, as the output's log says: the files of a commit may still be on their way."""
    commits = [json.loads(path.read_text()) for path in (out / "_orchard" / "commits").glob("*.json")]
    return sum(rows for commit in commits for _, rows, *_ in commit["add"].get("inventory", []))


def test_the_example_notebook_runs_on_the_cluster(yarn: Yarn, tmp_path: Path) -> None:
    environment = yarn.environment | {"ORCHARD_MASTER": "yarn", "PYSPARK_PYTHON": sys.executable}
    run = json.loads(run_example(tmp_path, env=environment).with_name("run.json").read_text())
    assert run["machine"]["spark_master"] == "yarn"
