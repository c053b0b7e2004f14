"""What a disk can do to a run is told in one sentence with the right exit code, and what killed writers leave goes."""

import errno
import os
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import click
import pytest

from orchard.commandline import outcome
from orchard.errors import AccessDenied, StorageError
from orchard.layout import STAGING
from orchard.output import Output
from orchard.storage import LocalStorage, open_storage

FAULTS = [
    (errno.ENOSPC, 4, "full"),
    (errno.EDQUOT, 4, "quota"),
    (errno.EIO, 4, "disk"),
    (errno.EMFILE, 4, "ulimit -n"),
    (errno.ESTALE, 4, "mount it again"),
    (errno.EROFS, 3, "mount it for writing"),
    (errno.EACCES, 3, "allow it"),
    (errno.EPERM, 3, "allow it"),
]


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    """A folder with one file."""
    (tmp_path / "there").write_bytes(b"1")
    found = open_storage(str(tmp_path))
    assert isinstance(found, LocalStorage)
    return found


def _failing(number: int) -> Any:
    def fail(*_: object, **__: object) -> NoReturn:
        raise OSError(number, os.strerror(number))

    return fail


@pytest.mark.parametrize(("number", "code", "said"), FAULTS)
def test_a_write_that_fails_is_one_sentence(
    storage: LocalStorage, monkeypatch: pytest.MonkeyPatch, number: int, code: int, said: str
) -> None:
    calls: dict[str, Callable[[], object]] = {
        "write": lambda: storage.write("folder/a", b"1"),
        "create": lambda: storage.create("folder/a", b"1"),
        "move": lambda: storage.move("there", "folder/a"),
        "copy": lambda: storage.copy("there", "folder/a"),
        "delete": lambda: storage.delete(["there"]),
    }
    monkeypatch.setattr(os, "fsync", _failing(number))
    monkeypatch.setattr(Path, "replace", _failing(number))
    monkeypatch.setattr(Path, "unlink", _failing(number))
    for call in calls.values():
        with pytest.raises(StorageError) as told:
            call()
        assert told.value.exit_code == code
        assert said in str(told.value)
        assert storage.url in str(told.value)
        assert str(told.value).count(". ") == 0
        assert isinstance(told.value, AccessDenied) == (code == 3)


@pytest.mark.parametrize(("number", "code"), [(errno.EROFS, 3), (errno.EACCES, 3), (errno.ENOSPC, 4)])
def test_an_output_that_cannot_be_written_to_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, code: int
) -> None:
    output = Output(str(tmp_path / "out"))
    monkeypatch.setattr(Path, "mkdir", _failing(number))
    with pytest.raises(StorageError, match=f"the output {tmp_path}/out cannot be written to") as told, output.writing():
        pass
    assert told.value.exit_code == code


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ESTALE, errno.ENOTCONN])
def test_what_ails_more_than_one_file_rejects_no_image(
    storage: LocalStorage, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr(os, "open", _failing(number))
    for call in (storage.read, lambda key: storage.head(key, 1), storage.open):
        with pytest.raises(StorageError, match="there cannot be read"):
            call("there")


def test_a_process_without_file_descriptors_rejects_no_image(storage: LocalStorage) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    held = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
    try:
        with pytest.raises(OSError):
            while True:
                held.append(os.open("/dev/null", os.O_RDONLY))
        with pytest.raises(StorageError, match="ulimit -n"):
            storage.read("there")
    finally:
        for descriptor in held:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (PermissionError(errno.EACCES, "Permission denied", "/x/labels.json"), 3, "/x/labels.json cannot be"),
        (OSError(errno.ENOSPC, "No space left on device"), 4, "disk is full"),
        (OSError(errno.EIO, "Input/output error", "/x/y"), 4, "/x/y cannot be"),
        (ConnectionResetError(errno.ECONNRESET, "reset"), 4, "unexpected ConnectionResetError"),
        (MemoryError(), 4, "No memory, process or thread is left here (MemoryError): give"),
        (RuntimeError("can't start new thread"), 4, "is left here (can't start new thread): give"),
        (BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"), 4, "is left here ("),
    ],
)
def test_a_command_tells_what_the_system_says(error: Exception, code: int, said: str) -> None:
    def fail(**_: object) -> NoReturn:
        raise error

    found, sentence = outcome(click.Command("fail", callback=fail), [])
    assert (found, said in str(sentence)) == (code, True)


# What killed writers leave


def test_what_killed_writers_leave_is_cleaned_up(tmp_path: Path) -> None:
    for name in ("features/.0.orchard-tmp", ".1.orchard-tmp", f"{STAGING}run/features/.2.orchard-tmp"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"half")
    (tmp_path / STAGING / "older/model").mkdir(parents=True)
    (tmp_path / STAGING / "kept").mkdir()
    (tmp_path / STAGING / "kept/file").write_bytes(b"1")
    (tmp_path / "mine").mkdir()  # somebody else's
    open_storage(str(tmp_path)).clean(STAGING)
    found = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*"))
    assert found == [
        "_orchard",
        "_orchard/staging",
        "_orchard/staging/kept",
        "_orchard/staging/kept/file",
        "features",
        "mine",
    ]


def test_a_folder_goes_with_its_last_file(storage: LocalStorage, tmp_path: Path) -> None:
    for key in ("a/b/c/1", "a/b/2", "there"):
        storage.write(key, b"1")
    storage.delete(["a/b/c/1"])
    assert (tmp_path / "a/b").exists() and not (tmp_path / "a/b/c").exists()
    storage.delete(["a/b/2", "there"])
    assert list(tmp_path.iterdir()) == []


def test_the_next_writer_cleans_up_after_a_killed_one(tmp_path: Path) -> None:
    with Output(str(tmp_path)).writing():
        pass
    (tmp_path / STAGING / "killed/features").mkdir(parents=True)
    (tmp_path / STAGING / "killed/features/.0.orchard-tmp").write_bytes(b"half")
    (tmp_path / "features").mkdir(exist_ok=True)
    (tmp_path / "features/.1.orchard-tmp").write_bytes(b"half")
    with Output(str(tmp_path)).writing():
        assert not list(tmp_path.rglob("*.orchard-tmp"))
    assert not (tmp_path / STAGING / "killed").exists()
