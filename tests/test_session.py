"""Spark starts where the machine is odd: a locale without accents, a name that does not resolve, another Python."""

import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image
from pyspark.sql import SparkSession

from orchard import child
from orchard.errors import ClusterError
from orchard.spark import jvm

ASCII = {"LC_ALL": "C", "LANG": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}


def run(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command without what the session of other tests has put into the environment."""
    others = ("SPARK_LOCAL_IP", "SPARK_LOCAL_HOSTNAME", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    ours = {name: value for name, value in os.environ.items() if name not in others}
    return subprocess.run(
        command, capture_output=True, encoding="utf-8", env=ours | environment, check=False, timeout=300
    )


def nameless() -> list[str]:
    """The beginning of a command that runs where the machine's name does not resolve."""
    command = [
        *("unshare", "--user", "--map-root-user", "--uts", "sh", "-c"),
        'hostname nowhere.invalid && exec "$@"',
        "sh",
    ]
    if not shutil.which("unshare") or subprocess.run([*command, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this machine gives no namespace of one's own")
    return command


def test_a_run_on_a_machine_without_a_name_in_a_locale_without_accents_beside_another_python(tmp_path: Path) -> None:
    """As in `docker run --network=none`, with LANG=C, and PYSPARK_PYTHON left from another Spark."""
    source, output = tmp_path / "été" / "fruits à moi", tmp_path / "été" / "résultats"
    for label, colour in (("Pêche", "orange"), ("梨", "green")):
        for number in range(10):
            path = source / label / f"n°{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (40 + number, 40), colour).save(path)
    (source / "Pêche" / "cassée.png").write_bytes(b"\x89PNG\r\n\x1a\nno more")
    command = [sys.executable, "-m", "orchard", "run", str(source), "--output", str(output), "--json"]
    command += ["--components=2", "--max-rejected=1", "--precision=float32", "--classifier-memory=1k"]  # so by Spark ML
    ran = run(*nameless(), *command, **ASCII, PYSPARK_PYTHON="/nowhere/python2")
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert json.loads(ran.stdout)["metrics"]["labels"].keys() == {"Pêche", "梨"}
    assert "PYSPARK_PYTHON=/nowhere/python2 is not used" in ran.stderr
    features, rejected = (pq.read_table(output / name) for name in ("features", "rejected"))
    assert {Path(path).exists() for path in features["path"].to_pylist()} == {True}
    assert rejected["path"].to_pylist() == [str(source / "Pêche" / "cassée.png")]
    report = (output / "report.html").read_text()
    assert "Pêche" in report and "梨" in report


def test_keys_on_a_machine_without_a_name_are_told_of() -> None:
    """Spark itself ends with a stack trace."""
    code = "from orchard.spark import session; session.start(master='local[1]')"
    ran = run(*nameless(), sys.executable, "-c", code, AWS_ACCESS_KEY_ID="any")
    assert 'add "127.0.0.1 nowhere.invalid" to /etc/hosts' in ran.stderr.splitlines()[-1]


def test_another_python_is_told_of(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    for name in ("PYSPARK_PYTHON", "SPARK_LOCAL_IP", "SPARK_LOCAL_HOSTNAME"):
        monkeypatch.setenv(name, "")
    jvm.stay_on_this_machine()
    jvm.stay_on_this_machine()
    assert not caplog.text
    monkeypatch.setenv("PYSPARK_PYTHON", "/usr/bin/python2")
    jvm.stay_on_this_machine()
    assert "PYSPARK_PYTHON=/usr/bin/python2 is not used" in caplog.text
    assert os.environ["PYSPARK_PYTHON"] == sys.executable


def test_a_notebooks_session_is_where_the_settings_say() -> None:
    code = "import orchard; c = orchard.start_spark().sparkContext; print(c.master, c.appName)"
    ran = run(sys.executable, "-c", code, ORCHARD_MASTER="local[1]", ORCHARD_SPARK_CONF='{"spark.app.name": "hub"}')
    assert ran.stdout.split() == ["local[1,4]", "hub"], ran.stderr


def test_what_java_says_when_it_has_no_memory_is_told() -> None:
    code = "from orchard.spark import session; session.start(master='local[1]', driver_memory='99999999g')"
    ran = run(sys.executable, "-c", code)
    assert ran.stderr.splitlines()[-1].startswith("orchard.errors.ClusterError: Java did not start for Spark (")
    assert "heap" in ran.stderr.splitlines()[-1]
    assert "--driver-memory (99999999g)" in ran.stderr.splitlines()[-1]
    assert not ran.stdout  # where a command's result goes


def test_what_java_says_of_its_options_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAVA_TOOL_OPTIONS", "-Xnonsense")
    with pytest.raises(ClusterError, match=r"java does not start \(Unrecognized option: -Xnonsense\)"):
        jvm.check_java()


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("echo 'java: error while loading shared libraries: libjvm.so: cannot open' >&2; exit 127", "libjvm.so"),
        ("exit 3", "exit code 3"),
        ("kill -9 $$", "exit code -9"),
        ("sleep 60", "does not end"),
    ],
)
def test_a_java_that_does_not_run_is_told(
    script: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "java").write_text(f"#!/bin/sh\n{script.replace('sleep', 'exec sleep')}\n")
    (tmp_path / "bin" / "java").chmod(0o755)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    monkeypatch.setattr(jvm, "JAVA_SECONDS", 0.5)
    with pytest.raises(ClusterError, match=said):
        jvm.check_java()


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (
            "Error occurred during initialization of VM\nCould not reserve enough space",
            "Could not reserve enough space",
        ),
        (
            "Picked up JAVA_TOOL_OPTIONS: -Xmx0k\nInvalid maximum heap size: -Xmx9999999g\nThe specified size\n"
            "Error: Could not create the Java Virtual Machine.\nError: A fatal exception has occurred.",
            "Invalid maximum heap size: -Xmx9999999g",
        ),
        (
            'WARNING: Using incubator modules\nException in thread "main" java.lang.ExceptionInInitializerError\n'
            "\tat org.apache\nCaused by: java.net.UnknownHostException: box: Name not known\n\tat java.base\n",
            "java.net.UnknownHostException: box: Name not known",
        ),
        ("bash: line 1: java: command not found", "bash: line 1: java: command not found"),
        ("Killed", "Killed"),
        ("what nobody knows", "what nobody knows"),
        ("", ""),
    ],
)
def test_the_line_that_tells_most_is_found(said: str, told: str) -> None:
    assert jvm._last_words(said.splitlines()) == told


def test_a_command_in_a_locale_without_accents_names_files_as_they_are(tmp_path: Path) -> None:
    ran = run(sys.executable, "-m", "orchard", "plan", str(tmp_path / "pêches"), **ASCII)
    assert ran.returncode == 3
    assert "pêches does not exist" in ran.stderr


def test_an_output_that_takes_ascii_alone_gets_what_json_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))
    child.print_anything()
    text = "pêche \N{PEACH} \udcc3"
    print(f'"{text}"', flush=True)
    assert json.loads(written.getvalue()) == text


def test_what_spark_says_of_a_jvm_that_was_killed_is_no_traceback(
    spark: SparkSession, capsys: pytest.CaptureFixture[str]
) -> None:
    server = spark.sparkContext._accumulatorServer
    try:
        raise EOFError
    except EOFError:
        server.handle_error(None, ("127.0.0.1", 1))
    assert capsys.readouterr() == ("", "")
