"""Whatever is sent, the server answers with a reason, lives on, and gives its memory back."""

import io
import json
import os
import random
import re
import shutil
import signal
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from PIL import Image

from chaos_table import TIMES, Note

from .conftest import Server, serving

BOUNDARY = b"a-boundary"
EACH = 8 * TIMES
"""Times that each kind of bad upload is sent, with other random bytes each time."""
INCOMPLETE = "too short a body"
GROWN_MB = 60
"""A process that has decoded bombs may have grown by so much; what is lost for each upload would be more."""

Kind = Callable[[random.Random, bytes], bytes]


def _post(body: bytes, *headers: str, length: int | None = None) -> bytes:
    """Return a whole request."""
    lines = ["POST /v1/predict HTTP/1.1", "Host: x", "Connection: close", *headers]
    lines.append(f"Content-Length: {len(body) if length is None else length}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def _form(content: bytes, *, head: bytes = b'Content-Disposition: form-data; name="file"; filename="a.jpg"') -> bytes:
    return b"--" + BOUNDARY + b"\r\n" + head + b"\r\n\r\n" + content + b"\r\n--" + BOUNDARY + b"--\r\n"


def _upload(content: bytes, *, head: bytes | None = None) -> bytes:
    body = _form(content) if head is None else _form(content, head=head)
    return _post(body, f"Content-Type: multipart/form-data; boundary={BOUNDARY.decode()}")


def _image(kind: str, random: random.Random) -> bytes:
    file = io.BytesIO()
    Image.frombytes("RGB", (64, 64), random.randbytes(64 * 64 * 3)).save(file, kind)
    return file.getvalue()


def _bomb(random: random.Random, side: int = 60_000) -> bytes:
    """Return a PNG of 3.6 gigapixels in a few hundred bytes."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", side, side + random.randrange(9), 8, 2, 0, 0, 0)
    rows = zlib.compress(bytes(100_000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def _within_the_limit(random: random.Random) -> bytes:
    """Return a PNG of 36 megapixels that is only just allowed, and whose rows are not there."""
    return _bomb(random, side=6000)


def _header(name: str, count: int) -> bytes:
    return "\r\n".join(f"{name}-{n}: {'x' * 100}" for n in range(count)).encode()


def _nested(random: random.Random, photo: bytes) -> bytes:
    inner = _form(photo + random.randbytes(3))
    return _upload(inner, head=b'Content-Disposition: form-data; name="f"\r\nContent-Type: multipart/mixed; boundary=x')


KINDS: dict[str, Kind] = {
    "truncated JPEG": lambda r, photo: _upload(photo[: r.randrange(20, len(photo) - 2)]),
    "truncated PNG": lambda r, _: _upload(_image("PNG", r)[: r.randrange(20, 5000)]),
    "JPEG with noise": lambda r, photo: _upload(photo[:100] + r.randbytes(len(photo) - 100)),
    "GIF with noise": lambda r, _: _upload(b"GIF89a" + r.randbytes(3000)),
    "TIFF with noise": lambda r, _: _upload(b"II*\x00" + r.randbytes(3000)),
    "WebP with noise": lambda r, _: _upload(b"RIFF\xff\xff\x00\x00WEBPVP8 " + r.randbytes(3000)),
    "bomb": lambda r, _: _upload(_bomb(r)),
    "36 megapixels without rows": lambda r, _: _upload(_within_the_limit(r)),
    "noise": lambda r, _: _upload(r.randbytes(r.randrange(1, 50_000))),
    "nothing": lambda *_: _upload(b""),
    "a page": lambda r, _: _upload(b"<!doctype html><script>" + r.randbytes(20)),
    "no boundary": lambda _, photo: _post(_form(photo), "Content-Type: multipart/form-data"),
    "another boundary": lambda _, photo: _post(_form(photo), "Content-Type: multipart/form-data; boundary=other"),
    "long boundary": lambda _, photo: _post(_form(photo), "Content-Type: multipart/form-data; boundary=" + "b" * 300),
    "form without an end": lambda r, photo: _post(
        _form(photo)[: -r.randrange(5, 200)], f"Content-Type: multipart/form-data; boundary={BOUNDARY.decode()}"
    ),
    "long part header": lambda r, photo: _upload(photo, head=b"X-Long: " + b"x" * r.randrange(5000, 90_000)),
    "many part headers": lambda r, photo: _upload(photo, head=_header("X", r.randrange(20, 200))),
    "nested form": _nested,
    "odd file name": lambda r, photo: _upload(
        photo[:50], head=b'Content-Disposition: form-data; name="f"; filename="../../' + r.randbytes(9).hex().encode()
    ),
    "base64": lambda _, photo: _upload(photo.hex().encode(), head=b"Content-Transfer-Encoding: base64\r\nX: y"),
    INCOMPLETE: lambda _, photo: _post(_form(photo), "Content-Type: image/jpeg", length=len(photo) + 5000),
    "too long a body": lambda _, photo: _post(_form(photo), "Content-Type: image/jpeg", length=7),
    "a length that is none": lambda *_: b"POST /v1/predict HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\nxxxxx",
    "two lengths": lambda *_: _post(b"xxx", "Content-Length: 900", "Content-Type: image/jpeg"),
    "gigabytes announced": lambda r, _: _post(b"", "Content-Type: image/jpeg", length=10**12 + r.randrange(9)),
    "broken chunks": lambda *_: (
        b"POST /v1/predict HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"
    ),
    "long headers": lambda _, photo: _post(photo, *[f"X-{n}: {'y' * 1000}" for n in range(100)]),
    "no HTTP": lambda r, _: r.randbytes(200) + b"\r\n\r\n",
}


@pytest.fixture(scope="module")
def photo(fruits: Path) -> bytes:
    return next(iter(sorted((fruits / "Test" / "Mango").iterdir()))).read_bytes()


def test_hundreds_of_bad_uploads_leave_no_trace(server: Server, photo: bytes, note: Note) -> None:
    assert len(KINDS) >= 20
    good = {"files": {"file": photo}}
    generator = random.Random(7)
    for kind in KINDS.values():  # once for the memory that is taken once
        server.raw(kind(generator, photo), 1)
    before = server.resident_mb()
    answers: dict[str, set[int]] = {}
    for name, kind in KINDS.items():
        for _ in range(EACH):
            answer = server.raw(kind(generator, photo), 0.1 if name == INCOMPLETE else 10)
            # A client that closes before its body is complete is not there to be answered.
            status = int(answer[9:12]) if answer else 0
            answers.setdefault(name, set()).add(status)
            if status >= 400:
                found = json.loads(re.split(rb"\r\n\r\n", answer, maxsplit=1)[1])
                assert found["status"] == status
                assert b"Traceback" not in answer
        assert server.client.post("/v1/predict", **good).status_code == 200, name  # type: ignore[arg-type]
    assert {name: found for name, found in answers.items() if any(status >= 500 for status in found)} == {}
    assert {name for name, found in answers.items() if 0 in found} == {INCOMPLETE}, answers
    assert {name for name, found in answers.items() if 200 in found} <= {"JPEG with noise", "GIF with noise"}, answers
    assert server.process.poll() is None
    assert server.resident_mb() < before + GROWN_MB
    text = server.client.get("/metrics").text
    assert "orchard_held_bytes 0.0" in text
    assert "orchard_queue_images 0.0" in text
    assert not [line for line in server.lines() if line["level"] == "error"]
    note("hostile uploads", EACH * len(KINDS), "each answered with its reason; memory given back, the server lives")


def test_schemathesis_finds_nothing(server: Server, tmp_path: Path) -> None:
    executable = Path(sys.executable).with_name("schemathesis")
    if not executable.is_file() and shutil.which("schemathesis") is None:
        pytest.skip("schemathesis is not installed")
    command = [str(executable), "run", f"{server.url}/openapi.json", "--checks=all", "--max-examples=15"]
    # What is an image no schema can say: it sends others as good ones, and good ones in forms that it takes for bad.
    command += ["--exclude-checks=positive_data_acceptance,negative_data_rejection"]
    command += ["--phases=examples,coverage,fuzzing"]
    command += ["--seed=1", "--request-timeout=60", "--no-color"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert server.process.poll() is None


def test_an_engine_that_is_killed_is_replaced_and_the_other_goes_on(
    trained: Path, photo: bytes, tmp_path: Path
) -> None:
    with serving(trained, tmp_path, "--engines=2") as server:
        before = server.engines()
        assert len(before) == 2
        os.kill(before[0], signal.SIGKILL)
        statuses = [server.client.post("/v1/predict", files={"f": photo}).status_code for _ in range(20)]
        assert statuses == [200] * 20
        deadline = time.monotonic() + 30
        while server.client.get("/readyz").status_code != 200 or len(server.engines()) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert before[0] not in server.engines()
        assert any("another takes its place" in line["event"] for line in server.lines())
        assert server.stop() == 0
    assert not any(Path(f"/proc/{engine}").exists() for engine in before)


def test_bodies_take_the_memory_that_is_counted_and_give_it_back(trained: Path, tmp_path: Path) -> None:
    """A container's limit is set by --max-held-bytes: with thrice as much, a few large uploads would end the server."""
    held = 200 * 2**20
    content = random.Random(7).randbytes(19 * 2**20)
    with serving(trained, tmp_path, "--engines=1", f"--max-held-bytes={held}") as server:

        def memory(kind: str) -> int:
            status = Path(f"/proc/{server.process.pid}/status").read_text()
            return 1024 * int(status.split(f"{kind}:")[1].split()[0])

        def post(_: int) -> int:
            return httpx.post(f"{server.url}/v1/predict", files={"f": content}, timeout=60).status_code

        before = memory("VmRSS")
        with ThreadPoolExecutor(20) as clients:
            for _ in range(2):
                assert set(clients.map(post, range(20))) == {415, 503}
        assert memory("VmHWM") < before + 2 * held
        assert memory("VmRSS") < before + held
