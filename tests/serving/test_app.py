"""What the application does where a real server would seldom go: its own faults, time running out, other origins."""

import logging
import time
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from fastapi.testclient import TestClient

from orchard.cli import cli
from orchard.errors import UsageError
from orchard.inference.model import Model
from orchard.layout import CURRENT_MODEL
from orchard.serving.app import Serving, create_app
from orchard.serving.uploads import UploadLimits


@pytest.fixture(scope="module")
def model(trained: Path) -> Model:
    return Model.load(str(trained))


@pytest.fixture
def photo(fruits: Path) -> bytes:
    return min((fruits / "Test" / "Mango").iterdir()).read_bytes()


def test_a_fault_of_the_server_is_logged_and_not_told(
    model: Model, photo: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    broken = replace(model, weights=model.weights[:, :7])
    with TestClient(create_app(broken)) as client:
        response = client.post("/v1/predict", files={"file": ("secret.jpg", photo)})
        assert client.get("/healthz").status_code == 200
    assert response.status_code == 500
    body = response.json()
    assert body.keys() == {"type", "title", "status", "instance", "request_id"}
    logged = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert any(body["request_id"] in record.getMessage() and record.exc_info for record in logged)
    assert not any("secret" in record.getMessage() for record in logged)


def test_an_answer_that_takes_too_long_is_given_up(model: Model, photo: bytes) -> None:
    with TestClient(create_app(model, Serving(request_seconds=0))) as client:
        response = client.post("/v1/predict", files={"file": photo})  # the engines are still being compiled
    assert (response.status_code, response.json()["reason"]) == (503, "timeout")
    assert response.headers["retry-after"] == "1"


def test_not_ready_before_the_engines_are_compiled_and_never_with_one_that_is_not(model: Model) -> None:
    with TestClient(create_app(model)) as client:
        first = client.get("/readyz")
        assert (first.status_code, first.json()["reason"]) == (503, "not_ready")
        for _ in range(600):
            if client.get("/readyz").status_code == 200:
                break
            time.sleep(0.05)
        else:
            pytest.fail("never ready")


def test_pages_of_other_origins_may_ask_only_if_they_are_named(model: Model) -> None:
    origin = {"Origin": "https://shop.example"}
    preflight = {**origin, "Access-Control-Request-Method": "POST"}
    with TestClient(create_app(model)) as client:
        assert "access-control-allow-origin" not in client.get("/v1/model", headers=origin).headers
    with TestClient(create_app(model, Serving(cors_origins=["https://shop.example"]))) as client:
        assert client.get("/v1/model", headers=origin).headers["access-control-allow-origin"] == origin["Origin"]
        assert client.options("/v1/predict", headers=preflight).status_code == 200
        other = client.get("/v1/model", headers={"Origin": "https://other.example"})
        assert "access-control-allow-origin" not in other.headers


def test_limits_that_leave_no_room_are_refused() -> None:
    with pytest.raises(UsageError, match="room for one file"):
        UploadLimits(max_bytes=10, max_total_bytes=5)


def test_who_waits_for_a_model_ends_once_there_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []

    def sleep(seconds: float) -> None:
        waited.append(seconds)
        if len(waited) == 3:
            Path(tmp_path, CURRENT_MODEL).parent.mkdir()
            Path(tmp_path, CURRENT_MODEL).write_text("{}")

    monkeypatch.setattr(time, "sleep", sleep)
    ended = CliRunner().invoke(cli, ["serve", str(tmp_path), "--await-model"])
    assert (ended.exception, len(waited)) == (None, 3)
