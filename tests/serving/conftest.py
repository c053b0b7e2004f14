"""A real server: `orchard serve` in a process of its own, on a port of its own, over a model of fruits."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, Playwright, sync_playwright

from orchard.inference.calibration import Calibration, Decision
from orchard.inference.model import Model
from orchard.layout import CALIBRATION
from orchard.output import Output
from orchard.serving import reference, static

from .visitor import AXE, DESKTOP, Site, Visitor, cannot, launch

START = "from orchard.cli.serve import serve; serve()"


@dataclass(frozen=True)
class Server:
    """A server that is ready."""

    process: subprocess.Popen[bytes]
    port: int
    output: Path
    log: Path
    client: httpx.Client

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def raw(self, data: bytes, timeout: float = 10) -> bytes:
        """Send bytes over a connection of their own, and return what comes back until the server closes it."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=timeout) as connection:
            with suppress(OSError):  # it has answered and closed already
                connection.sendall(data)
            return receive_all(connection)

    def engines(self) -> list[int]:
        """Return the ids of the engines' processes."""
        pid = self.process.pid
        return [int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in _children(task)]

    def resident_mb(self) -> float:
        """Return the memory of the server and its engines."""
        files = [Path(f"/proc/{pid}/status") for pid in (self.process.pid, *self.engines())]
        return sum(int(file.read_text().split("VmRSS:")[1].split()[0]) for file in files) / 1024

    def held_bytes(self) -> float:
        """Return how many bytes of bodies have come that are not answered yet."""
        text = httpx.get(f"{self.url}/metrics").text
        return float(next(line for line in text.splitlines() if line.startswith("orchard_held_bytes ")).split()[1])

    def lines(self) -> list[dict[str, Any]]:
        """Return the log so far."""
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    def stop(self, seconds: float = 20) -> int:
        """Send SIGTERM and return the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(seconds)


def _children(task: Path) -> list[str]:
    try:
        return (task / "children").read_text().split()
    except FileNotFoundError:  # the thread has ended
        return []


def receive_all(connection: socket.socket) -> bytes:
    """Return what comes until the other side closes."""
    received = b""
    try:
        while data := connection.recv(65536):
            received += data
    except OSError:
        pass
    return received


@contextmanager
def serving(output: Path, folder: Path, *flags: str) -> Iterator[Server]:
    """Run `orchard serve` until the block ends."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = folder / f"serve-{port}.log"
    command = [sys.executable, "-c", START, str(output), "--port", str(port), *flags]
    with log.open("wb") as file, httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
        process = subprocess.Popen(command, stdout=file, stderr=file, env=os.environ | {"NO_PROXY": "*"})
        try:
            _wait_until_ready(process, client, log)
            yield Server(process, port, output, log, client)
        finally:
            process.kill()
            process.wait()


def _wait_until_ready(process: subprocess.Popen[bytes], client: httpx.Client, log: Path) -> None:
    for _ in range(600):
        try:
            if client.get("/readyz").status_code == 200:
                return
        except httpx.TransportError:
            pass
        if process.poll() is not None:
            break
        time.sleep(0.1)
    pytest.fail(f"the server is not ready: {log.read_text()[-2000:]}")


@pytest.fixture(scope="session")
def server(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with its defaults."""
    with serving(trained, tmp_path_factory.mktemp("server")) as server:
        yield server


@pytest.fixture(scope="session")
def strict(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with tight limits and one engine, whose model is sure of nothing."""
    folder = tmp_path_factory.mktemp("strict")
    output = Output(str(shutil.copytree(trained, folder / "out")))
    with output.writing():
        decision = Decision("linear_discriminant", Calibration(temperature=3000, threshold=1))
        files = output.classifier_files() | {CALIBRATION: decision.to_bytes()}
        output.commit({}, model=output.stage_model(files))
    flags = ["--engines=1", "--queue=8", "--max-files=8", "--max-bytes=200000", "--max-total-bytes=300000"]
    flags += ["--max-held-bytes=2000000", "--max-pixels=4000000", "--body-seconds=1"]
    with serving(folder / "out", folder, *flags) as server:
        yield server


@pytest.fixture(scope="session")
def npm_parts() -> None:
    """What the page brings from npm; made if it is missing."""
    vendored = (*static.RUNTIME, *(f"vendor/{name}" for name in reference.VENDORED))
    if AXE.is_file() and all((static.PAGE / name).is_file() for name in vendored):
        return
    npm = shutil.which("npm")
    if npm is None:
        cannot("there is no npm, which brings the page's runtime: install Node.js")
    for arguments in (["ci", "--ignore-scripts"], ["run", "vendor"]):
        done = subprocess.run([npm, *arguments], cwd=static.PAGE, capture_output=True, text=True, check=False)
        if done.returncode:
            cannot(f"npm {arguments[0]} failed: {done.stderr[-500:]}")


@pytest.fixture(scope="module")
def playwright() -> Iterator[Playwright]:
    with sync_playwright() as playwright:
        yield playwright


@pytest.fixture(scope="module")
def browser(playwright: Playwright) -> Iterator[Browser]:
    browser = launch(playwright)
    yield browser
    browser.close()


@pytest.fixture(scope="module")
def model(trained: Path) -> Model:
    return Model.load(str(trained))


@pytest.fixture(scope="module")
def site(model: Model, npm_parts: None) -> Iterator[Site]:  # noqa: ARG001 -- serves them
    site = Site.start(model)
    yield site
    site.stop()


@pytest.fixture(scope="module")
def photo(fruits: Path) -> Callable[[str], Path]:
    """A test photograph of a label."""
    return lambda label: sorted((fruits / "Test" / label).glob("*.jpg"))[3]


@pytest.fixture(scope="module")
def settled(browser: Browser, site: Site) -> Iterator[Visitor]:
    """A page on which the model runs, for several tests."""
    visitor = Visitor(browser.new_context(locale="en-US", **DESKTOP), site.url)
    yield visitor.waits_for("offline")
    # Chromium itself notes an answer of 4xx, which is how the server refuses a file.
    assert [text for text in visitor.complaints if "Failed to load resource: the server responded" not in text] == []
    assert {url for url in visitor.requests if not url.startswith((site.url + "/", f"blob:{site.url}/"))} == set()
    visitor.context.close()


@pytest.fixture
def desktop(settled: Visitor) -> Visitor:
    clear = settled.page.locator("#clear")
    if clear.is_visible():
        clear.click()
    return settled
