"""Whatever a client does to its connection, it can read its own answer, and holds nothing for ever."""

import asyncio
import json
import os
import re
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pytest
import uvicorn
from uvicorn.server import ServerState

from orchard.serving import server
from orchard.serving.asgi import AsgiApp, Receive, Scope, Send

from .conftest import Server, serving

TOO_LARGE = 300_001


@pytest.fixture(scope="module")
def photo(fruits: Path) -> bytes:
    return min((fruits / "Test" / "Mango").iterdir()).read_bytes()


def _head(length: int | None, *headers: str) -> bytes:
    size = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
    lines = ["POST /v1/predict HTTP/1.1", "Host: x", "Content-Type: image/jpeg", size, *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n"


def _statuses(answer: bytes) -> list[int]:
    """Return the status of each answer, interim ones too."""
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", answer)]


@contextmanager
def _connection(server: Server) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        yield connection


def _read(connection: socket.socket) -> bytes:
    """Return what comes until the other side closes; a reset fails."""
    received = b""
    while data := connection.recv(65536):
        received += data
    return received


# --- A half that is closed ----------------------------------------------------------------------------------


def test_a_client_that_closes_its_half_after_its_request_is_answered(strict: Server, photo: bytes) -> None:
    get = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
    cases = {_head(len(photo)) + photo: [200], get + get: [200, 200], _head(TOO_LARGE): [413]}
    for request, expected in cases.items():
        with _connection(strict) as connection:
            connection.sendall(request)
            connection.shutdown(socket.SHUT_WR)
            assert _statuses(_read(connection)) == expected


def test_a_client_that_closes_its_half_and_waits_for_long_is_answered(strict: Server, photo: bytes) -> None:
    (engine,) = strict.engines()
    os.kill(engine, signal.SIGSTOP)
    try:
        with _connection(strict) as connection:
            connection.sendall(_head(len(photo)) + photo)
            connection.shutdown(socket.SHUT_WR)
            answer = connection.recv(65536)
            os.kill(engine, signal.SIGCONT)
            answer += _read(connection)
    finally:
        os.kill(engine, signal.SIGCONT)
    assert set(_statuses(answer)) == {100, 200}  # those of 100 find out whether it is still there
    assert json.loads(answer.rpartition(b"\r\n\r\n")[2])["predictions"]


@pytest.mark.parametrize("request_", [b"GET /healthz HTT", _head(5000), _head(5000) + b"\xff\xd8", _head(None) + b"5"])
def test_a_client_that_breaks_off_and_listens_is_told(strict: Server, request_: bytes) -> None:
    with _connection(strict) as connection:
        connection.sendall(request_)
        connection.shutdown(socket.SHUT_WR)
        answer = _read(connection)
    assert _statuses(answer) == [400]
    assert b"The request ends too early." in answer


def test_a_client_that_says_nothing_is_told_nothing(strict: Server) -> None:
    with _connection(strict) as connection:
        connection.shutdown(socket.SHUT_WR)
        assert _read(connection) == b""


# --- Another protocol is asked for --------------------------------------------------------------------------


@pytest.mark.parametrize("cut", [1, 60, -1, None], ids=["at once", "in the headers", "after the headers", "whole"])
@pytest.mark.parametrize("last", ["", ", close"], ids=["kept", "closed"])
@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunks"])
def test_a_request_that_asks_for_http_2_as_javas_does_is_answered_as_it_is(
    strict: Server, photo: bytes, *, cut: int | None, last: str, chunked: bool
) -> None:
    asked = ["Upgrade: h2c", f"Connection: Upgrade, HTTP2-Settings{last}", "HTTP2-Settings: AAEAAEAA"]
    body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(photo), photo) if chunked else photo
    head = _head(None if chunked else len(photo), *asked)
    sent = head + body
    at = len(head) if cut == -1 else cut
    with _connection(strict) as connection:
        connection.sendall(sent[:at])
        if at is not None:
            time.sleep(0.1)
            connection.sendall(sent[at:])
        if not last:  # what follows is a request of its own
            connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            connection.shutdown(socket.SHUT_WR)
        answer = _read(connection)
    assert [status for status in _statuses(answer) if status != 100] == [200] if last else [200, 200]
    assert b'"predictions":[{"answer":' in answer


# --- Refused while the client sends -------------------------------------------------------------------------


def test_a_refused_client_that_sends_for_long_can_read_why(strict: Server) -> None:
    with _connection(strict) as connection:
        connection.sendall(_head(100_000_000))
        for _ in range(16):
            connection.sendall(bytes(100_000))
            time.sleep(0.1)
        assert _statuses(_read(connection)) == [413]


@pytest.mark.parametrize("status", [413, 431, 400], ids=["chunks", "headers", "no HTTP"])
def test_a_refused_client_that_sends_everything_first_can_read_why(strict: Server, status: int) -> None:
    chunks = b"10000\r\n" + bytes(65536) + b"\r\n"
    requests = {
        413: _head(None) + chunks * 100 + b"0\r\n\r\n",
        431: b"GET / HTTP/1.1\r\n" + (b"X: " + b"y" * 1000 + b"\r\n") * 6000 + b"\r\n",
        400: b"\x16\x03\x01" * 2_000_000,
    }
    with _connection(strict) as connection:
        connection.sendall(requests[status])
        time.sleep(0.2)
        assert _statuses(_read(connection)) == [status]


@pytest.mark.parametrize("at", [None, 10_000, 39_000], ids=["in one piece", "in two", "all but their end"])
@pytest.mark.parametrize("body", [0, 100_000])
def test_headers_have_one_limit_however_they_arrive(strict: Server, at: int | None, body: int) -> None:
    for size, refused in ((20_000, False), (40_000, True)):
        sent = _head(body, f"X: {'y' * size}", "Connection: close") + bytes(body)
        with _connection(strict) as connection:
            connection.sendall(sent[:at])
            if at is not None:
                time.sleep(0.1)
                connection.sendall(sent[at:])
            assert (_statuses(_read(connection)) == [431]) is refused


def test_a_request_behind_one_that_is_refused_is_not_answered(strict: Server, photo: bytes) -> None:
    with _connection(strict) as connection:
        connection.sendall(_head(TOO_LARGE) + bytes(TOO_LARGE) + _head(len(photo)) + photo)
        assert _statuses(_read(connection)) == [413]


def test_nobody_gets_the_answer_of_what_follows(strict: Server, photo: bytes) -> None:
    with _connection(strict) as connection:
        connection.sendall(_head(len(photo)) + photo + b"no HTTP\r\n\r\n")
        answer = _read(connection)
    assert _statuses(answer) == [200]


def test_a_body_that_is_too_large_is_not_asked_for(strict: Server, photo: bytes) -> None:
    with _connection(strict) as connection:
        connection.sendall(_head(TOO_LARGE, "Expect: 100-continue"))
        assert _statuses(_read(connection)) == [413]
    with _connection(strict) as connection:
        connection.sendall(_head(len(photo), "Expect: 100-continue", "Connection: close"))
        assert connection.recv(1000).startswith(b"HTTP/1.1 100 ")
        connection.sendall(photo)
        assert _statuses(_read(connection)) == [200]


def test_head_has_no_body(strict: Server) -> None:
    with _connection(strict) as connection:
        connection.sendall(b"HEAD /v1/predict HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        answer = _read(connection)
    assert _statuses(answer) == [405]
    assert answer.endswith(b"\r\n\r\n")


# --- Time ---------------------------------------------------------------------------------------------------


async def _large(_scope: Scope, _receive: Receive, send: Send) -> None:
    """Answer at once, whatever comes: with more than a connection holds."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for _ in range(200):
        await send({"type": "http.response.body", "body": bytes(100_000), "more_body": True})
    await send({"type": "http.response.body"})


async def _small(_: Scope, __: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body"})


@pytest.mark.parametrize(
    "app, request_, drips",
    [
        (_small, _head(10**12), b"x"),
        (_small, _head(None), b"1\r\nx\r\n"),
        (_small, b"GET / HTTP/1.1\r\nX: ", b"y"),
        (_small, b"GET / HTTP/1.1\r\n\r\n", b"\r\n"),
        (_large, b"GET / HTTP/1.1\r\n\r\n", b""),
    ],
    ids=["a body that nobody wants", "in chunks", "headers", "empty lines", "an answer that nobody reads"],
)
def test_no_connection_is_held_for_ever(
    app: AsgiApp, request_: bytes, drips: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HEADER_SECONDS", "LINGER_SECONDS", "KEEP_ALIVE_SECONDS", "STALLED_SECONDS"):
        monkeypatch.setattr(server, name, 0.5)
    state = ServerState()

    async def play() -> None:
        config = uvicorn.Config(app, log_config=None, timeout_keep_alive=1)
        listener = await asyncio.get_running_loop().create_server(
            lambda: server.LimitedProtocol(config, state, {}), "127.0.0.1", 0
        )
        with socket.create_connection(listener.sockets[0].getsockname()) as connection:
            connection.sendall(request_)
            await asyncio.sleep(0.2)
            assert state.connections
            for _ in range(30):
                with suppress(OSError):
                    connection.sendall(drips)
                await asyncio.sleep(0.1)
                if not state.connections:
                    break
            assert not state.connections
        listener.close()

    asyncio.run(play())


def test_it_listens_at_every_address_and_answers_under_a_path_with_and_without_it(
    trained: Path, tmp_path: Path
) -> None:
    with serving(trained, tmp_path, "--host", "::", "--root-path", "/fruits/", "--engines", "1") as server:
        digest = server.client.get("/v1/model").json()["digest"]  # IPv4, and a proxy that takes the path off
        addresses = ["127.0.0.1", *(["[::1]"] if socket.has_dualstack_ipv6() else [])]
        for address in addresses:
            url = f"http://{address}:{server.port}/fruits"
            assert httpx.get(f"{url}/v1/model").json()["digest"] == digest
            moved = httpx.get(url)
            assert (moved.status_code, moved.headers["location"]) == (308, "/fruits/")
            assert 'href="assets/app.css"' in httpx.get(f"{url}/").text
            assert httpx.get(f"{url}s/v1/model").status_code == 404
        assert server.client.get("/openapi.json").json()["servers"] == [{"url": "/fruits"}]
        (told,) = [line["event"] for line in server.lines() if "the page is at" in line["event"]]
        at = f"http://localhost:{server.port}/fruits"
        assert told == f"the page is at {at}/, the API at {at}/v1/predict"
