"""Who gave a webhook is told how the run ended; no message, and no want of one, changes how it ends."""

import contextlib
import json
import logging
import socket
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Event, Thread, Timer
from typing import Any

import pytest

from orchard import pipeline, webhook
from orchard.comparison import compare
from orchard.errors import InputError, UsageError
from orchard.settings import Settings, load
from orchard.webhook import told


class _Hook(HTTPServer):
    """Takes messages; at ``/elsewhere`` it sends who calls to another address."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.messages: list[dict[str, Any]] = []
        self.asked: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: _Hook

    def do_POST(self) -> None:
        self.server.asked.append(f"POST {self.path}")
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.messages.append(json.loads(body))
        self.send_response(302 if self.path == "/elsewhere" else 204)
        self.send_header("Location", "/other")
        self.end_headers()

    def do_GET(self) -> None:
        self.server.asked.append(f"GET {self.path}")

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def hook() -> Iterator[_Hook]:
    server = _Hook()
    thread = Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_run_that_fails_tells_why_before_any_output_was_opened(hook: _Hook, tmp_path: Path) -> None:
    with pytest.raises(InputError) as failure:
        pipeline.run(str(tmp_path / "nowhere"), str(tmp_path / "out"), Settings(webhook=hook.url))
    with pytest.raises(InputError, match="holds no results"):
        pipeline.tune(str(tmp_path / "out"), Settings(webhook=hook.url))
    with pytest.raises(UsageError, match="is where the images are"):
        compare(str(tmp_path), str(tmp_path), ["MobileNetV2"], Settings(webhook=hook.url))
    message, tuning, comparison = hook.messages
    assert (tuning["state"], comparison["state"], comparison["exit_code"]) == ("failed", "failed", 2)
    assert (message["state"], message["exit_code"], message["reason"]) == ("failed", 3, str(failure.value))
    assert message["output"] == str(tmp_path / "out")
    assert str(failure.value) in message["text"]


def test_it_says_how_a_run_ended(hook: _Hook, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORCHARD_APP_ID", "fruits")
    monkeypatch.setenv("ORCHARD_POD_NAMESPACE", "vision")
    with told(hook.url, "s3a://b/out") as message:
        message["run"] = "1"
    with pytest.raises(KeyboardInterrupt), told(hook.url, "s3a://b/out"):
        raise KeyboardInterrupt
    with pytest.raises(ValueError, match="7"), told(hook.url, "s3a://b/out"):
        raise ValueError("7?sig=hunter2")
    well, interrupted, unexpected = hook.messages
    assert (well["state"], well["exit_code"], well["run"], well["job"]) == ("succeeded", 0, "1", "fruits")
    assert (interrupted["state"], interrupted["exit_code"], interrupted["namespace"]) == ("interrupted", None, "vision")
    assert (unexpected["state"], unexpected["exit_code"]) == ("failed", 4)
    assert "hunter2" not in json.dumps(unexpected)


def test_a_message_that_cannot_be_sent_is_a_warning_without_the_address(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "orchard"), told("http://127.0.0.1:9/hooks/hunter2", "out"):
        pass
    assert "the webhook was not told how the run ended" in caplog.text
    assert "hunter2" not in caplog.text


def test_an_answer_that_comes_in_drops_holds_no_run(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(webhook, "TIMEOUT_SECONDS", 0.2)
    released = Event()

    def drip(server: socket.socket) -> None:
        connection, _ = server.accept()
        with connection, contextlib.suppress(OSError):
            connection.sendall(b"HTTP/1.1 200 OK\r\n")
            while not released.wait(0.05):
                connection.sendall(b"X")

    with socket.create_server(("127.0.0.1", 0)) as server:
        dripping = Thread(target=drip, args=(server,))
        dripping.start()
        stuck = Timer(10, released.set)
        stuck.start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}/hooks/hunter2"
        with caplog.at_level(logging.WARNING, "orchard"), told(url, "out"):
            pass
        assert not released.is_set()
        stuck.cancel()
        released.set()
        dripping.join()
    assert "its answer does not come to an end" in caplog.text
    assert "hunter2" not in caplog.text


def test_a_message_goes_nowhere_else(hook: _Hook, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "orchard"), told(f"{hook.url}/elsewhere", "out"):
        pass
    assert set(hook.asked) == {"POST /elsewhere"}
    assert "302" in caplog.text


def test_an_address_of_another_kind_is_refused_without_being_repeated() -> None:
    with pytest.raises(UsageError, match="--webhook") as failure:
        load({"webhook": "file:///etc/hunter2"})
    assert "hunter2" not in str(failure.value)
