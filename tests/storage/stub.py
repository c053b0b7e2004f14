"""An S3 server in memory, for what a real one cannot be made to do: keys that are no paths, refusals, certificates."""

import re
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import md5
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, quote, unquote
from xml.sax.saxutils import escape

from orchard.storage import S3Options

Answer = tuple[int, bytes]


def error(status: int, code: str, message: str = "made by a test") -> Answer:
    """The answer to a request that is refused."""
    return status, f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()


@dataclass
class Stub:
    """A bucket ``b``."""

    port: int = 0
    scheme: str = "http"
    path: str = ""
    """In front of the bucket's."""
    hosted: bool = False
    """Whether the bucket is in the host's name, as at Amazon, rather than in the path."""
    objects: dict[str, bytes] = field(default_factory=dict)
    refused: dict[str, Answer] = field(default_factory=dict)
    """By key: what a request for it is answered."""
    location: Answer = (200, b"<LocationConstraint/>")
    """To whoever asks for the bucket's region."""
    quotes: bool = True
    """Whether listings know ``encoding-type=url``."""
    page: int = 1000
    cut: int = 0
    """How many bodies are cut off yet."""
    check: Callable[[str], Answer | None] = lambda _: None
    """Sees the Authorization header of each request; may refuse it."""
    requests: list[str] = field(default_factory=list)
    signers: list[tuple[str, str] | None] = field(default_factory=list)
    """Whose key signed for which region, where `check` notes it."""

    @property
    def options(self) -> S3Options:
        return S3Options(f"{self.scheme}://127.0.0.1:{self.port}{self.path}", "us-east-1", timeout=5)

    def answer(  # noqa: PLR0911, PLR0912 -- one for each request
        self, method: str, target: str, headers: dict[str, str], body: bytes
    ) -> tuple[int, dict[str, str], bytes]:
        path, _, query = target.partition("?")
        bucket = f"{self.path}{'' if self.hosted else '/b'}"
        assert path.startswith(bucket or "/"), path
        key = unquote(path.removeprefix(bucket).removeprefix("/"))
        if refusal := self.check(headers.get("authorization", "")) or self.refused.get(key):
            return refusal[0], {}, refusal[1]
        if "location" in query:
            return self.location[0], {}, self.location[1]
        if "list-type" in query:
            return 200, {}, self._listing({name: value[0] for name, value in parse_qs(query).items()})
        if method == "POST":
            names = re.findall(r"<Key>.*?</Key>", body.decode())
            if kept := [name for name in names if name[5:-6] in self.refused]:
                why = self.refused[kept[0][5:-6]][1].decode().partition("<Error>")[2]
                return 200, {}, f"<DeleteResult><Error>{kept[0]}{why}</DeleteResult>".encode()
            for name in names:
                self.objects.pop(name[5:-6], None)
            deleted = "".join(f"<Deleted>{name}</Deleted>" for name in names)
            return 200, {}, f"<DeleteResult>{deleted}</DeleteResult>".encode()
        if method == "PUT":
            if "if-none-match" in headers and key in self.objects:
                return 412, {}, error(412, "PreconditionFailed")[1]
            if source := headers.get("x-amz-copy-source"):
                source = unquote(source).removeprefix("/b/").removeprefix("b/")
                if source not in self.objects:
                    return 404, {}, error(404, "NoSuchKey")[1]
                body = self.objects[source]
            self.objects[key] = body
            return 200, self._tags(key), b"<CopyObjectResult/>" if source else b""
        if key not in self.objects:
            return 404, {}, error(404, "NoSuchKey")[1]
        data = self.objects[key]
        tags = self._tags(key)
        if found := re.fullmatch(r"bytes=(\d+)-(\d+)", headers.get("range", "")):
            start, end = int(found[1]), min(int(found[2]) + 1, len(data))
            if start >= len(data):
                return 416, {}, error(416, "InvalidRange")[1]
            return 206, tags | {"Content-Range": f"bytes {start}-{end - 1}/{len(data)}"}, data[start:end]
        return 200, tags, data

    def _tags(self, key: str) -> dict[str, str]:
        return {"ETag": f'"{md5(self.objects[key]).hexdigest()}"', "Last-Modified": "Wed, 21 Oct 2015 07:28:00 GMT"}  # noqa: S324

    def _listing(self, query: dict[str, str]) -> bytes:
        keys = sorted(key for key in self.objects if key.startswith(query.get("prefix", "")))
        start = int(query.get("continuation-token", "0"))
        is_quoted = self.quotes and query.get("encoding-type") == "url"
        contents = "".join(
            f"<Contents><Key>{quote(key, safe='/') if is_quoted else _escaped(key)}</Key>"
            f"<LastModified>2020-01-01T00:00:00.000Z</LastModified><Size>{len(self.objects[key])}</Size>"
            f"<ETag>&quot;{md5(self.objects[key]).hexdigest()}&quot;</ETag></Contents>"  # noqa: S324
            for key in keys[start : start + self.page]
        )
        more = start + self.page < len(keys)
        following = f"<NextContinuationToken>{start + self.page}</NextContinuationToken>" if more else ""
        encoding = "<EncodingType>url</EncodingType>" if is_quoted else ""
        return (
            '<?xml version="1.0"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>b</Name>'
            f"<IsTruncated>{str(more).lower()}</IsTruncated>{following}{encoding}{contents}</ListBucketResult>"
        ).encode()


def _escaped(key: str) -> str:
    return re.sub(r"[\x00-\x1f]", lambda found: f"&#x{ord(found[0]):X};", escape(key))


@contextmanager
def running(stub: Stub, tls: ssl.SSLContext | None = None, port: int = 0) -> Iterator[Stub]:
    """Let it answer until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            stub.requests.append(f"{self.command} {self.path}")
            given = {name.lower(): value for name, value in self.headers.items()}
            status, headers, data = stub.answer(self.command, self.path, given, body)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if self.command == "HEAD":
                return
            if stub.cut and data:
                stub.cut -= 1
                data = data[: len(data) // 2]
                self.close_connection = True
            self.wfile.write(data)

        do_GET = do_HEAD = do_PUT = do_POST = handle_any  # noqa: N815 -- the library's names

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    server.daemon_threads = True
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
        stub.scheme = "https"
    stub.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield stub
    finally:
        server.shutdown()
        server.server_close()
