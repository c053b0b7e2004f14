"""The image: what it is, what is in it, and that it runs locked down.

It is made by ``make image``; ``IMAGE`` names another one.
"""

import json
import os
import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

from orchard.version import DISTRIBUTION, VERSION

if TYPE_CHECKING:
    from conftest import S3Server

pytestmark = pytest.mark.e2e

REPOSITORY = Path(__file__).resolve().parents[2]
DOCKER = os.environ.get("DOCKER") or ("/usr/bin/docker" if Path("/usr/bin/docker").exists() else "docker")
LOCKED_DOWN = (
    *("--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges", "--network=none", "--hostname=localhost"),
    *("--memory=4g", "--tmpfs=/tmp:exec,mode=1777"),
)


def docker(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([DOCKER, *arguments], capture_output=True, text=True, check=False)


def _cannot(reason: str) -> NoReturn:
    """Skip; in CI, where everything is to be had, fail."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def image() -> str:
    name = os.environ.get("IMAGE", f"orchard:{VERSION}")
    try:
        if docker("info").returncode:
            _cannot("there is no Docker engine: start one")
    except OSError:
        _cannot("there is no Docker: install it")
    if docker("image", "inspect", name).returncode:
        _cannot(f"there is no image {name}: make image")
    return name


@pytest.fixture(scope="session")
def inspected(image: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(docker("image", "inspect", image).stdout)[0]
    return found


def inside(image: str, script: str, *options: str) -> str:
    """What a shell in a container of the image prints."""
    result = docker("run", "--rm", *LOCKED_DOWN, *options, "--entrypoint=bash", image, "-euc", script)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


@pytest.fixture(scope="session")
def bill(image: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(inside(image, "cat sbom.cdx.json"))
    return found


def test_runs_as_spark_and_nobody_else(image: str, inspected: dict[str, Any]) -> None:
    assert inspected["Config"]["User"] == "185:0"
    assert inside(image, "echo $(id -un) $(id -u) $(id -g) $PWD $HOME") == "spark 185 0 /opt/orchard /tmp"


def test_labels_say_what_it_is(inspected: dict[str, Any]) -> None:
    labels = inspected["Config"]["Labels"]
    assert labels["org.opencontainers.image.title"] == "Orchard"
    assert labels["org.opencontainers.image.version"] == VERSION
    assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"
    assert re.fullmatch(r"[0-9a-f]{40}|", labels["org.opencontainers.image.revision"])


def test_is_small(inspected: dict[str, Any]) -> None:
    assert inspected["Size"] < 1.9e9


def test_holds_no_way_up_and_no_way_to_install(image: str) -> None:
    assert inside(image, "find / -xdev -type f -perm /6000 2>/dev/null || true") == ""
    tools = "apt apt-get pip pip3 uv gcc cc ld strip su mount passwd javac jshell mvn curl wget"
    assert inside(image, f"for tool in {tools}; do command -v $tool || true; done") == ""
    assert inside(image, "ls /var/lib/apt /var/cache/apt 2>/dev/null || true") == ""


def test_nothing_can_be_written_but_tmp(image: str) -> None:
    writable = inside(image, "find / -xdev -type d -writable 2>/dev/null || true", "--user=12345:12345")
    assert writable.split("\n") == ["/tmp"]  # noqa: S108 - the folder itself


def test_the_command_line_answers(image: str) -> None:
    for user in ("185:0", "12345:12345"):
        result = docker("run", "--rm", *LOCKED_DOWN, f"--user={user}", image, "--version")
        assert result.stdout.strip() == f"orchard, version {VERSION}", result.stderr


def test_bill_lists_what_is_installed(bill: dict[str, Any]) -> None:
    names = {component["name"] for component in bill["components"]}
    assert names >= {"tensorflow-cpu", "pyspark", "openvino", DISTRIBUTION, "openssl", "hadoop-aws", "openjdk", "tini"}
    assert "onnxruntime-web" in names and "axe-core" not in names
    assert bill["specVersion"] == "1.6"
    assert all("@" in component["purl"] for component in bill["components"])


def test_every_python_package_is_locked(bill: dict[str, Any]) -> None:
    lock = (REPOSITORY / "docker" / "requirements.lock").read_text()
    locked = set(re.findall(r"^([a-z0-9.-]+)==(\S+)", lock, re.MULTILINE)) | {(DISTRIBUTION, VERSION)}
    installed = {
        (component["name"], component["version"])
        for component in bill["components"]
        if component["purl"].startswith("pkg:pypi/")
    }
    assert installed <= locked


@pytest.mark.parametrize("user", ["185:0", "12345:12345"])
def test_the_whole_pipeline_runs_locked_down(image: str, tmp_path: Path, user: str) -> None:
    tmp_path.chmod(0o777)
    mount = f"--volume={tmp_path}:{tmp_path}"
    for arguments in (
        ("sample", f"{tmp_path}/photos"),
        ("run", f"{tmp_path}/photos", "--output", f"{tmp_path}/out", "--classifiers", "linear_discriminant"),
    ):
        result = docker("run", "--rm", *LOCKED_DOWN, f"--user={user}", mount, image, *arguments)
        assert result.returncode == 0, result.stderr
    report = tmp_path / "out" / "report.html"
    assert report.stat().st_uid == int(user.partition(":")[0])
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["images"]["featurized"] == 540


def test_tensorflow_and_its_conversion_run_without_what_was_taken_out(image: str) -> None:
    script = """
        orchard sample /tmp/s >/dev/null
        for how in '--engine tensorflow' '--backbone NASNetMobile --weights random'; do
            orchard extract /tmp/s --limit 40 --output "/tmp/${how// /}" $how --json
        done
    """
    result = docker("run", "--rm", *LOCKED_DOWN, "--entrypoint=bash", image, "-euc", script)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count('"featurized"') == 2


def test_driver_runs_what_spark_submit_is_given(image: str) -> None:
    command = ("driver", "--master", "local[1]", "local:///opt/orchard/main.py", "--version")
    result = docker("run", "--rm", *LOCKED_DOWN, "--env=SPARK_DRIVER_BIND_ADDRESS=127.0.0.1", image, *command)
    assert f"orchard, version {VERSION}" in result.stdout, result.stderr


def test_a_driver_that_is_stopped_ends_in_order(image: str) -> None:
    """SIGTERM reaches the program, not the JVM that would take it along; before there is a program, the JVM."""
    script = """
        orchard sample /tmp/s >/dev/null
        driver="/opt/entrypoint.sh driver --master local[1] local:///opt/orchard/main.py"
        $driver run /tmp/s --output /tmp/out >/tmp/log 2>&1 &
        until grep -q '"stage": "extract"' /tmp/log; do sleep 0.2; done
        kill -TERM $!
        wait $! || echo "ended with $?: $(tail -1 /tmp/log)"
        $driver --version >&2 &
        sleep 0.5
        kill -TERM $!
        wait $! || echo "ended with $?"
    """
    options = (*LOCKED_DOWN, "--env=SPARK_DRIVER_BIND_ADDRESS=127.0.0.1", "--entrypoint=bash")
    result = docker("run", "--rm", *options, image, "-euc", script)
    first, second = result.stdout.splitlines()
    assert first.startswith("ended with 143: orchard: interrupted; what was committed is kept"), result.stderr
    assert second == "ended with 143"


def test_a_driver_whose_jvm_was_killed_has_time_to_clear_away(image: str) -> None:
    script = """
        echo 'import os, signal, time
os.kill(os.getppid(), signal.SIGKILL)
time.sleep(2)
open("/tmp/cleared", "w").close()' >/tmp/program.py
        /opt/entrypoint.sh driver --master local[1] /tmp/program.py 2>&1 || echo "ended with $?"
        [ ! -e /tmp/cleared ] || echo "it had cleared away"
    """
    options = (*LOCKED_DOWN, "--env=SPARK_DRIVER_BIND_ADDRESS=127.0.0.1", "--entrypoint=bash")
    result = docker("run", "--rm", *options, image, "-euc", script)
    *_, said, code, cleared = result.stdout.splitlines()
    assert said.startswith("orchard: The driver or its JVM was killed"), result.stdout
    assert (code, cleared) == ("ended with 137", "it had cleared away")


def test_executor_starts_spark_s_executor(image: str) -> None:
    environment = {
        "SPARK_JAVA_OPT_0": "-Dorchard.first=a b",
        "SPARK_JAVA_OPT_10": "-Dorchard.second=c",
        "SPARK_EXECUTOR_MEMORY": "256m",
        "SPARK_DRIVER_URL": "spark://CoarseGrainedScheduler@127.0.0.1:1",
        "SPARK_EXECUTOR_ID": "1",
        "SPARK_EXECUTOR_CORES": "1",
        "SPARK_APPLICATION_ID": "orchard",
        "SPARK_EXECUTOR_POD_IP": "127.0.0.1",
        "SPARK_RESOURCE_PROFILE_ID": "0",
        "SPARK_EXECUTOR_POD_NAME": "orchard-1",
    }
    options = [f"--env={name}={value}" for name, value in environment.items()]
    result = docker("run", "--rm", *LOCKED_DOWN, *options, image, "executor")
    assert result.returncode != 0
    assert re.search(r"Connection refused|Failed to connect", result.stderr), result.stderr[-2000:]


def test_reads_and_writes_s3_from_python_and_from_spark(image: str, s3_server: "S3Server") -> None:
    """Features by Orchard's own way, the event log and the history server by Hadoop's connector."""
    bucket, events = s3_server.bucket(), s3_server.bucket()
    script = f"""
        export AWS_ACCESS_KEY_ID={s3_server.access_key} AWS_SECRET_ACCESS_KEY={s3_server.secret_key}
        cat >/tmp/spark-defaults.conf <<END
spark.hadoop.fs.s3a.endpoint {s3_server.endpoint}
spark.hadoop.fs.s3a.endpoint.region us-east-1
spark.hadoop.fs.s3a.path.style.access true
spark.eventLog.enabled true
spark.eventLog.dir s3a://{events}/
spark.history.fs.logDirectory s3a://{events}/
spark.history.ui.port 18123
END
        export SPARK_CONF_DIR=/tmp
        orchard sample /tmp/photos >/dev/null
        orchard extract /tmp/photos --limit 40 --output s3a://{bucket}/out \
            --s3-endpoint {s3_server.endpoint} --s3-region us-east-1 >&2
        python3 -c '
import orchard
spark = orchard.start_spark()
orchard.reduce(spark, "s3a://{bucket}/out", s3_endpoint="{s3_server.endpoint}", s3_region="us-east-1")
spark.stop()' >&2
        spark-class org.apache.spark.deploy.history.HistoryServer >&2 &
        python3 -c '
import time, urllib.request
for _ in range(90):
    try:
        found = urllib.request.urlopen("http://127.0.0.1:18123/api/v1/applications").read().decode()
        if "orchard" in found:
            break
    except OSError:
        pass
    time.sleep(1)
print(found)'
        kill %1
    """
    locked = [option for option in LOCKED_DOWN if not option.startswith(("--network", "--hostname"))]
    command = ["run", "--rm", *locked, "--network=host", "--entrypoint=bash", image, "-euc", script]
    result = docker(*command)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)[0]["name"] == "orchard"
    assert list((s3_server.root / bucket / "out" / "features").glob("*.parquet"))


def test_compose_takes_the_same_image() -> None:
    assert f"orchard:{VERSION}" in (REPOSITORY / "compose.yaml").read_text()
