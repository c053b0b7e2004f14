"""What is said of others' exceptions fits in a sentence."""

import errno
import os

import pytest

from orchard.errors import AccessDenied, file_failure, first_line


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


def test_of_an_exception_from_java_the_cause_is_told_and_not_the_stack() -> None:
    java = Exception(
        "An error occurred while calling o1.save.\n: java.net.UnknownHostException: photos\n\tat java.base"
    )
    assert first_line(java) == "java.net.UnknownHostException: photos"
    assert first_line(ValueError("no\nand no")) == "no"
    assert first_line(ValueError()) == "ValueError"
