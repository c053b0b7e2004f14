"""An engine that dies, stops or is kept busy costs one image its answer at the most, and never the server's life."""

import asyncio
import io
import os
import signal
import stat
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from orchard.errors import ClusterError
from orchard.images.decoding import Limits
from orchard.inference.model import Model
from orchard.inference.predictor import Prediction
from orchard.serving import batching
from orchard.serving import server as serving_server
from orchard.serving.app import Serving, create_app
from orchard.serving.batching import EnginePool
from orchard.serving.engine import EngineProcess
from orchard.serving.problems import Problem, Refusal

from .conftest import Server, serving


@pytest.fixture(scope="module")
def photo(fruits: Path) -> bytes:
    return min((fruits / "Test" / "Mango").iterdir()).read_bytes()


@pytest.fixture(scope="module")
def model(trained: Path) -> Model:
    return Model.load(str(trained))


def _scans(count: int) -> bytes:
    """Return a progressive JPEG whose last scan comes so many times more: 342 KB of 2,000, minutes to decode."""
    file = io.BytesIO()
    Image.new("L", (2000, 2000)).save(file, "JPEG", progressive=True)
    data = file.getvalue()
    scan = data[data.rfind(b"\xff\xda") : data.rfind(b"\xff\xd9")]
    return data[:-2] + scan * count + b"\xff\xd9"


def _slow() -> bytes:
    """Return a good WebP of 32 megapixels, which is decoded in one call: half a second of work, in 34 bytes."""
    file = io.BytesIO()
    Image.new("RGB", (5650, 5650)).save(file, "WEBP", lossless=True, method=0)
    return file.getvalue()


def _wait(until: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _ready(server: Server) -> int:
    return int(server.client.get("/readyz").status_code)


def _figure(server: Server, name: str) -> float:
    lines = server.client.get("/metrics").text.splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(f"{name} "))


def _post(server: Server, *files: bytes) -> httpx.Response:
    with httpx.Client(base_url=server.url, timeout=60) as client:
        return client.post("/v1/predict", files=[("files", content) for content in files])


# --- A server ------------------------------------------------------------------------------------------------


def test_images_that_keep_engines_busy_are_refused_and_the_others_answered(
    trained: Path, photo: bytes, tmp_path: Path
) -> None:
    slow = _slow()
    with (
        serving(trained, tmp_path, "--engines=2", "--max-decode-seconds=0.05") as server,
        ThreadPoolExecutor(5) as clients,
    ):
        bombs = [clients.submit(_post, server, _scans(2000)) for _ in range(2)]
        among = clients.submit(_post, server, photo, slow, photo, photo)
        others = [clients.submit(_post, server, photo) for _ in range(2)]
        assert [other.result().status_code for other in others] == [200, 200]
        assert all(bomb.result().status_code == 422 for bomb in bombs)
        found = among.result().json()["predictions"]
        # The decoder notices the deadline itself, or the kernel ends the engine, by where the time goes.
        assert [(entry.get("error") or {}).get("reason") for entry in found] == [None, "too_slow", None, None]
        assert _figure(server, "orchard_engine_deaths_total") == 0
        assert _figure(server, 'orchard_rejected_total{reason="too_slow"}') >= 1
        _wait(lambda: _ready(server) == 200)
        assert server.stop() == 0


def test_an_engine_computes_in_one_thread(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """NumPy's library started one for each core; they waited for each other, for four times the CPU time."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):  # the suite's own
        monkeypatch.delenv(name, raising=False)
    with serving(trained, tmp_path, "--engines=1") as server:
        (engine,) = server.engines()
        assert b"OMP_NUM_THREADS=1" in Path(f"/proc/{engine}/environ").read_bytes().split(b"\0")


def test_a_killed_engine_costs_no_answer_and_replacements_that_die_while_they_start_are_tried_again(
    trained: Path, photo: bytes, tmp_path: Path
) -> None:
    with serving(trained, tmp_path, "--engines=1") as server, ThreadPoolExecutor(1) as clients:
        known = server.engines()
        assert _post(server, photo).status_code == 200  # it has not been idle for long
        os.kill(known[0], signal.SIGSTOP)  # so that it dies at them
        answer = clients.submit(_post, server, photo, photo)
        _wait(lambda: _figure(server, "orchard_held_bytes") > 0 and _figure(server, "orchard_queue_images") == 0)
        os.kill(known[0], signal.SIGKILL)
        for _ in range(2):
            _wait(lambda: not set(server.engines()) <= set(known))
            (starting,) = set(server.engines()) - set(known)
            known.append(starting)
            assert _ready(server) == 503
            os.kill(starting, signal.SIGKILL)
        assert answer.result().status_code == 200
        assert len(answer.result().json()["predictions"]) == 2
        assert _ready(server) == 200
        assert _figure(server, "orchard_engine_deaths_total") == 3
        assert _figure(server, "orchard_retried_images_total") == 2
        told = [line["event"] for line in server.lines() if "could not start" in line["event"]]
        assert ["again in 1 s" in told[0], "again in 2 s" in told[1]] == [True, True]
        assert server.stop() == 0


# --- A pool --------------------------------------------------------------------------------------------------


class Observer:
    """Counts."""

    def __init__(self) -> None:
        self.predicted = self.deaths = self.deadlines = self.again = 0
        self.failures: list[Exception] = []

    def batch(self, images: int) -> None:
        self.predicted += images

    def ended(self, *, late: bool) -> None:
        self.deadlines += late
        self.deaths += not late

    def tried_again(self, images: int) -> None:
        self.again += images


def _play(model: Model, play: Callable[[EnginePool], Awaitable[None]], *, engines: int = 1) -> Observer:
    """Run `play` with a pool that is started; return what was counted."""
    observer = Observer()

    async def run() -> None:
        pool = EnginePool(
            model,
            engines=engines,
            capacity=20,
            limits=Limits(),
            observer=observer,
            failed=observer.failures.append,
        )
        pool.start()
        await play(pool)
        await pool.close()

    asyncio.run(asyncio.wait_for(run(), 120))
    return observer


@pytest.mark.parametrize(
    ("end", "advice"), [(signal.SIGSEGV, "save it again"), (signal.SIGKILL, "give the server more memory")]
)
def test_an_image_that_kills_each_engine_is_told_and_its_neighbours_are_answered(
    model: Model, photo: bytes, monkeypatch: pytest.MonkeyPatch, end: signal.Signals, advice: str
) -> None:
    poison = b"poison"
    send = EngineProcess.send

    def kill_and_send(process: EngineProcess, images: Sequence[bytes], top: int, *, regions: bool) -> None:
        if poison in images:  # killed first: it could answer before it is killed otherwise
            assert process._process is not None
            process._process.send_signal(end)
        send(process, images, top, regions=regions)

    monkeypatch.setattr(EngineProcess, "send", kill_and_send)

    async def play(pool: EnginePool) -> None:
        outcomes = await pool.submit([photo, poison, photo, photo], 1)
        results = [outcome.result for outcome in outcomes]
        assert [isinstance(result, Prediction) for result in results] == [True, False, True, True]
        assert isinstance(results[1], Problem)
        assert (results[1].reason, results[1].status) == (Refusal.ENGINE_DIED, 500)
        assert advice in str(results[1])
        (after,) = await pool.submit([photo], 1)
        assert isinstance(after.result, Prediction)

    counted = _play(model, play)
    assert (counted.deaths, counted.deadlines, counted.again, counted.predicted) == (2, 0, 4, 4)


def test_an_engine_that_hangs_is_replaced_and_what_it_was_at_is_answered(
    model: Model, photo: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batching, "BATCH_SECONDS", 2.0)
    monkeypatch.setattr(batching, "IDLE_SECONDS", 1.0)
    serving = Serving(max_decode_seconds=0.5)
    with TestClient(create_app(model, serving)) as client, ThreadPoolExecutor(1) as clients:

        def ready() -> int:
            return int(client.get("/readyz").status_code)

        _wait(lambda: ready() == 200)
        os.kill(_child(), signal.SIGSTOP)
        answer = clients.submit(client.post, "/v1/predict", files={"f": photo})
        _wait(lambda: ready() == 503)
        told = client.get("/readyz").json()
        assert told["detail"] == "No engine can answer: each is replaced, or is at an image for too long."
        assert "orchard_able_engines 0.0" in client.get("/metrics").text
        assert answer.result().status_code == 200
        assert ready() == 200
        figures = client.get("/metrics").text
        assert "orchard_engine_deadlines_total 1.0" in figures
        assert "orchard_retried_images_total 1.0" in figures
        os.kill(_child(), signal.SIGSTOP)  # nobody asks, and it is noticed all the same
        _wait(lambda: ready() == 503)
        _wait(lambda: ready() == 200)
        assert "orchard_engine_deadlines_total 2.0" in client.get("/metrics").text


def _child() -> int:
    """Return the id of this process' only engine."""
    tasks = Path("/proc/self/task").iterdir()
    children = [int(child) for task in tasks for child in (task / "children").read_text().split()]
    (engine,) = [
        child for child in children if b"orchard.serving.engine" in Path(f"/proc/{child}/cmdline").read_bytes()
    ]
    return engine


def test_one_engine_that_cannot_start_leaves_the_others_at_work(
    model: Model, photo: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = tmp_path / "python"  # dies the first time
    python.write_text(f'#!/bin/sh\nmkdir "{tmp_path}/first" 2>/dev/null && exit 1\nexec "{sys.executable}" "$@"\n')
    python.chmod(stat.S_IRWXU)
    monkeypatch.setattr(sys, "executable", str(python))

    async def play(pool: EnginePool) -> None:
        (outcome,) = await pool.submit([photo], 1)
        assert isinstance(outcome.result, Prediction)
        assert pool.ready
        while pool.able < 2:
            await asyncio.sleep(0.05)

    counted = _play(model, play, engines=2)
    assert (counted.deaths, counted.failures) == (1, [])


def test_when_no_engine_can_start_at_all_the_command_ends_with_a_sentence(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(ClusterError, match=r"^An engine ended while it started: give the server more memory\.$"):
        serving_server.run(model, Serving(engines=2), host="127.0.0.1", port=0, drain_seconds=0, shutdown_seconds=1)
