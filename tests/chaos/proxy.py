"""A proxy in front of an object store that does to requests what networks and stores do, by a seeded schedule.

A signature of S3 covers the Host header, which is passed on as it came: so clients sign for the proxy, and the server
agrees. Where a server answers to its own name alone, that is put in its place.
"""

import asyncio
import random
import re
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from urllib.parse import unquote, urlsplit

from orchard.storage import S3Options

HANG_SECONDS = 2.0
SLOW_SECONDS = 1.0
LATE_SECONDS = 1.0
_NAMES = re.compile(r"[0-9a-f]{12,}|\d{8}T\d{6}-\w+")
"""What is drawn anew in each run: file names, ids of runs."""


class Fault(StrEnum):
    """What may happen to a request."""

    ERROR = "500"
    SLOW_DOWN = "503 SlowDown"
    TOO_MANY = "429"
    RESET_BEFORE = "reset before it arrives"
    RESET_AFTER = "reset before the answer"
    TRUNCATED = "half of the answer"
    HANG = "no answer for a while, then a reset"
    SLOW = "an answer in drops"
    TWICE = "arrives twice"
    LATE = "503, and arrives later all the same"
    DENIED = "403"
    MISSING = "404"

    @property
    def passes(self) -> bool:
        """Whether a second try mends it, so that nobody needs to be told."""
        return self not in (Fault.DENIED, Fault.MISSING)


PASSING = [fault for fault in Fault if fault.passes]
_ANSWERS = {
    Fault.ERROR: ("500 Internal Server Error", "InternalError"),
    Fault.SLOW_DOWN: ("503 Service Unavailable", "SlowDown"),
    Fault.TOO_MANY: ("429 Too Many Requests", "SlowDown"),
    Fault.LATE: ("503 Service Unavailable", "ServiceUnavailable"),
    Fault.DENIED: ("403 Forbidden", "AccessDenied"),
    Fault.MISSING: ("404 Not Found", "NoSuchKey"),
}


@dataclass(frozen=True)
class Request:
    """What a schedule knows of a request."""

    method: str
    path: str
    """Bucket and key, decoded."""
    query: str


Schedule = Callable[[Request], Fault | None]


def nothing(_: Request) -> None:
    """No fault."""


def seeded(seed: int, share: float, faults: Collection[Fault] = PASSING, in_a_row: int = 3) -> Schedule:
    """Return a schedule that hits a share of all requests, and the same one at most `in_a_row` times in a row.

    What happens to a request depends on the seed, the request and how often it was made, not on what else goes on.
    """
    made: Counter[str] = Counter()
    hit: Counter[str] = Counter()
    kinds = list(faults)

    def choose(request: Request) -> Fault | None:
        name = f"{request.method} {_NAMES.sub('*', request.path)}"
        made[name] += 1
        chance = random.Random(f"{seed} {name} {made[name]}")
        if chance.random() >= share or hit[name] >= in_a_row:
            hit[name] = 0
            return None
        hit[name] += 1
        return chance.choice(kinds)

    return choose


@dataclass
class FaultProxy:
    """A running proxy."""

    port: int
    schedule: Schedule = nothing
    down: bool = False
    """Whether it hangs up on everyone."""
    done: Counter[Fault] = field(default_factory=Counter)
    paths: set[str] = field(default_factory=set)
    """Of all requests."""
    refused: int = 0
    """Connections that were hung up on."""
    answers: dict[Fault, tuple[str, str]] = field(default_factory=lambda: dict(_ANSWERS))
    """Status and code of the faults that are answers."""
    host: bytes | None = None
    """In place of what clients call it."""

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def options(self) -> S3Options:
        return S3Options(endpoint=self.endpoint, region="us-east-1", path_style=True)

    def seen(self, part: str) -> bool:
        """Return whether a request was for what has `part` in its path."""
        return any(part in path for path in list(self.paths))

    @contextmanager
    def faults(self, schedule: Schedule) -> Iterator[Counter[Fault]]:
        """Let a schedule decide within a block; yields what it did."""
        self.done = Counter()  # what others do later is not ours
        self.schedule = schedule
        try:
            yield self.done
        finally:
            self.schedule = nothing

    @contextmanager
    def outage(self, after: Callable[[], object], seconds: float) -> Iterator[None]:
        """Be down for some time, from the moment at which `after` returns something true; within a block."""
        leave = threading.Event()
        self.refused = 0

        def play() -> None:
            while not after():
                if leave.wait(0.02):
                    return
            self.down = True
            leave.wait(seconds)
            self.down = False

        player = threading.Thread(target=play)
        player.start()
        try:
            yield
        finally:
            leave.set()
            player.join()


@contextmanager
def fault_proxy(upstream: str, *, keeps_host: bool = True) -> Iterator[FaultProxy]:
    """Run a proxy in front of the server at the URL `upstream` until the block ends."""
    loop = asyncio.new_event_loop()
    address = urlsplit(upstream)
    listener = socket.create_server(("127.0.0.1", 0), backlog=256)
    proxy = FaultProxy(listener.getsockname()[1], host=None if keeps_host else address.netloc.encode())

    async def serve() -> None:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await _handle(proxy, (str(address.hostname), address.port or 80), reader, writer)

        await asyncio.start_server(handle, sock=listener)

    loop.run_until_complete(serve())
    thread = threading.Thread(target=loop.run_forever, name="fault-proxy", daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        listener.close()


async def _handle(
    proxy: FaultProxy, upstream: tuple[str, int], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """Answer one request and close."""
    try:
        if proxy.down:
            proxy.refused += 1
            return _reset(writer)
        head = await reader.readuntil(b"\r\n\r\n")
        body = await _body(head, reader)
        method, target, _ = head.split(b"\r\n", 1)[0].decode().split(" ")
        path, _, query = target.partition("?")
        proxy.paths.add(path)
        fault = proxy.schedule(Request(method, unquote(path), query))
        if fault is not None:
            proxy.done[fault] += 1
        if proxy.host is not None:
            head = re.sub(rb"(?i)(\r\nhost: *)[^\r]*", rb"\g<1>" + proxy.host, head)
        await _answer(fault, proxy.answers, head + body, method, upstream, writer)
    except (OSError, asyncio.IncompleteReadError):
        pass
    finally:
        if not writer.transport.is_closing():
            writer.close()


async def _answer(
    fault: Fault | None,
    answers: dict[Fault, tuple[str, str]],
    request: bytes,
    method: str,
    upstream: tuple[str, int],
    writer: asyncio.StreamWriter,
) -> None:
    match fault:
        case Fault.RESET_BEFORE:
            return _reset(writer)
        case Fault.HANG:
            await asyncio.sleep(HANG_SECONDS)
            return _reset(writer)
        case Fault.ERROR | Fault.SLOW_DOWN | Fault.TOO_MANY | Fault.LATE | Fault.DENIED | Fault.MISSING:
            status, code = answers[fault]
            text = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>made by a test</Message></Error>"
            start = f"HTTP/1.1 {status}\r\nContent-Type: application/xml\r\nContent-Length: {len(text)}\r\n"
            writer.write(f"{start}Connection: close\r\n\r\n{'' if method == 'HEAD' else text}".encode())
            await writer.drain()
            if fault is Fault.LATE:
                writer.close()
                await asyncio.sleep(LATE_SECONDS)
                await _forward(request, upstream)
            return None
    answer = await _forward(request, upstream)
    if fault is Fault.TWICE:
        await _forward(request, upstream)
    if fault is Fault.RESET_AFTER:
        return _reset(writer)
    head, end, body = answer.partition(b"\r\n\r\n")
    if fault is Fault.TRUNCATED:
        writer.write(head + end + body[: len(body) // 2] if body else head[: len(head) // 2])
    elif fault is Fault.SLOW and body:
        writer.write(head + end)
        step = -(-len(body) // 10)
        for at in range(0, len(body), step):
            await asyncio.sleep(SLOW_SECONDS / 10)
            writer.write(body[at : at + step])
            await writer.drain()
    else:
        writer.write(answer)
    await writer.drain()
    return None


async def _forward(request: bytes, upstream: tuple[str, int]) -> bytes:
    """Return the server's whole answer to one request, over a connection of its own."""
    reader, writer = await asyncio.open_connection(*upstream)
    try:
        head, end, body = request.partition(b"\r\n\r\n")
        lines = [line for line in head.split(b"\r\n") if not line.lower().startswith((b"connection:", b"expect:"))]
        writer.write(b"\r\n".join([*lines, b"Connection: close"]) + end + body)
        await writer.drain()
        return await reader.read()
    finally:
        writer.close()


async def _body(head: bytes, reader: asyncio.StreamReader) -> bytes:
    if found := re.search(rb"(?i)\r\ncontent-length: *(\d+)", head):
        return await reader.readexactly(int(found[1]))
    if not re.search(rb"(?i)\r\ntransfer-encoding: *chunked", head):
        return b""
    parts: list[bytes] = []
    while not parts or parts[-1] != b"0\r\n\r\n":
        size = await reader.readline()
        parts.append(size + await reader.readexactly(int(size.split(b";")[0], 16) + 2))
    return b"".join(parts)


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close a connection in a way that the other side takes for an error."""
    connection = writer.get_extra_info("socket")
    if connection is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
