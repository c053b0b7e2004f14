"""Over HTTP come the answers that the model gives, or a reason; every limit holds; nothing of a photograph is kept."""

import asyncio
import io
import json
import re
import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

import orchard
from orchard.errors import ClusterError
from orchard.images.decoding import Limits, Rejection
from orchard.inference.model import Model
from orchard.inference.predictor import Predictor
from orchard.serving import server as serving_server
from orchard.serving.app import Serving
from orchard.serving.batching import EnginePool, QueueFull
from orchard.vocabulary import Reason
from waiting import wait_until

from .conftest import Server, receive_all, serving

BOUNDARY = "a-boundary"


@pytest.fixture(scope="module")
def photographs(fruits: Path) -> list[bytes]:
    files = [
        file for label in ("Mango", "Plum 5", "Lemon Meyer") for file in sorted((fruits / "Test" / label).iterdir())
    ]
    return [file.read_bytes() for file in files[:: len(files) // 12]][:12]


@pytest.fixture(scope="module")
def model(trained: Path) -> Model:
    return Model.load(str(trained))


def _png(width: int, height: int, seed: int | None = None) -> bytes:
    random = np.random.default_rng(seed)
    shape = (height, width, 3)
    pixels = np.zeros(shape, np.uint8) if seed is None else random.integers(0, 255, shape, np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", compress_level=1)
    return file.getvalue()


def _jpeg_of_scans(count: int) -> bytes:
    file = io.BytesIO()
    Image.new("L", (64, 64)).save(file, "JPEG", progressive=True)
    data = file.getvalue()
    return data[:-2] + data[data.rfind(b"\xff\xda") : -2] * count + data[-2:]


def _form(*contents: bytes) -> bytes:
    head = '--{}\r\nContent-Disposition: form-data; name="files"; filename="{}.jpg"\r\n\r\n'
    parts = [head.format(BOUNDARY, n).encode() + content + b"\r\n" for n, content in enumerate(contents)]
    return b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()


def _head(length: int | None, *, path: str = "/v1/predict") -> bytes:
    size = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
    kind = f"multipart/form-data; boundary={BOUNDARY}"
    return f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: {kind}\r\n{size}\r\n\r\n".encode()


def _problem(response: httpx.Response, status: int, reason: str | None) -> dict[str, object]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body: dict[str, object] = response.json()
    assert (body["status"], body.get("reason")) == (status, reason)
    assert {"type", "title", "instance", "request_id"} <= body.keys()
    return body


# --- Answers ------------------------------------------------------------------------------------------------


def test_answers_are_those_of_the_predictor(server: Server, model: Model, photographs: list[bytes]) -> None:
    predictor = Predictor(model, batch_size=1)
    for data in photographs:
        body = server.client.post("/v1/predict", files={"file": ("photo.jpg", data)}).json()
        assert body["model"] == model.digest
        (found,) = body["predictions"]
        decoded = predictor.decode(data)
        assert not isinstance(decoded, Rejection)
        (expected,) = predictor.predict([decoded.pixels], 5)
        assert [entry["label"] for entry in found["top"]] == [label for label, _ in expected.top]
        for entry, (_, confidence) in zip(found["top"], expected.top, strict=True):
            assert entry["confidence"] == pytest.approx(confidence, abs=1e-4)
        assert (found["answer"], found["label"], found["kind"]) == (expected.answer, expected.label, None)
        assert found["familiarity"] == pytest.approx(expected.familiarity, abs=1e-4)
        assert found["confidence"] == found["top"][0]["confidence"]
        (colour,) = expected.columns
        said = {
            "value": colour.value,
            "likeliest": colour.likeliest,
            "confidence": pytest.approx(colour.confidence, 1e-3),
        }
        assert found["columns"] == {"colour": said}
        assert found["filename"] == "photo.jpg"
        assert found["milliseconds"] > 0


def test_several_files_are_answered_in_their_order_the_broken_ones_with_their_reason(
    server: Server, photographs: list[bytes]
) -> None:
    contents = [*photographs, b"no image"]
    files = [("files", (f"folder/{n}.jpg", content)) for n, content in enumerate(contents)]
    response = server.client.post("/v1/predict?top=1", files=files)
    assert response.status_code == 200
    found = response.json()["predictions"]
    assert [entry["filename"] for entry in found] == [f"{n}.jpg" for n in range(len(contents))]
    alone = [
        server.client.post("/v1/predict?top=1", files={"x": content}).json()["predictions"][0]
        for content in photographs
    ]
    assert [entry["top"][0]["label"] for entry in found[:-1]] == [entry["top"][0]["label"] for entry in alone]
    assert len({entry["top"][0]["label"] for entry in alone}) >= 3
    assert found[-1]["error"]["reason"] == "unsupported_format"
    assert "top" not in found[-1]


@pytest.mark.parametrize("media_type", ["image/jpeg", "application/octet-stream", "image/heic"])
def test_a_body_may_be_the_image_itself(server: Server, photographs: list[bytes], media_type: str) -> None:
    headers = {"Content-Type": media_type}
    response = server.client.post("/v1/predict?top=3", content=photographs[0], headers=headers)
    (found,) = response.json()["predictions"]
    assert len(found["top"]) == 3
    assert "filename" not in found


def test_below_the_threshold_the_answer_is_not_sure(strict: Server, photographs: list[bytes]) -> None:
    (found,) = strict.client.post("/v1/predict", files={"file": photographs[0]}).json()["predictions"]
    assert found["label"] is None
    assert found["answer"] == "not_sure"
    assert "sure" not in found
    assert len(found["top"]) == 5


@pytest.mark.parametrize("top", ["0", "12", "-1", "many", "", "1.0", "99999999999999999999", "1&top=2"])
def test_top_is_a_number_of_labels_that_there_are(server: Server, photographs: list[bytes], top: str) -> None:
    response = server.client.post(f"/v1/predict?top={top}", files={"file": photographs[0]})
    _problem(response, 422, "bad_parameter")


def test_what_is_where_is_what_the_command_says(
    server: Server, trained: Path, photographs: list[bytes], tmp_path: Path
) -> None:
    pictures = [np.asarray(Image.open(io.BytesIO(photographs[n])).convert("RGB").resize((150, 200))) for n in (0, -1)]
    both = tmp_path / "both.png"
    Image.fromarray(np.concatenate(pictures, axis=1)).save(both)
    (expected,) = orchard.predict(None, str(trained), str(both), regions=True)
    files = [("files", both.read_bytes()), ("files", b"no image"), ("files", photographs[0])]
    response = server.client.post("/v1/predict?regions=true", files=files)
    found, broken, lone = response.json()["predictions"]
    assert len(found["regions"]) == len(expected["regions"]) == 2
    for seen, said in zip(found["regions"], expected["regions"], strict=True):
        assert (seen["name"], seen["box"]) == (said["name"], said["box"])
        assert seen["confidence"] == pytest.approx(said["confidence"], abs=1e-4)
    np.testing.assert_allclose(found["map"], expected["map"], atol=0.011)
    assert found["top"][0]["label"] == expected["top"][0]["label"]
    assert broken["error"]["reason"] == "unsupported_format"
    assert len(lone["regions"]) <= 1 and len(lone["map"]) == 7
    # Nobody else pays for it, and others of the same queue are answered as ever.
    plain = server.client.post("/v1/predict?regions=false", files={"file": photographs[0]}).json()["predictions"][0]
    assert "regions" not in plain and "map" not in plain
    for wrong in ("yes", "", "true&regions=true"):
        refused = server.client.post(f"/v1/predict?regions={wrong}", files={"file": photographs[0]})
        _problem(refused, 422, "bad_parameter")


def test_what_is_where_takes_the_room_of_what_it_costs(strict: Server, photographs: list[bytes]) -> None:
    """The queue of this server has room for 8."""
    alone = strict.client.post("/v1/predict?regions=true", files={"file": photographs[0]})
    assert alone.status_code == 200 and alone.json()["predictions"][0]["map"]
    files = [("files", photographs[0])] * 2
    body = _problem(strict.client.post("/v1/predict?regions=true", files=files), 503, "queue_full")
    assert "takes the room of 15" in str(body["detail"])
    assert strict.client.post("/v1/predict", files=files).status_code == 200


def test_many_clients_at_once_get_each_their_own_answer(server: Server, photographs: list[bytes]) -> None:
    def ask(n: int) -> str:
        data = photographs[n % len(photographs)]
        with httpx.Client(base_url=server.url, timeout=30) as client:
            label: str = client.post("/v1/predict", files={"file": data}).json()["predictions"][0]["top"][0]["label"]
            return label

    alone = [ask(n) for n in range(len(photographs))]
    with ThreadPoolExecutor(16) as clients:
        together = list(clients.map(ask, range(96)))
    assert together == [alone[n % len(alone)] for n in range(96)]


# --- Reasons and limits -------------------------------------------------------------------------------------


def test_every_reason_comes_with_its_status(strict: Server, photographs: list[bytes]) -> None:
    photo = photographs[0]
    corrupt = _png(50, 50, seed=0)
    cases = {
        Reason.EMPTY: (422, b""),
        Reason.UNSUPPORTED_FORMAT: (415, b"%PDF-1.7 is no photograph"),
        Reason.TRUNCATED: (422, photo[: len(photo) // 2]),
        Reason.CORRUPT: (422, corrupt[:60] + bytes(200) + corrupt[260:]),
        Reason.TOO_LARGE: (413, photo + bytes(200_000)),
        Reason.TOO_MANY_PIXELS: (413, _png(2001, 2000)),
        Reason.TOO_SLOW: (422, _jpeg_of_scans(150)),
    }
    for reason, (status, data) in cases.items():
        body = _problem(strict.client.post("/v1/predict", files={"file": ("a.jpg", data)}), status, reason)
        assert body["detail"], reason
        together = strict.client.post("/v1/predict", files=[("a", ("a.jpg", data)), ("b", ("b.jpg", photo))])
        broken, good = together.json()["predictions"]
        assert broken["error"]["reason"] == reason
        assert good["top"]
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    unreadable = strict.client.post("/v1/predict", content=b"no form", headers=headers)
    _problem(unreadable, 400, Reason.UNREADABLE)
    headers = {"Content-Type": f"multipart/form-data; boundary={'x' * 257}"}
    too_long = strict.client.post("/v1/predict", content=b"--" + b"x" * 257 + b"\r\n", headers=headers)
    assert _problem(too_long, 400, Reason.UNREADABLE)["detail"] == "The boundary is too long."
    assert cases.keys() | {Reason.UNREADABLE} == set(Reason)


def test_a_body_that_says_it_is_too_large_is_refused_before_it_comes(strict: Server) -> None:
    with socket.create_connection(("127.0.0.1", strict.port), timeout=5) as connection:
        connection.sendall(_head(300_001))
        answer = receive_all(connection)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b'"reason": "too_large"' in answer
    assert b"connection: close" in answer.lower()


def test_a_body_that_does_not_say_how_large_it_is_is_counted(strict: Server, photographs: list[bytes]) -> None:
    def chunks(count: int) -> Iterator[bytes]:
        yield from (bytes(50_000) for _ in range(count))

    headers = {"Content-Type": "image/jpeg"}
    refused = _problem(strict.client.post("/v1/predict", content=chunks(5), headers=headers), 413, "too_large")
    assert refused["detail"] == "The body has more than 200000 bytes."
    assert strict.client.post("/v1/predict", content=iter(photographs[:1]), headers=headers).status_code == 200


def test_files_and_parts_are_counted(strict: Server, photographs: list[bytes]) -> None:
    files = [("file", ("a.jpg", photographs[0]))]
    assert len(strict.client.post("/v1/predict", files=files * 8).json()["predictions"]) == 8
    _problem(strict.client.post("/v1/predict", files=files * 9), 413, "too_many_files")
    fields = {f"field{n}": "x" for n in range(12)}
    assert strict.client.post("/v1/predict", files=files, data=fields).status_code == 200
    fields = {f"field{n}": "x" for n in range(40)}
    _problem(strict.client.post("/v1/predict", files=files, data=fields), 413, "too_many_files")


@pytest.mark.parametrize(
    "given, told",
    [
        ("pêche 桃.jpg", "pêche 桃.jpg"),
        ('say "peach".jpg', 'say "peach".jpg'),
        ("../a/b.jpg", "b.jpg"),
        ("C:\\f\\b.jpg", "b.jpg"),
    ],
)
def test_a_file_keeps_its_name_without_folders(server: Server, photographs: list[bytes], given: str, told: str) -> None:
    answer = server.client.post("/v1/predict", files={"file": (given, photographs[0])}).json()
    assert answer["predictions"][0]["filename"] == told


@pytest.mark.parametrize(
    "written",
    [
        b"filename*=UTF-8''p%C3%AAche.jpg",
        b"filename=\"=?utf-8?B?cMOqY2hlLmpwZw==?=\"; filename*=utf-8''..%2Fp%C3%AAche.jpg",
    ],
)
def test_a_name_may_be_written_as_old_python_and_net_do(
    server: Server, photographs: list[bytes], written: bytes
) -> None:
    body = _form(photographs[0]).replace(b'filename="0.jpg"', written)
    headers = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
    answer = server.client.post("/v1/predict", content=body, headers=headers).json()
    assert [found["filename"] for found in answer["predictions"]] == ["pêche.jpg"]


def test_a_form_without_a_file_says_so(server: Server) -> None:
    _problem(server.client.post("/v1/predict", data={"a": "b"}, files={"c": (None, "d")}), 422, "no_file")
    _problem(server.client.post("/v1/predict", files={"file": ("", b"")}), 422, "no_file")


def test_other_bodies_are_refused(server: Server, photographs: list[bytes]) -> None:
    _problem(server.client.post("/v1/predict", json={}), 415, "unsupported_media")
    _problem(server.client.post("/v1/predict"), 415, "unsupported_media")
    headers = {"Content-Type": "image/jpeg", "Content-Encoding": "gzip"}
    _problem(server.client.post("/v1/predict", content=photographs[0], headers=headers), 415, "unsupported_media")


def test_a_body_that_drips_is_given_up(strict: Server, photographs: list[bytes]) -> None:
    started = time.monotonic()
    with socket.create_connection(("127.0.0.1", strict.port), timeout=10) as connection:
        connection.sendall(_head(5000))
        connection.sendall(b"--" + BOUNDARY.encode() + b"\r\n")
        time.sleep(0.5)
        connection.sendall(b"Content-")
        answer = receive_all(connection)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"slow_body" in answer
    assert time.monotonic() - started < 6
    assert strict.client.post("/v1/predict", files={"file": photographs[0]}).status_code == 200


def test_a_full_queue_answers_503_at_once_and_the_server_recovers(strict: Server) -> None:
    def ask(_: int) -> httpx.Response:
        with httpx.Client(base_url=strict.url, timeout=30) as client:
            return client.post("/v1/predict", files=[("file", ("a.png", _png(100, 90, seed=n))) for n in range(8)])

    with ThreadPoolExecutor(12) as clients:
        responses = list(clients.map(ask, range(36)))
    full = [response for response in responses if response.status_code != 200]
    assert full
    assert len(full) < len(responses)
    for response in full:
        _problem(response, 503, "queue_full")
        assert response.headers["retry-after"] == "1"
    assert ask(0).status_code == 200
    assert re.search(r"orchard_held_bytes 0\.0", strict.client.get("/metrics").text)


def test_a_client_that_goes_away_is_noticed_before_its_turn(server: Server, photographs: list[bytes]) -> None:
    engines = len(server.engines())
    with ThreadPoolExecutor(engines) as clients:
        image = _png(5000, 5000)
        large = [("file", image)] * 16  # seconds of work for every engine
        busy = [clients.submit(server.client.post, "/v1/predict", files=large, timeout=120) for _ in range(engines)]
        wait_until(lambda: server.held_bytes() >= engines * len(large) * len(image))
        with socket.create_connection(("127.0.0.1", server.port), timeout=5) as connection:
            body = _form(photographs[0])
            held = server.held_bytes()
            connection.sendall(_head(len(body)).replace(b"Host: x", b"Host: x\r\nX-Request-Id: gone") + body)
            wait_until(lambda: server.held_bytes() >= held + len(body) / 2)
        assert [answer.result().status_code for answer in busy] == [200] * engines
    assert next(line for line in server.lines() if line.get("request_id") == "gone")["status"] == 499


@pytest.mark.parametrize("others", [1, 3], ids=["when their turn comes", "to make room"])
def test_images_that_nobody_waits_for_are_dropped(model: Model, photographs: list[bytes], others: int) -> None:
    batches: list[int] = []

    class Counting:
        def batch(self, images: int) -> None:
            batches.append(images)

        def ended(self, *, late: bool) -> None:
            raise AssertionError(f"an engine ended, late: {late}")

        def tried_again(self, images: int) -> None:
            raise AssertionError(f"{images} images were tried again")

    async def play() -> None:
        pool = EnginePool(model, engines=1, capacity=3, limits=Limits(), observer=Counting())
        gone = pool.submit(photographs[:2], 1)
        with pytest.raises(QueueFull):
            pool.submit(photographs[2:4], 1)
        gone.cancel()
        stays = pool.submit(photographs[2 : 2 + others], 1)
        pool.start()
        outcomes = await stays
        assert not any(isinstance(outcome.result, Rejection) for outcome in outcomes)
        await pool.close()

    asyncio.run(play())
    assert sum(batches) == others


# --- Around it ----------------------------------------------------------------------------------------------


def test_the_model_says_what_it_is(server: Server, model: Model) -> None:
    card = server.client.get("/v1/model").json()
    assert card["digest"] == model.digest
    assert card["labels"] == list(model.labels)
    assert (card["input_size"], card["fit"], card["test_views"]) == (224, "stretch", 1)
    assert (card["threshold"], card["temperature"]) == (model.calibration.threshold, model.calibration.temperature)
    assert card["familiarity_threshold"] == model.calibration.familiarity > 0
    assert card["classifier"] == "linear_discriminant"
    assert card["accuracy"] > 0.9
    assert card["training"]["train_images"] == 1760
    assert str(server.output) not in json.dumps(card)


def test_metrics_count_requests_images_rejections_and_batches(server: Server, photographs: list[bytes]) -> None:
    def figures() -> dict[str, float]:
        lines = server.client.get("/metrics").text.splitlines()
        return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if not line.startswith("#")}

    before = figures()
    server.client.post("/v1/predict", files=[("f", photographs[0]), ("f", photographs[1]), ("f", b"x")])
    server.client.post("/v1/predict", files={"f": b""})
    after = figures()

    def more(name: str) -> float:
        return after[name] - before.get(name, 0)

    assert more('orchard_requests_total{route="/v1/predict",status="200"}') == 1
    assert more('orchard_requests_total{route="/v1/predict",status="422"}') == 1
    assert more('orchard_request_seconds_count{route="/v1/predict"}') == 2
    assert more("orchard_images_total") == 2
    answers = [more(f'orchard_answers_total{{answer="{answer}"}}') for answer in ("sure", "not_sure", "unknown")]
    assert sum(answers) == 2 and answers[0] >= 1
    assert more('orchard_rejected_total{reason="unsupported_format"}') == 1
    assert more('orchard_rejected_total{reason="empty"}') == 1
    assert more("orchard_batch_images_sum") == 2
    assert after["orchard_queue_images"] == 0
    assert after["orchard_engines"] >= 1


def test_what_is_not_there_is_a_problem_too(server: Server) -> None:
    for path in ("/nothing", "/healthz/", "/v1/model/"):
        _problem(server.client.get(path), 404, None)
    _problem(server.client.post("/v1/predict/", content=b"photo"), 404, None)
    response = server.client.delete("/v1/predict")
    _problem(response, 405, None)
    assert response.headers["allow"] == "POST"


def test_what_can_be_got_answers_head(server: Server) -> None:
    for path in ("/healthz", "/readyz", "/metrics", "/v1/model", "/openapi.json", "/", "/model.json"):
        response = server.client.head(path)
        assert (response.status_code, response.content) == (200, b"")
        assert int(response.headers["content-length"]) > 0
    assert server.client.head("/nothing").status_code == 404
    assert server.client.head("/v1/predict").headers["allow"] == "POST"


def test_every_answer_has_an_id_and_the_headers_that_guard_a_page(server: Server) -> None:
    for path in ("/", "/healthz", "/v1/model", "/nothing"):
        response = server.client.get(path, headers={"X-Request-Id": "from-a-proxy-1"})
        assert response.headers["x-request-id"] == "from-a-proxy-1"
        assert "script-src 'self' 'wasm-unsafe-eval'" in response.headers["content-security-policy"]
        assert response.headers["cross-origin-opener-policy"] == "same-origin"
        assert response.headers["cross-origin-embedder-policy"] == "require-corp"
        assert response.headers["x-content-type-options"] == "nosniff"
        assert "access-control-allow-origin" not in response.headers
    for bad in ("x" * 65, "a b", 'a"b', ""):
        made = server.client.get("/healthz", headers={"X-Request-Id": bad}).headers["x-request-id"]
        assert re.fullmatch("[0-9a-f]{32}", made)


def test_the_log_tells_of_requests_and_nothing_of_photographs(server: Server, photographs: list[bytes]) -> None:
    identity = "find-me-in-the-log"
    files = [("file", ("my-secret-name.jpg", photographs[0])), ("file", ("other-secret.jpg", b"secret content"))]
    server.client.post("/v1/predict?secret=1", files=files, headers={"X-Request-Id": identity})
    server.client.post("/v1/predict", files={"file": ("my-secret-name.jpg", b"secret content")})
    (line,) = [line for line in server.lines() if line.get("request_id") == identity]
    assert {key: line[key] for key in ("level", "method", "path", "status", "images")} == {
        "level": "info",
        "method": "POST",
        "path": "/v1/predict",
        "status": 200,
        "images": 2,
    }
    assert line["milliseconds"] > 0
    assert line["bytes"] > len(photographs[0])
    assert "secret" not in server.log.read_text()


def test_the_log_does_not_tell_of_each_probe(server: Server) -> None:
    for path in ("/healthz", "/readyz", "/metrics", "/v1/model"):
        server.client.get(path, headers={"X-Request-Id": "asked-by-a-cluster"})
    server.client.post("/healthz", headers={"X-Request-Id": "asked-by-a-cluster"})
    lines = [line for line in server.lines() if line.get("request_id") == "asked-by-a-cluster"]
    assert [(line["path"], line["status"]) for line in lines] == [("/v1/model", 200), ("/healthz", 405)]


# --- The end ------------------------------------------------------------------------------------------------


def test_sigterm_lets_requests_under_way_finish(trained: Path, tmp_path: Path, photographs: list[bytes]) -> None:
    body = _form(*photographs)
    flags = ("--engines=1", "--drain-seconds=2", "--shutdown-seconds=20")

    def is_refused() -> bool:
        try:
            httpx.get(f"{server.url}/healthz")
        except httpx.TransportError as error:
            return isinstance(error, httpx.ConnectError)
        return False

    with serving(trained, tmp_path, *flags) as server:
        with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
            connection.sendall(_head(len(body)) + body[: len(body) // 2])
            wait_until(lambda: server.held_bytes() >= len(body) // 2)
            server.process.send_signal(signal.SIGTERM)
            wait_until(lambda: httpx.get(f"{server.url}/readyz").status_code == 503)
            draining = httpx.get(f"{server.url}/readyz")
            assert (draining.status_code, draining.json()["reason"]) == (503, "not_ready")
            assert draining.headers["connection"] == "close"
            assert httpx.get(f"{server.url}/healthz").status_code == 200
            wait_until(is_refused)
            connection.sendall(body[len(body) // 2 :])
            answer = receive_all(connection)
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert len(json.loads(answer.partition(b"\r\n\r\n")[2])["predictions"]) == len(photographs)
        assert server.process.wait(10) == 0


def test_a_request_that_never_ends_does_not_hinder_the_end(trained: Path, tmp_path: Path) -> None:
    with serving(trained, tmp_path, "--engines=1", "--shutdown-seconds=1") as server:
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
            connection.sendall(_head(1000) + b"--")
            wait_until(server.held_bytes)
            started = time.monotonic()
            assert server.stop() == 0
            answer = receive_all(connection)
        assert time.monotonic() - started < 8
        assert answer.startswith(b"HTTP/1.1 503 ")  # another server can answer
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["reason"] == "not_ready"
        assert next(line for line in server.lines() if line.get("path") == "/v1/predict")["status"] == 503
        assert not any("traceback" in line for line in server.lines())


def test_a_network_that_does_not_compile_ends_the_server(model: Model) -> None:
    broken = replace(model, artifact=replace(model.artifact, topology=b"<net/>"))
    with pytest.raises(ClusterError, match="cannot be compiled"):
        serving_server.run(broken, Serving(), host="127.0.0.1", port=0, drain_seconds=0, shutdown_seconds=1)
