"""`orchard serve` under load from loopback, against the bare engine and against a plain Keras server.

    python benchmarks/serving.py OUT --json serving.json

OUT is an output with a model. Each client of wrk posts one photograph as multipart/form-data, waits for the answer, and
posts the next, over a connection that stays open. All sides are started once, and wait. In each turn, for each number
of clients, one after the other:

- the bare engine: one process for each core, each with the bytes of the photographs in its memory and a `Predictor`,
  decoding, resizing and inferring in batches of `--bare-batch`; no HTTP, no JSON, no queue;
- `orchard serve`;
- the bare engine again; the mean of both is what `orchard serve` is compared with;
- a server as a beginner writes it: FastAPI, `tf.image.decode_image`, `model.predict` of the same network with the same
  last layer, under uvicorn; it gets the photograph as the body, and is spared the form.

Many short turns, since a shared machine changes its speed from one half minute to the next: what is compared is
neighbours in time, and the spread of the ratios is told. wrk runs on the same cores as the servers, and takes its share
of them (it is printed).
"""

import json
import multiprocessing
import os
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median, quantiles

from measuring import images_folder, parser, report, save
from orchard.images.decoding import Decoded
from orchard.machine import available_cores

PHOTOGRAPHS = 128
WARM_UP_SECONDS = 2
BOUNDARY = "orchard-benchmark"
RAW, FORM = "image/jpeg", f"multipart/form-data; boundary={BOUNDARY}"

LUA = """
local bodies, n = {}, 0
function init(args)
  for i = 1, tonumber(args[2]) do
    local file = io.open(args[1] .. "/" .. i, "rb")
    bodies[i] = wrk.format("POST", "%s", {["Content-Type"] = "%s"}, file:read("*a"))
    file:close()
  end
end
function request() n = n + 1; return bodies[n %% #bodies + 1] end
function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format('{"requests":%%d,"seconds":%%f,"p50":%%f,"p99":%%f,"errors":%%d}\\n', summary.requests,
    summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
    e.connect + e.read + e.write + e.status + e.timeout))
end
"""

# What the beginner writes; `model.keras` is made from the output.
KERAS_SERVER = """
import keras, tensorflow as tf, uvicorn, sys, json
from fastapi import Body, FastAPI

app = FastAPI()
model = keras.saving.load_model(sys.argv[1], compile=False)
labels = json.loads(sys.argv[3])

@app.post("/predict")
def predict(data: bytes = Body(media_type="image/jpeg")):
    image = tf.image.decode_image(data, channels=3, expand_animations=False)
    image = tf.image.resize(image, (model.input_shape[1], model.input_shape[2]))
    probabilities = model.predict(image[None], verbose=0)[0]
    order = probabilities.argsort()[::-1][:5]
    return {"top": [{"label": labels[i], "confidence": float(probabilities[i])} for i in order]}

uvicorn.run(app, port=int(sys.argv[2]), log_level="warning")
"""


@dataclass(frozen=True)
class Load:
    """What wrk measured."""

    clients: int
    images_per_second: float
    p50_ms: float
    p99_ms: float
    errors: int
    server_cpu_ms: float
    """CPU time of the server for each image."""
    client_cpu_ms: float
    """CPU time of wrk for each image."""


@dataclass(frozen=True)
class Bare:
    """What the bare engine did."""

    images_per_second: float
    cpu_ms: float
    """CPU time for each image."""


@dataclass(frozen=True)
class Turn:
    """All sides, one after the other, with as many clients."""

    bare: Bare
    orchard: Load
    keras: Load | None


# --- The bare engine ----------------------------------------------------------------------------------------


class BareEngine:
    """Processes with a `Predictor` each, that wait."""

    def __init__(self, output: str, photographs: Sequence[bytes], processes: int, batch: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipes: list[Connection] = []
        for _ in range(processes):
            ours, theirs = context.Pipe()
            context.Process(target=_bare, args=(theirs, output, photographs, batch), daemon=True).start()
            self._pipes.append(ours)
        for pipe in self._pipes:
            pipe.recv()

    def run(self, seconds: float) -> Bare:
        """Predict for so long."""
        for pipe in self._pipes:
            pipe.send(seconds)
        results = [pipe.recv() for pipe in self._pipes]
        images = sum(count for count, _, _ in results)
        return Bare(sum(count / took for count, took, _ in results), 1000 * sum(cpu for _, _, cpu in results) / images)

    def stop(self) -> None:
        """End the processes."""
        for pipe in self._pipes:
            pipe.close()


def _bare(pipe: Connection, output: str, photographs: Sequence[bytes], batch: int) -> None:
    from orchard.inference.model import Model
    from orchard.inference.predictor import Predictor

    predictor = Predictor(Model.load(output), batch_size=batch)
    pipe.send("ready")
    while True:
        try:
            seconds = pipe.recv()
        except EOFError:
            return
        started, cpu, done = time.perf_counter(), time.process_time(), 0
        while time.perf_counter() - started < seconds:
            taken = [photographs[(done + n) % len(photographs)] for n in range(batch)]
            decoded = [predictor.decode(data) for data in taken]
            predictor.features([image.pixels for image in decoded if isinstance(image, Decoded)])
            done += batch
        pipe.send((done, time.perf_counter() - started, time.process_time() - cpu))


# --- The servers --------------------------------------------------------------------------------------------


@contextmanager
def _server(command: Sequence[str], port: int, path: str) -> Iterator[int]:
    """Run a server until the block ends; yields its process id when it answers."""
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            for _ in range(600):
                if process.poll() is not None:
                    log.seek(0)
                    raise SystemExit(f"The server did not start: {log.read()[-1000:].decode(errors='replace')}")
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=1).close()
                    break
                except OSError:
                    time.sleep(0.1)
            yield process.pid
        finally:
            process.terminate()
            process.wait(30)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def _orchard(output: str, port: int) -> list[str]:
    start = "from orchard.cli.serve import serve; serve()"
    return [sys.executable, "-c", start, output, "--port", str(port)]


def _keras_model(output: str, target: Path) -> list[str]:
    """Write the network of an output with its last layer as a Keras model; return its labels."""
    import keras
    from keras import layers

    from orchard.features.efficientnet_lite import network, set_imagenet_weights, weights_path
    from orchard.inference.model import Model

    model = Model.load(output)
    if model.artifact.backbone != "EfficientNetLite0":
        raise SystemExit("The comparison with Keras takes an output of EfficientNetLite0.")
    backbone = network(model.artifact.backbone)
    set_imagenet_weights(backbone, weights_path(model.artifact.backbone))
    dense = layers.Dense(len(model.labels), activation="softmax")
    whole = keras.Model(backbone.input, dense(backbone.output))
    dense.set_weights([model.weights.T / model.calibration.temperature, model.bias / model.calibration.temperature])
    whole.save(target)
    return list(model.labels)


# --- The load -----------------------------------------------------------------------------------------------


def _bodies(photographs: Sequence[bytes], folder: Path) -> None:
    """Write what is posted: the photographs as they are, and each in a form."""
    for media_type in (RAW, FORM):
        (folder / media_type).mkdir(parents=True)
    for number, data in enumerate(photographs, 1):
        head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="{number}.jpg"\r\n'
        whole = head.encode() + b"Content-Type: image/jpeg\r\n\r\n" + data + f"\r\n--{BOUNDARY}--\r\n".encode()
        (folder / RAW / str(number)).write_bytes(data)
        (folder / FORM / str(number)).write_bytes(whole)


def _load(port: int, path: str, pid: int, *, bodies: Path, media_type: str, clients: int, seconds: float) -> Load:
    script = bodies / "load.lua"
    script.write_text(LUA % (path, media_type))
    command = ["wrk", "-t1", f"-c{clients}", f"-d{max(1, round(seconds))}s", "--timeout", "10s", "-s", str(script)]
    command += [f"http://127.0.0.1:{port}", "--", str(bodies / media_type), str(PHOTOGRAPHS)]
    before, ours = _cpu_seconds(pid), resource.getrusage(resource.RUSAGE_CHILDREN)
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    after, theirs = _cpu_seconds(pid), resource.getrusage(resource.RUSAGE_CHILDREN)
    found = json.loads(output.splitlines()[-1])
    client = theirs.ru_utime + theirs.ru_stime - ours.ru_utime - ours.ru_stime
    answered = max(1, found["requests"] - found["errors"])
    return Load(
        clients,
        answered / found["seconds"],
        found["p50"],
        found["p99"],
        found["errors"],
        1000 * (after - before) / answered,
        1000 * client / answered,
    )


def _cpu_seconds(pid: int) -> float:
    """Return the processor time of a process and its children so far."""
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    children = [child for task in tasks for child in task.read_text().split()]
    return sum(_own_cpu_seconds(process) for process in (str(pid), *children))


def _own_cpu_seconds(pid: str) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def _warm(
    command: Sequence[str], port: int, ready: str, path: str, *, bodies: Path, media_type: str
) -> Iterator[Callable[..., Load]]:
    """Run a server until the block ends; yields what measures it."""
    with _server(command, port, ready) as pid:
        first = urllib.request.Request(f"http://127.0.0.1:{port}{path}", (bodies / media_type / "1").read_bytes())
        first.add_header("Content-Type", media_type)
        urllib.request.urlopen(first, timeout=120).close()  # noqa: S310 -- Keras compiles its graph for seconds
        measure = partial(_load, port, path, pid, bodies=bodies, media_type=media_type)
        measure(clients=16, seconds=WARM_UP_SECONDS)
        yield measure


def main() -> None:
    """Measure and print."""
    arguments = parser(__doc__)
    arguments.set_defaults(repeat=15)
    arguments.add_argument("output", help="an output with a model")
    arguments.add_argument("--seconds", type=float, default=2, metavar="S", help="of each load [%(default)g]")
    arguments.add_argument("--bare-batch", type=int, default=4, metavar="N", help="the bare engine's [%(default)s]")
    arguments.add_argument("--clients", type=int, nargs="+", default=(1, 4, 16), metavar="N", help="[%(default)s]")
    arguments.add_argument("--without-keras", action="store_true", help="leave the plain Keras server out")
    given = arguments.parse_args()
    if shutil.which("wrk") is None:
        raise SystemExit("wrk is missing: apt-get install wrk")

    scratch = Path(tempfile.mkdtemp(prefix="orchard-benchmark-", dir=given.scratch))
    source = images_folder(given.images, scratch)
    files = sorted(source.glob("Test/*/*.jpg")) or sorted(source.rglob("*.jpg"))
    photographs = [files[len(files) * n // PHOTOGRAPHS].read_bytes() for n in range(PHOTOGRAPHS)]
    _bodies(photographs, scratch)
    cores = available_cores()
    labels = [] if given.without_keras else _keras_model(given.output, scratch / "model.keras")
    turns: dict[int, list[Turn]] = {clients: [] for clients in given.clients}
    with ExitStack() as running:
        running.callback(shutil.rmtree, scratch, ignore_errors=True)
        engines = BareEngine(given.output, photographs, cores, given.bare_batch)
        running.callback(engines.stop)
        engines.run(WARM_UP_SECONDS)
        port = _free_port()
        # /model.onnx: what the server makes for the page in its first seconds is made.
        server = _warm(
            _orchard(given.output, port), port, "/model.onnx", "/v1/predict", bodies=scratch, media_type=FORM
        )
        orchard, keras = running.enter_context(server), None
        if labels:
            port = _free_port()
            command = [sys.executable, "-c", KERAS_SERVER, str(scratch / "model.keras"), str(port), json.dumps(labels)]
            server = _warm(command, port, "/openapi.json", "/predict", bodies=scratch, media_type=RAW)
            keras = running.enter_context(server)
        for number in range(given.repeat):
            for clients in given.clients:
                load = {"clients": clients, "seconds": given.seconds}
                before, ours, after = engines.run(given.seconds), orchard(**load), engines.run(given.seconds)
                turn = Turn(_mean(before, after), ours, keras(**load) if keras else None)
                turns[clients].append(turn)
                print(f"turn {number + 1}, {clients} clients: {_of_bare(turn):.3f} of the bare engine", file=sys.stderr)

    _report(turns)
    result = {str(clients): [asdict(turn) for turn in of_clients] for clients, of_clients in turns.items()}
    save(given.json, {"turns": result, "cores": cores})


def _mean(one: Bare, other: Bare) -> Bare:
    return Bare((one.images_per_second + other.images_per_second) / 2, (one.cpu_ms + other.cpu_ms) / 2)


def _of_bare(turn: Turn) -> float:
    return turn.orchard.images_per_second / turn.bare.images_per_second


def _report(turns: Mapping[int, Sequence[Turn]]) -> None:
    """Print medians and ratios."""
    every = [turn.bare for of_clients in turns.values() for turn in of_clients]
    bare = (median(one.images_per_second for one in every), median(one.cpu_ms for one in every))
    rows: list[tuple[str, ...]] = [("bare engine", "", f"{bare[0]:,.0f}", "", "", "", f"{bare[1]:.2f}", "")]
    lines = []
    for clients, of_clients in turns.items():
        rows.append(_row("orchard serve", clients, [turn.orchard for turn in of_clients]))
        ratios = [_of_bare(turn) for turn in of_clients]
        low, _, high = quantiles(ratios, n=4) if len(ratios) > 1 else (ratios[0],) * 3
        lines.append(f"{clients} clients: {median(ratios):.3f} of the bare engine (quarters {low:.3f} to {high:.3f})")
    for clients, of_clients in turns.items():
        if loads := [turn.keras for turn in of_clients if turn.keras]:
            rows.append(_row("plain Keras", clients, loads))
            pairs = zip(of_clients, loads, strict=True)
            times = median(turn.orchard.images_per_second / load.images_per_second for turn, load in pairs)
            lines.append(f"{clients} clients: {times:.1f} times the plain Keras server")
    lines.append("targets at 16 clients: at least 0.85 of the bare engine, at least 4 times the plain Keras server")
    headers = ("median", "clients", "images/s", "p50 ms", "p99 ms", "errors", "CPU ms", "wrk's CPU ms")
    title = f"One photograph a request, {len(every) // len(turns)} turns; CPU time for each image"
    report(title, headers, rows, lines)


def _row(name: str, clients: int, loads: Sequence[Load]) -> tuple[str, ...]:
    return (
        name,
        str(clients),
        f"{median(load.images_per_second for load in loads):,.0f}",
        f"{median(load.p50_ms for load in loads):.1f}",
        f"{median(load.p99_ms for load in loads):.1f}",
        str(sum(load.errors for load in loads)),
        f"{median(load.server_cpu_ms for load in loads):.2f}",
        f"{median(load.client_cpu_ms for load in loads):.3f}",
    )


if __name__ == "__main__":
    main()
