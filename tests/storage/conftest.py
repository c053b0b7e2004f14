"""An S3 server in memory, with the keys that tests of this folder use."""

from collections.abc import Iterator

import pytest

from .stub import Stub, running


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stub]:
    """The server; its bucket is called b."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testsecret")
    with running(Stub()) as stub:
        yield stub
