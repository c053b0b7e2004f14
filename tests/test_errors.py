"""What is said of others' exceptions fits in a sentence."""

import errno
import os
import re

import pytest

from orchard.errors import AccessDenied, file_failure, first_line


def test_a_full_disk_names_the_claim_that_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    full = OSError(errno.ENOSPC, "No space left on device", "/data/output/run/part-1")
    assert "(No space left on device): the disk is full, free some space, and" in str(file_failure(full, "written"))
    monkeypatch.setenv("ORCHARD_CLAIMS", "images=/data/source,results=/data/output")
    assert "the claim results is full, free some space or enlarge it, and start" in str(file_failure(full, "written"))


def test_what_may_not_be_written_names_user_and_claim(monkeypatch: pytest.MonkeyPatch) -> None:
    denied = PermissionError(errno.EACCES, "Permission denied", "/data/output/run/_orchard")
    assert f"(uid {os.getuid()}, groups " in str(file_failure(denied, "written to"))
    monkeypatch.setenv("ORCHARD_CLAIMS", "images=/data/source,results=/data/output")
    told = file_failure(denied, "written to")
    assert told.exit_code == 3
    assert "on the claim results by a podSecurityContext.fsGroup that may write there" in str(told)
    readonly = file_failure(OSError(errno.EROFS, "Read-only file system", "/data/source/out"), "written to")
    assert isinstance(readonly, AccessDenied)
    assert "mount the claim images for writing" in str(readonly)


@pytest.mark.parametrize(
    ("number", "remedy"),
    [(errno.EFBIG, r"\(ulimit -f\), lets no file be so large"), (errno.ENAMETOOLONG, "shorter name")],
)
def test_what_a_file_system_does_not_take_names_the_way_out(number: int, remedy: str) -> None:
    """They said "check it"."""
    failure = file_failure(OSError(number, os.strerror(number), "/out/head.json"), "written")
    assert re.search(remedy, str(failure))


def test_of_an_exception_from_java_the_cause_is_told_and_not_the_stack() -> None:
    java = Exception(
        "An error occurred while calling o1.save.\n: java.net.UnknownHostException: photos\n\tat java.base"
    )
    assert first_line(java) == "java.net.UnknownHostException: photos"
    assert first_line(ValueError("no\nand no")) == "no"
    assert first_line(ValueError()) == "ValueError"
