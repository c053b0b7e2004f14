"""The command line says what it can do, in sentences, with the promised exit codes."""

import json
import logging
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import click
import pytest
from click.testing import CliRunner
from PIL import Image

from orchard import progress
from orchard.cli import cli
from orchard.cli.printing import print_outcome
from orchard.errors import InputError, UsageError


def orchard(*args: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "orchard", *args],
        capture_output=True,
        text=True,
        env=os.environ | environment,
        check=False,
        timeout=120,
    )


@pytest.mark.parametrize("command", sorted(cli.commands))
def test_the_help_of_each_command_shows_a_runnable_example(command: str) -> None:
    result = CliRunner().invoke(cli, [command, "--help"])
    assert result.exit_code == 0
    example = result.output.partition("Example:")[2]
    assert f"orchard {command}" in example


def test_flags_of_a_command_are_settings_with_their_defaults() -> None:
    output = CliRunner().invoke(cli, ["run", "--help"]).output
    for text in ("--variance", "0.95", "--backbone", "EfficientNetLite0", "--group-by", "frames", "--s3-endpoint"):
        assert text in output


@pytest.mark.parametrize("command", sorted(cli.commands))
def test_the_help_of_each_flag_says_what_it_is_without_the_flags_before_it(command: str) -> None:
    for option in cli.commands[command].params:
        if isinstance(option, click.Option):
            assert option.help, option.name
            assert not re.match(r"(of|that|for|until|after|within|then|without|its)\b", option.help), option.help


def test_a_missing_source_is_one_sentence_and_exit_code_3(tmp_path: Path) -> None:
    result = orchard("run", str(tmp_path / "nowhere"), "--output", str(tmp_path / "out"))
    assert result.returncode == 3
    assert "nowhere" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("command", ["run", "extract", "plan"])
def test_an_output_that_is_the_source_is_one_sentence_and_exit_code_2(tmp_path: Path, command: str) -> None:
    (tmp_path / "a.jpg").write_bytes(b"1")
    result = orchard(command, str(tmp_path), "--output", f"{tmp_path}/")
    assert result.returncode == 2
    assert "choose another --output" in result.stderr
    assert "Traceback" not in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["a.jpg"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["predict", "model.onnx", "model.onnx"],
        ["export", "model.onnx", "--format", "onnx", "--to", "new.onnx"],
        ["verify", "model.onnx"],
        ["extract", ".", "--output", "model.onnx/out"],
        ["sample", "model.onnx"],
    ],
)
def test_a_file_in_the_place_of_a_folder_is_one_sentence_and_exit_code_3(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    (tmp_path / "model.onnx").write_bytes(b"1")
    monkeypatch.chdir(tmp_path)
    result = orchard(*arguments)
    assert result.returncode == 3, result.stderr
    assert "model.onnx is a file, name a folder instead" in result.stderr
    assert "Traceback" not in result.stderr


def test_several_sources_are_one_sentence_where_one_is_taken_or_a_weight_is_of_none(tmp_path: Path) -> None:
    several = orchard("submit", "s3a://b/one", "s3a://b/two", "--output", "s3a://b/out", "--dry-run")
    assert several.returncode == 2 and "list the images of all in one manifest" in several.stderr
    for name in ("studio=1", "market"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.jpg").write_bytes(b"1")
    sources = [str(tmp_path / name) for name in ("studio=1", "market")]
    weighed = orchard("run", *sources, "--output", str(tmp_path / "out"), "--source-weight", f"{tmp_path}/x=1=0.3")
    assert weighed.returncode == 2 and f"--source-weight {tmp_path}/x=1 names none of the sources" in weighed.stderr
    assert "Traceback" not in several.stderr + weighed.stderr


def test_an_empty_source_is_one_sentence_and_exit_code_3(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    result = orchard("run", str(tmp_path / "empty"), "--output", str(tmp_path / "out"))
    assert result.returncode == 3
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--variance", "2"], "--variance"),
        (["--backbone", "MobileNetV9"], "MobileNetV2"),
        (["--classifiers", "tarot"], "linear_discriminant, logistic_regression, random_forest"),
        (["--answer-with", "random_forest"], "linear_discriminant, logistic_regression"),
        (["--answer-with", "logistic_regression", "--classifiers", "linear_discriminant"], "(linear_discriminant)"),
        (["--sure-at", "1"], "--sure-at"),
        (["--spark-conf", "spark.executor.cores"], "KEY=VALUE"),
        (["--colour", "red"], "--colour"),
        (["--config", ""], "the path is empty"),
    ],
)
def test_wrong_usage_is_exit_code_2_and_names_what_is_wrong(tmp_path: Path, flags: list[str], message: str) -> None:
    result = orchard("run", str(tmp_path), "--output", str(tmp_path / "out"), *flags)
    assert result.returncode == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("report", "out", "--figures", ""), "the path is empty; . is the current folder"),
        (("sample", ""), "the path is empty"),
        (("watch", "", "."), "the path is empty"),
        (("watch", "fruits.onnx", ".", "--rate", "nan"), "'nan' is not a finite number"),
        (("serve", "out", "--request-seconds", "inf"), "'inf' is not a finite number"),
        (("scale", "job", "2", "--timeout", "nan"), "'nan' is not a finite number"),
    ],
)
def test_an_argument_that_says_nothing_is_exit_code_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    result = orchard(*arguments)
    assert result.returncode == 2 and message in result.stderr and "Traceback" not in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_machine_without_java_is_told_what_to_install_if_there_is_work_that_needs_it(tmp_path: Path) -> None:
    from PIL import Image

    for number in range(20):
        path = tmp_path / "photos" / f"label {number % 2}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8 + number, 8), (100 * (number % 2), 9 * number, 50)).save(path)
    command = ("run", str(tmp_path / "photos"), "--output", str(tmp_path / "out"), "--precision", "float32")
    without_java = {"PATH": "/nowhere", "JAVA_HOME": ""}
    result = orchard(*command, **without_java)
    assert result.returncode == 0, result.stderr
    result = orchard(*command, "--classifier-memory", "1k", **without_java)
    assert result.returncode == 4
    assert "openjdk-17-jre-headless" in result.stderr
    assert "Traceback" not in result.stderr


def test_commands_on_an_output_that_does_not_exist_say_so(tmp_path: Path) -> None:
    for command in ("reduce", "classify", "report"):
        result = orchard(command, str(tmp_path / "nowhere"))
        assert result.returncode == 3, (command, result.stderr)
        assert "nowhere" in result.stderr
        assert not (tmp_path / "nowhere").exists()


def test_backbones_are_listed_for_people_and_for_programs() -> None:
    text = CliRunner().invoke(cli, ["backbones"]).output
    assert "EfficientNetLite0 (default)" in text and "top-5" in text
    rows = json.loads(CliRunner().invoke(cli, ["backbones", "--json"]).output)
    assert {"MobileNetV2", "VGG16", "InceptionV3", "Xception", "EfficientNetB0"} <= {row["name"] for row in rows}
    vgg = next(row for row in rows if row["name"] == "VGG16")
    assert (vgg["top5"], vgg["depth"], vgg["megabytes"]) == (90.1, 16, 58.9)  # 14.7 million parameters of 4 bytes


def test_plan_and_summary_name_the_commonest_kinds_of_rejected_images(tmp_path: Path) -> None:
    (tmp_path / "Lemon").mkdir()
    for n in range(7):
        (tmp_path / "Lemon" / f"{n}.jpg").write_bytes(b"version https://git-lfs.github.com/spec/v1" if n else b"")
    result = CliRunner().invoke(cli, ["plan", str(tmp_path)])
    assert isinstance(result.exception, InputError)
    assert str(result.exception).endswith("can be decoded; 6 x a Git LFS pointer: run `git lfs pull`.")
    Image.new("RGB", (8, 8)).save(tmp_path / "Lemon" / "good.png")
    result = CliRunner().invoke(cli, ["plan", str(tmp_path)])
    assert "rejected of tried    7\n" in result.output
    assert "6 x a Git LFS pointer: run `git lfs pull`\n" in result.output
    assert "1 x empty: fetch them again\n" in result.output
    for row in ("start", "extract", "report", "fast", "balanced", "best"):
        assert re.search(rf"^{row}\b.* s ", result.output, re.MULTILINE), row


def test_the_log_is_json_lines_where_there_is_no_terminal(tmp_path: Path) -> None:
    result = orchard("sample", str(tmp_path / "sample"), "--json")
    assert json.loads(result.stdout)["images"] > 100
    result = orchard("plan", str(tmp_path / "sample"), "--json", "--weights", "random")
    assert result.returncode == 0, result.stderr
    plan = json.loads(result.stdout)
    assert plan["to_do"] == plan["images"] > 100
    assert plan["ms_per_image"] > 0
    for line in result.stderr.splitlines():
        assert json.loads(line)["event"]


def test_the_servers_log_is_json_lines_on_a_terminal_where_that_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress.console, "_force_terminal", True)
    for flags, formatter in (((), progress._PlainFormatter), (("--json",), progress.JsonFormatter)):
        done = CliRunner().invoke(cli, ["serve", str(tmp_path / "none"), *flags])
        assert done.exit_code != 0  # there is no model
        (handler,) = logging.getLogger("orchard").handlers
        assert isinstance(handler.formatter, formatter)


def _command(body: str) -> list[str]:
    """Return how a process runs a command whose function has one line of code."""
    code = f"""import click, os, sys
from orchard.commandline import run_command
def work(): {body}
run_command(click.Command('work', callback=work), [])"""
    return [sys.executable, "-c", code]


@pytest.mark.parametrize("write", ["click.echo", "sys.stdout.write"])
def test_an_answer_that_a_full_disk_does_not_take_is_one_sentence_that_names_standard_output(write: str) -> None:
    """Also where it is buffered until the command's end."""
    command = _command(f"{write}('answer')")
    with Path("/dev/full").open("wb") as full:
        ended = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, timeout=60, check=False)
    assert ended.returncode == 4
    assert b"standard output cannot be written (No space left on device)" in ended.stderr


def test_a_command_with_closed_standard_streams_answers_nobody_and_ends_well(tmp_path: Path) -> None:
    """Otherwise the first file that it opens would be standard output, also for what libraries print."""
    file = tmp_path / "opened"
    command = _command(f"f = open({str(file)!r}, 'w'); os.write(1, b'noise'); click.echo('answer')")
    closed = f"exec <&- >&- 2>&-; exec {shlex.join(command)}"
    assert subprocess.run(["bash", "-c", closed], timeout=60, check=False).returncode == 0
    assert file.read_text() == ""


def test_a_command_whose_output_nobody_reads_ends_as_others_do() -> None:
    """Of `predict`, 1 says that an image could not be read."""
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "orchard", "backbones", "--json"]
    try:
        ended = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, timeout=60, check=False)
    finally:
        os.close(write)
    assert (ended.returncode, ended.stderr) == (128 + signal.SIGPIPE, b"")


@pytest.mark.parametrize("error", ["BrokenPipeError(32, 'Broken pipe')", "EOFError('no more')"])
def test_what_click_takes_for_the_end_of_standard_streams_is_told(error: str) -> None:
    """The former ended with 1 and without a word, the latter as if somebody had interrupted."""
    ended = subprocess.run(_command(f"raise {error}"), capture_output=True, timeout=60, check=False)
    assert ended.returncode == 4
    assert f"orchard: unexpected {error.partition('(')[0]}: ".encode() in ended.stderr


@pytest.mark.parametrize("origin", ["https://shop.example/", "shop.example", "https://Shop.example", "", "https://"])
def test_an_origin_that_no_browser_sends_is_refused(origin: str, tmp_path: Path) -> None:
    """It allowed nobody, and said nothing."""
    words = ["serve", str(tmp_path), "--cors-origin"]
    ended = CliRunner().invoke(cli, [*words, origin])
    assert isinstance(ended.exception, UsageError) and "is no origin such as https://shop.example" in str(
        ended.exception
    )
    for right in (
        "https://shop.example",
        "http://localhost:3000",
        "http://[::1]:80",
        "capacitor://localhost",
        "*",
        "null",
    ):
        assert isinstance(CliRunner().invoke(cli, [*words, right]).exception, InputError), right  # there is no model


@pytest.mark.parametrize(("rejected", "said"), [(1, "1 image was rejected, "), (2, "2 images were rejected, ")])
def test_one_rejected_image_is_one(rejected: int, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    metrics = {"images": {"rejected": rejected}}
    outcome = SimpleNamespace(output="out", report=None, metrics=metrics, within_limits=False)
    assert print_outcome(outcome, as_json=True) == 1
    assert f"orchard: {said}more than --max-rejected allows: look into out/rejected." in capsys.readouterr().err
