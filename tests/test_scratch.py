"""A full disk of temporary files is said to be that, whatever the one who writes there says of it."""

import errno
import os
import shutil
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

from orchard import child
from orchard.errors import StorageError, UsageError
from orchard.exports.writing import openvino_files
from orchard.inference.model import Model
from orchard.processes import LocalWorkers
from orchard.scratch import _opened, _remove_abandoned, scratch, temporary, within
from orchard.tuning import process as tuning

FULL = r"Temporary files cannot be written \({}\): free some space in {}, .* TMPDIR"


@pytest.fixture
def full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of temporary files, whose disk has no room."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=0))
    return tmp_path


class Large:
    """What a disk has no room for."""

    def __reduce__(self) -> str:
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_value_for_the_workers_that_the_disk_has_no_room_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    workers = LocalWorkers(1)
    try:
        with pytest.raises(StorageError, match=FULL.format(f"the disk of {tmp_path} is full", tmp_path)):
            workers.share(Large())
    finally:
        workers.close()


def test_a_library_that_does_not_say_that_the_disk_is_full(
    trained: Path, full: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("basic_ios::clear: iostream error")

    monkeypatch.setattr("openvino.save_model", fail)
    with pytest.raises(StorageError, match=FULL.format("basic_ios::clear: iostream error", full)):
        openvino_files(Model.load(str(trained)))
    assert not list(full.iterdir())


def test_a_child_that_the_full_disk_keeps_from_saying_why(full: Path) -> None:
    (full / "child").mkdir()
    (full / "child" / "log").touch()
    assert child.last_words(full / "child", 1) == f"broke off with code 1 (the disk of {full} is full)"


def test_activations_that_the_full_disk_ends_tuning_by(full: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mapped file then ends the process by SIGBUS; more memory, which was proposed, would not have helped."""

    def start(*_: object, **__: object) -> subprocess.Popen[bytes]:
        code = "import os, signal; os.kill(os.getpid(), signal.SIGBUS)"
        return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)

    def ignore(*_: object) -> None:
        pass

    monkeypatch.setattr(child, "start", start)
    images = pa.table({name: pa.array([], pa.string()) for name in ("path", "size", "label")})
    request: Any = SimpleNamespace(backbone="EfficientNetLite0")
    at = full / "tuning"
    told = (
        rf"\(the disk of {at} is full\): free some space in {at}, or name another folder by the variable ORCHARD_CACHE"
    )
    with pytest.raises(StorageError, match=told), within(at / "one", "ORCHARD_CACHE"):
        tuning.tune(request, images, images, at / "one", done=ignore, saved=ignore)


@pytest.mark.usefixtures("full")
def test_an_error_of_ours_stays_what_it_is() -> None:
    with pytest.raises(UsageError, match="Not so"), scratch("test"):
        raise UsageError("Not so.")


def test_an_error_beside_a_disk_with_room_stays_what_it_is() -> None:
    with pytest.raises(RuntimeError, match="iostream"), scratch("test"):
        raise RuntimeError("iostream")


@pytest.mark.parametrize("name", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_command_leaves_no_temporary_folder(tmp_path: Path, name: signal.Signals) -> None:
    """Neither those of blocks nor those that last as long as the process; `orchard predict` left one."""
    code = (
        "import click, time; from orchard.commandline import run_command; from orchard.features import weights\n"
        "from orchard.scratch import scratch\n"
        "def work():\n"
        "    with scratch('test') as folder:\n"
        "        (folder / 'file').touch(); (weights._scratch() / 'file').touch()\n"
        "        click.echo('ready'); time.sleep(60)\n"
        "run_command(click.Command('work', callback=work), [])"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, env=os.environ | {"TMPDIR": str(tmp_path)}
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == b"ready\n"
        assert len(list(tmp_path.glob("orchard-*"))) == 2
        process.send_signal(name)
        assert process.wait(20) == 128 + name
    assert not list(tmp_path.glob("orchard-*"))


def test_what_killed_commands_left_goes_with_the_next_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """But not what a command that lives works in, an output that lies among temporary files, or where a link leads."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    code = (
        "import time; from orchard.scratch import scratch\n"
        "with scratch('test') as folder:\n"
        "    (folder / 'file').touch(); print(folder, flush=True); time.sleep(60)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=os.environ | {"TMPDIR": str(tmp_path)}
    ) as process:
        assert process.stdout is not None
        killed = Path(process.stdout.readline().strip())
        with scratch("test"):
            assert (killed / "file").exists()
        process.kill()
    output = tmp_path / "orchard-abcdefgh"
    output.mkdir()
    link = tmp_path / killed.name.replace("test", "link")
    link.symlink_to(output)
    _remove_abandoned.cache_clear()
    with scratch("test") as mine:
        _remove_abandoned.cache_clear()
        with scratch("test"):
            assert {path for path in tmp_path.iterdir() if path.name.startswith("orchard-")} >= {mine, output, link}
            assert not killed.exists()
    assert {*tmp_path.iterdir()} == {output, link}
    _remove_abandoned.cache_clear()


def test_a_folder_that_is_found_before_it_is_locked_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Path] = []

    def find(folder: Path, stack: ExitStack) -> int:
        if not made:
            folder.rmdir()
        made.append(folder)
        return _opened(folder, stack)

    monkeypatch.setattr("orchard.scratch._opened", find)
    with temporary(tmp_path, "one-") as folder:
        assert folder.is_dir() and made[1:] == [folder]
    assert not list(tmp_path.iterdir())
