"""uvicorn as Orchard runs it: one process, limits on headers and connections, and a stop that loses no request."""

from __future__ import annotations

import asyncio
import ctypes
import errno
import gc
import logging
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any
from uuid import uuid4

import httptools
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from orchard.errors import ClusterError, OrchardError
from orchard.inference.model import Model
from orchard.serving.app import Lifecycle, Serving, create_app
from orchard.serving.asgi import AsgiApp
from orchard.serving.problems import MEDIA_TYPE, Problem
from orchard.vocabulary import Reason

log = logging.getLogger(__name__)

MAX_HEADER_BYTES = 32 * 1024
_HEADERS_TOO_LONG = "The headers are too long."
HEADER_SECONDS = 10.0
"""Seconds within which the headers of a connection's first request must arrive."""
KEEP_ALIVE_SECONDS = 75
"""Seconds that an idle connection is kept; load balancers close theirs after 60."""
LINGER_SECONDS = 30.0
"""Seconds for which the rest of a refused body is read and dropped: as many as an accepted body may take."""
PROBE_SECONDS = 0.5
"""Interval, in seconds, of checks whether a client that has closed its half still waits for its answer."""
STALLED_SECONDS = 60.0
"""Seconds for which a client may leave its answer unread."""
BACKLOG = 1024
ENGINE_BYTES = 240 * 10**6
"""What an engine takes of memory, without the image that it decodes."""
_MMAP_THRESHOLD = -3
"""glibc's M_MMAP_THRESHOLD."""
_LARGE_BYTES = 2**20


class Wire:
    """A transport that sends everything written within one turn of the loop in one system call: head and body.

    Two system calls take 0.2 ms more of CPU time for each answer. It closes in such a way that the client can read the
    last answer.

    Args:
        transport: the transport that sends.
        loop: its event loop.
        unread: returns whether the client may still send data that is not read any more.
    """

    def __init__(
        self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop, unread: Callable[[], bool]
    ) -> None:
        self._transport = transport
        self._loop = loop
        self._unread = unread
        self._waiting: list[bytes] = []
        self._lingers: asyncio.TimerHandle | None = None

    def __getattr__(self, name: str) -> Any:
        """Return what the transport has."""
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Send the data before the next turn of the loop."""
        if self._lingers is not None:
            return
        if not self._waiting:
            self._loop.call_soon(self._flush)
        self._waiting.append(data)

    def is_closing(self) -> bool:
        """Whether the transport is closing, so that nothing more is sent."""
        return self._lingers is not None or self._transport.is_closing()

    def close(self) -> None:
        """Send waiting data, and close: at once at the second call, or if the client sends nothing more.

        Otherwise it closes when the client has finished: data that arrives at a closed connection resets it, and the
        client would lose the answer.
        """
        self._flush()
        if self._lingers is not None:
            self._lingers.cancel()
        elif not self._transport.is_closing() and self._unread():
            self._transport.write_eof()
            self._transport.resume_reading()
            self._lingers = self._loop.call_later(LINGER_SECONDS, self._transport.abort)
            return
        self._transport.close()

    def _flush(self) -> None:
        if self._waiting:
            self._transport.write(b"".join(self._waiting))
            self._waiting.clear()


class LimitedProtocol(HttpToolsProtocol):
    """uvicorn's protocol with limits on the size and time of headers, and with answers after a client's half-close."""

    _header_bytes = 0
    _deadline: asyncio.TimerHandle | None = None
    _stalled: asyncio.TimerHandle | None = None
    _in_message = False
    """A message has begun and not ended."""
    _half_closed = False
    """The client sends nothing more."""
    _refused = False
    """What it sends is dropped."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the clock."""
        super().connection_made(Wire(transport, self.loop, self._unread))  # type: ignore[arg-type]
        self._set_deadline(HEADER_SECONDS, self._too_slow)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clocks."""
        self._clear_deadline()
        self._clear_stalled()
        super().connection_lost(exc)
        self.transport.close()

    def data_received(self, data: bytes) -> None:
        """Count what comes before the headers' end."""
        if self._refused or self.transport.is_closing():
            return
        self._header_bytes += len(data)
        self._unset_keepalive_if_required()
        try:
            self._parse(memoryview(data))
        except httptools.HttpParserError:
            self.send_400_response("Invalid HTTP request received.")
        if self._header_bytes > MAX_HEADER_BYTES and not self.transport.is_closing():
            self._close_with(431, _HEADERS_TOO_LONG)
        elif self._deadline is None and self.timeout_keep_alive_task is None and not self._answering():
            self._set_deadline(KEEP_ALIVE_SECONDS, self.transport.close)  # empty lines alone

    def eof_received(self) -> bool:  # type: ignore[override]
        """Answer a client that closes its half after a whole request; reply with an error if the request is cut off."""
        if self.transport.is_closing():
            return False
        self._half_closed = True
        if self._in_message:
            self._close_with(400, "The request ends too early.")
        if self.transport.is_closing() or not self._answering():
            return False
        self.cycle.keep_alive = False
        self._set_deadline(PROBE_SECONDS, self._probe)
        return True

    def on_message_begin(self) -> None:
        """Headers begin."""
        self._in_message = True
        super().on_message_begin()
        self._set_deadline(HEADER_SECONDS, self._too_slow)

    def on_headers_complete(self) -> None:
        """Headers end; the application counts the body."""
        if self._asks_for_upgrade():
            return
        # `_header_bytes` is of whole pieces: such as hold the headers' end, a body, or another request.
        if len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers) > MAX_HEADER_BYTES:
            self._close_with(431, _HEADERS_TOO_LONG)
            raise httptools.HttpParserError(_HEADERS_TOO_LONG)  # no more of it is parsed
        self._clear_deadline()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Stop counting: this is a body, not headers."""
        self._header_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Reset the count for the next headers."""
        if self._asks_for_upgrade():
            return
        self._in_message = False
        self._header_bytes = 0
        self._clear_deadline()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Give a refused body time to end."""
        super().on_response_complete()
        if self._in_message and self._deadline is None:
            self._set_deadline(LINGER_SECONDS, self.transport.abort)

    def pause_writing(self) -> None:
        """Wait for a client that does not read, but not for ever."""
        super().pause_writing()
        self._stalled = self.loop.call_later(STALLED_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        """Stop that clock: the client reads again."""
        self._clear_stalled()
        super().resume_writing()

    def shutdown(self) -> None:
        """Close when requests in progress are answered, without waiting for further requests."""
        super().shutdown()
        if self.transport.is_closing():
            self.transport.close()

    def send_400_response(self, msg: str) -> None:
        """Answer data that is not HTTP."""
        self._close_with(400, msg)

    def _parse(self, data: memoryview) -> None:
        """Parse data; a request that asks for another protocol is read once more without that, see `_asks_for_upgrade`.

        Nothing but HTTP/1 is spoken here. Java's own client asks for HTTP/2 with the first request of a connection.
        """
        while data:
            try:
                self.parser.feed_data(data)
                return
            except httptools.HttpParserUpgrade as upgrade:
                data = data[upgrade.args[0] :]
            if self._asks_for_upgrade():
                line = self.parser.get_method(), self.url, self.parser.get_http_version().encode()
                kept = [b"%s: %s\r\n" % header for header in self.headers if header[0] != b"upgrade"]
                self.parser = httptools.HttpRequestParser(self)  # the former one may await the connection's end
                with suppress(AttributeError):  # httptools before 0.6.3 has none
                    self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
                self.parser.feed_data(b"%s %s HTTP/%s\r\n%s\r\n" % (*line, b"".join(kept)))

    def _asks_for_upgrade(self) -> bool:
        """Whether the parser takes what follows these headers for another protocol, and no body for theirs."""
        return self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT"

    def _set_deadline(self, seconds: float, then: Callable[[], None]) -> None:
        self._clear_deadline()
        self._deadline = self.loop.call_later(seconds, then)

    def _clear_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _clear_stalled(self) -> None:
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None

    def _answering(self) -> bool:
        """Whether a request is not answered yet."""
        return self.cycle is not None and not self.cycle.response_complete

    def _unread(self) -> bool:
        """Whether the client may still be sending a body that is no longer read."""
        return not self._half_closed and (self._refused or self._in_message or bool(self.pipeline))

    def _probe(self) -> None:
        """Write what a client skips (RFC 9110, 15.2), and a closed socket answers with a reset, seen the next time."""
        if self.scope["http_version"] == "1.1" and not self.pipeline and not self.cycle.response_started:
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self._set_deadline(PROBE_SECONDS, self._probe)

    def _too_slow(self) -> None:
        self._close_with(408, "The headers did not arrive in time.")

    def _close_with(self, status: int, detail: str) -> None:
        """Answer a malformed request and close, after the answer to a request before it that is still due."""
        self._refused = True
        self._clear_deadline()
        if self._answering():
            self.cycle.keep_alive = False
            if self.pipeline or self.cycle.response_started or not self.cycle.more_body:
                return
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if self.transport.is_closing():
            return
        problem = Problem(Reason.UNREADABLE, detail, status=status)
        body = problem.to_json(uuid4().hex)
        head = f"HTTP/1.1 {status} Refused\r\ncontent-type: {MEDIA_TYPE}\r\ncontent-length: {len(body)}\r\n"
        self.transport.write(f"{head}connection: close\r\n\r\n".encode() + body)
        self.transport.close()


class Server(uvicorn.Server):
    """Stops in three steps: not ready, no new connections, gone when the last request is answered.

    Args:
        config: uvicorn's configuration.
        state: the state that is shared with the application.
        root_path: the path that a proxy puts before every path; only for the printed address.
        drain_seconds: seconds after the signal in which requests are still accepted, while load balancers learn that
            the server is not ready.
    """

    def __init__(self, config: uvicorn.Config, state: Lifecycle, *, root_path: str, drain_seconds: float) -> None:
        super().__init__(config)
        self._root_path = root_path
        self._state = state
        self._drain_seconds = drain_seconds

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop on SIGTERM and SIGINT; unlike with uvicorn, the signal does not kill the process afterwards."""
        previous = {name: signal.signal(name, self._asked_to_stop) for name in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for name, handler in previous.items():
                signal.signal(name, handler)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and print the address."""
        await super().startup(sockets)
        if self.started:
            host, port = self.servers[0].sockets[0].getsockname()[:2]
            host = {"0.0.0.0": "localhost", "::": "localhost"}.get(host, f"[{host}]" if ":" in host else host)  # noqa: S104
            address = f"http://{host}:{port}{self._root_path}/"
            log.info("the page is at %s, the API at %sv1/predict", address, address)

    async def on_tick(self, counter: int) -> bool:
        """Look, ten times a second, whether it is time to stop."""
        if self._state.failure is not None:
            self.should_exit = True
        return await super().on_tick(counter)

    def _asked_to_stop(self, number: int, _: FrameType | None) -> None:
        if self._state.draining:  # asked twice: at once
            self.should_exit = True
            self.force_exit = number == signal.SIGINT
            return
        self._state.draining = True
        loop = asyncio.get_running_loop()
        loop.call_soon_threadsafe(loop.call_later, self._drain_seconds, self._stop)

    def _stop(self) -> None:
        self.should_exit = True


def run(
    model: Model,
    serving: Serving,
    *,
    host: str,
    port: int,
    drain_seconds: float,
    shutdown_seconds: float,
) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises:
        ClusterError: an engine cannot be compiled on this machine.
        OrchardError: the address cannot be used.
    """
    state = Lifecycle()
    app = create_app(model, serving, state)
    every = _every_address(port) if host == "::" else None
    config = _config(app, "0.0.0.0" if host == "::" else host, port, shutdown_seconds)  # noqa: S104
    server = Server(config, state, root_path=serving.root_path, drain_seconds=drain_seconds)
    gc.freeze()  # what is there now stays: no collection looks at it again
    _keep_no_large_memory()
    try:
        server.run([every] if every else None)
    except SystemExit:
        raise OrchardError(f"Nothing can listen at {host}:{port}: choose another --host or --port.") from None
    if state.failure is not None and not state.draining:  # what ends in a server that is stopping is no failure
        if isinstance(state.failure, OrchardError):
            raise state.failure
        raise ClusterError(f"The backbone cannot be compiled on this machine: {state.failure}.") from state.failure


def _keep_no_large_memory() -> None:
    """Let the memory of a photograph go back to the system with the photograph.

    glibc would learn to keep it for the next one, in pieces that fit none: for twice the bytes that bodies may have.
    """
    with suppress(AttributeError, OSError, TypeError):  # other systems have no mallopt, or no name for themselves
        ctypes.CDLL(None).mallopt(_MMAP_THRESHOLD, _LARGE_BYTES)


def _every_address(port: int) -> socket.socket | None:
    """Return a socket at all addresses, of IPv6 and of IPv4, which uvicorn's own would not be; None without IPv6."""
    if not socket.has_dualstack_ipv6():
        return None
    try:
        return socket.create_server(("::", port), family=socket.AF_INET6, backlog=BACKLOG, dualstack_ipv6=True)
    except OSError as error:
        if error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):  # a machine on which it is switched off
            return None
        raise OrchardError(f"Nothing can listen at :::{port} ({error.strerror}): choose another --port.") from error


def _config(app: AsgiApp, host: str, port: int, shutdown_seconds: float) -> uvicorn.Config:
    errors = logging.getLogger("uvicorn.error")
    errors.handlers, errors.propagate = logging.getLogger("orchard").handlers, False
    errors.setLevel(logging.ERROR)  # its warnings are about clients
    options: dict[str, Any] = {"loop": "uvloop"} if _has_uvloop() else {}
    return uvicorn.Config(
        app,
        host=host,
        port=port,
        http=LimitedProtocol,
        ws="none",
        access_log=False,
        proxy_headers=False,  # nobody asks who the client is
        log_config=None,
        server_header=False,
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=max(1, round(shutdown_seconds)),
        **options,
    )


def _has_uvloop() -> bool:
    try:
        import uvloop  # noqa: F401
    except ImportError:  # there is none for Windows
        return False
    return True
