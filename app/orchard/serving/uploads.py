"""Reads a request's body into files, within limits that are checked while it arrives; nothing is written to disk."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from io import BytesIO
from typing import Protocol
from urllib.parse import unquote_to_bytes

from multipart import MultipartError, MultipartSegment, PushMultipartParser, parse_options_header

from orchard.errors import UsageError
from orchard.images.decoding import Rejection
from orchard.serving.asgi import Receive
from orchard.serving.problems import Problem, Refusal
from orchard.vocabulary import Reason

MIB = 2**20
OTHER_PARTS = 16
"""Number of parts of a request that need not be files, at most: a form's other fields, whose content is dropped."""
MAX_BOUNDARY = 256
MAX_PART_HEADERS = 8
MAX_PART_HEADER_BYTES = 4096
MAX_FILENAME = 255
_FILE_TYPES = ("image/", "application/octet-stream")
_ENCODED_NAME = re.compile(r"""filename\*\s*=\s*"?utf-8'[^']*'([^;"\s]*)""", re.IGNORECASE)


@dataclass(frozen=True)
class UploadLimits:
    """Limits for one request, and for all together."""

    max_bytes: int = 20 * MIB
    """Bytes of one file, at most."""
    max_total_bytes: int = 64 * MIB
    """Bytes of a request's body, at most."""
    max_files: int = 16
    body_seconds: float = 30.0
    """Seconds within which the whole body must arrive."""
    max_held_bytes: int = 512 * MIB
    """Bytes of all bodies that the process holds at one time, at most."""

    def __post_init__(self) -> None:
        if self.max_total_bytes < self.max_bytes or self.max_held_bytes < self.max_total_bytes:
            raise UsageError("A request must have room for one file, and the server for one request: raise the limits.")


@dataclass(frozen=True, slots=True)
class Upload:
    """A file of a request."""

    filename: str | None
    """The client's name of the file, without folders; used only in the answer."""
    content: bytes | Rejection


class Disconnected(Exception):
    """The client has gone away before its body was complete."""


@dataclass
class MemoryBudget:
    """Counts the bytes of bodies that the process holds, up to a limit."""

    limit: int
    total: int = 0

    def take(self, size: int) -> None:
        """Count `size` more bytes. Raises Problem if that exceeds the limit."""
        if self.total + size > self.limit:
            raise Problem(Refusal.QUEUE_FULL, "The server holds as many bytes as it may; try again.")
        self.total += size


@dataclass(slots=True)
class Body:
    """A request's body as it arrives."""

    held: MemoryBudget
    size: int = 0
    """Number of bytes that have arrived."""
    complete: bool = False

    def release(self) -> None:
        """Give the bytes back to the budget."""
        self.held.total -= self.size


class _Sink(Protocol):
    def write(self, data: bytes) -> None: ...

    def uploads(self) -> list[Upload]: ...


async def read_uploads(
    headers: Iterable[tuple[bytes, bytes]], receive: Receive, limits: UploadLimits, body: Body
) -> list[Upload]:
    """Return the files of a request in order; a file with too many bytes is replaced by a rejection.

    Raises:
        Problem: the request is too large, too slow, broken, of another type, or holds no file.
        Disconnected: the client has gone.
    """
    found = dict(headers)
    sink, limit = _sink(found, limits)
    length = found.get(b"content-length", b"0")
    if not length.isdigit() or int(length[:20]) > limit:
        raise _too_large(limit)
    try:
        async with asyncio.timeout(limits.body_seconds):
            while not body.complete:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise Disconnected
                data = message.get("body", b"")
                body.complete = not message.get("more_body", False)
                if body.size + len(data) > limit:
                    raise _too_large(limit)
                body.held.take(len(data))
                body.size += len(data)
                sink.write(data)
    except TimeoutError:
        detail = f"The body did not arrive within {limits.body_seconds:g} s."
        raise Problem(Refusal.SLOW_BODY, detail) from None
    return sink.uploads()


def _too_large(limit: int) -> Problem:
    return Problem(Reason.TOO_LARGE, f"The body has more than {limit} bytes.")


def _sink(headers: dict[bytes, bytes], limits: UploadLimits) -> tuple[_Sink, int]:
    """Return the reader for the body, and the limit of its bytes."""
    if headers.get(b"content-encoding", b"identity").lower() != b"identity":
        raise Problem(Refusal.UNSUPPORTED_MEDIA, "Send the body as it is, without a Content-Encoding.")
    media_type, options = parse_options_header(headers.get(b"content-type", b"").decode("latin-1"))
    if media_type == "multipart/form-data":
        return _Multipart(options.get("boundary", ""), limits), limits.max_total_bytes
    if media_type.startswith(_FILE_TYPES):
        return _Raw(), limits.max_bytes
    raise Problem(
        Refusal.UNSUPPORTED_MEDIA, "Send multipart/form-data, or one image as image/* or application/octet-stream."
    )


@dataclass
class _Raw:
    """The body is the file, which a buffer hands over as it is; pieces to be joined would be in memory twice."""

    content: BytesIO = field(default_factory=BytesIO)

    def write(self, data: bytes) -> None:
        self.content.write(data)

    def uploads(self) -> list[Upload]:
        return [Upload(None, self.content.getvalue())]


class _Multipart:
    """The body is a form; its files are kept, its other fields dropped."""

    def __init__(self, boundary: str, limits: UploadLimits) -> None:
        self._limits = limits
        self._uploads: list[Upload] = []
        self._parts = 0
        self._part: MultipartSegment | None = None
        """The file that is being read; None if it is another field."""
        self._content = BytesIO()
        if len(boundary) > MAX_BOUNDARY:
            raise Problem(Reason.UNREADABLE, "The boundary is too long.")
        try:
            self._parser = PushMultipartParser(
                boundary.encode("latin-1"),
                max_header_count=MAX_PART_HEADERS,
                max_header_size=MAX_PART_HEADER_BYTES,
                header_charset="latin-1",
            )
        except MultipartError:
            raise Problem(Reason.UNREADABLE, "The Content-Type names no boundary.") from None

    def write(self, data: bytes) -> None:
        if not data:  # the parser would take it for the end
            return
        try:
            for event in self._parser.parse(data):
                if isinstance(event, MultipartSegment):
                    self._part_begins(event)
                elif event is None:
                    self._part_ends()
                else:
                    self._part_goes_on(event)
        except MultipartError:
            raise _no_form() from None

    def uploads(self) -> list[Upload]:
        try:
            self._parser.close()
        except MultipartError:
            if not self._parts:
                raise _no_form() from None
            raise Problem(Reason.TRUNCATED, "The body ends before its last boundary.", status=400) from None
        if not self._uploads:
            raise Problem(Refusal.NO_FILE, "The form holds no file.")
        return self._uploads

    def _part_begins(self, part: MultipartSegment) -> None:
        self._parts += 1
        part.filename = _encoded_name(part) or part.filename
        if self._parts > self._limits.max_files + OTHER_PARTS:
            raise Problem(Refusal.TOO_MANY_FILES, "The form has too many parts.")
        is_file = part.filename is not None or (part.content_type or "").startswith(_FILE_TYPES)
        if is_file and len(self._uploads) >= self._limits.max_files:
            raise Problem(Refusal.TOO_MANY_FILES, f"The form holds more than {self._limits.max_files} files.")
        self._part = part if is_file else None
        self._content = BytesIO()

    def _part_goes_on(self, data: bytes) -> None:
        if self._part is None:
            return
        if self._part.bytes_received > self._limits.max_bytes:
            self._content = BytesIO()
        else:
            self._content.write(data)

    def _part_ends(self) -> None:
        # A form that was sent with no file chosen has a part without name and content.
        if self._part is None or not (self._part.filename or self._part.size):
            return
        content: bytes | Rejection = self._content.getvalue()
        if self._part.size > self._limits.max_bytes:
            content = Rejection(Reason.TOO_LARGE, f"more than {self._limits.max_bytes} bytes")
        self._uploads.append(Upload(_base_name(self._part.filename or "") or None, content))
        self._content = BytesIO()


def _no_form() -> Problem:
    return Problem(Reason.UNREADABLE, "The body is no valid multipart/form-data.")


def _encoded_name(part: MultipartSegment) -> str | None:
    """Return the name of a file, as the latin-1 of its UTF-8, that is written as RFC 5987 has it.

    The parser leaves it out. Old clients in Python send it alone; .NET sends another one beside it for mail programs.
    """
    found = _ENCODED_NAME.search(part.header("Content-Disposition", ""))
    return unquote_to_bytes(found[1]).decode("latin-1") if found else None


def _base_name(filename: str) -> str:
    """Return a file's name without folders and control characters, from the latin-1 of its UTF-8."""
    name = re.split(r"[/\\]", filename.encode("latin-1", "replace").decode(errors="replace"))[-1]
    return "".join(character for character in name if character.isprintable())[:MAX_FILENAME]
