"""What a run says stays in its output, in parts, without secrets, and can be read when its pod is gone."""

import json
import logging
from datetime import UTC, datetime
from pathlib import Path

import pytest

from orchard import runlog
from orchard.errors import InputError
from orchard.runlog import RunLog, lines, note_spark
from orchard.storage import S3Options, open_storage

log = logging.getLogger("orchard.test")

RUN = "20260101T000000-00000{}"


@pytest.fixture(autouse=True)
def _info(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "orchard")


def test_the_log_of_the_last_run_is_read_again_without_secrets(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path))
    for run in ("20260101T000000-aaaaaa", "20260102T000000-bbbbbb"):
        with RunLog(storage, run):
            log.info("run %s", run)
            log.warning("keys in https://me:hunter2@host", extra={"fields": {"reason": "a b", "secret_key": "hunter2"}})
            note_spark("12:00:00 ERROR JVM: password=hunter2")
    said = list(lines(str(tmp_path), S3Options()))
    assert "run 20260102T000000-bbbbbb" in said[0]
    assert len(said) == 2
    assert "hunter2" not in "".join(path.read_text() for path in tmp_path.rglob("*.*"))
    assert next(lines(str(tmp_path), S3Options(), spark=True)).startswith("12:00:00 ERROR JVM: password=")


def test_the_sentence_with_which_a_run_fails_is_its_last_line(tmp_path: Path) -> None:
    with pytest.raises(InputError), RunLog(open_storage(str(tmp_path)), RUN.format(1)):
        raise InputError("The source holds no image: give another.")
    assert list(lines(str(tmp_path), S3Options()))[-1] == "orchard: The source holds no image: give another."


def test_a_long_log_is_written_in_parts_and_read_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runlog, "PART_BYTES", 200)
    monkeypatch.setattr(runlog, "SECONDS", 0.01)
    with RunLog(open_storage(str(tmp_path)), RUN.format(1)) as kept:
        for number in range(20):
            log.info("line %d", number)
            kept._write()
    assert len(list((tmp_path / "logs" / RUN.format(1)).iterdir())) > 3
    assert [line.partition('"event": ')[2] for line in lines(str(tmp_path), S3Options())] == [
        f'"line {number}"}}' for number in range(20)
    ]


def test_the_logs_of_old_runs_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runlog, "KEPT", 3)
    for number in range(5):
        with RunLog(open_storage(str(tmp_path)), RUN.format(number)):
            log.info("something")
    kept = sorted(path.name for path in (tmp_path / "logs").iterdir() if any(path.iterdir()))
    assert kept == [RUN.format(number) for number in (2, 3, 4)]


def test_a_log_of_a_clock_that_was_ahead_goes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was kept, as the newest one, and older ones went in its place."""
    monkeypatch.setattr(runlog, "KEPT", 3)
    ahead = "20990101T000000-000000"
    for run in (RUN.format(0), ahead, *(RUN.format(number) for number in range(1, 4))):
        with RunLog(open_storage(str(tmp_path)), run):
            log.info("run %s", run)
    assert {path.name for path in (tmp_path / "logs").iterdir()} == {RUN.format(number) for number in range(1, 4)}


def test_a_log_of_a_clock_that_was_ahead_is_not_that_of_the_last_run(tmp_path: Path) -> None:
    """Unless there is no other, or the clock is ahead by so little that it may be this machine's that is behind."""
    ahead, storage = "20990101T000000-000000", open_storage(str(tmp_path))
    soon = runlog._named(datetime.now(UTC) + runlog.AHEAD / 2) + "000000"
    for run, last in ((ahead, ahead), (RUN.format(0), RUN.format(0)), (soon, soon)):
        with RunLog(storage, run):
            log.info("run %s", run)
        assert [json.loads(line)["event"] for line in lines(str(tmp_path), S3Options())] == [f"run {last}"]


def test_the_logs_of_others_stay_and_are_not_taken_for_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a project that has a folder of this name, and whose runs went on beside it."""
    monkeypatch.setattr(runlog, "KEPT", 1)
    others = [tmp_path / "logs" / name for name in ("app.log", "2025/app.log", "zookeeper/log-0001.jsonl")]
    for path in others:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("theirs\n")
    for number in range(3):
        with RunLog(open_storage(str(tmp_path)), RUN.format(number)):
            log.info("run %d", number)
    assert [path.read_text() for path in others] == ["theirs\n"] * 3
    assert [line.partition('"event": ')[2] for line in lines(str(tmp_path), S3Options())] == ['"run 2"}']


def test_an_output_that_takes_no_log_costs_no_run(tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("in the way")
    with RunLog(open_storage(str(tmp_path)), RUN.format(1)):
        log.info("something")
    with pytest.raises(InputError, match="holds no log"):
        list(lines(str(tmp_path), S3Options()))
