"""``/docs`` shows the API in a browser under the server's Content-Security-Policy, from this server's files alone."""

import socket
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import uvicorn
from fastapi import FastAPI
from fastapi.testclient import TestClient
from playwright.sync_api import Browser, expect

from orchard.serving import metrics, reference
from orchard.serving.observability import RequestMiddleware
from orchard.serving.problems import Problem

from .visitor import DESKTOP, Visitor


@pytest.fixture
def url(npm_parts: None) -> Iterator[str]:  # noqa: ARG001 -- serves them
    """A server of two routes with the page, which answers with the headers of `orchard serve`; it needs no model."""
    app = FastAPI(docs_url=None, redoc_url=None)
    app.add_api_route("/healthz", lambda: {"status": "alive"}, summary="The process lives")
    app.add_api_route("/v1/predict", lambda: {}, methods=["POST"])
    app.include_router(reference.router())
    app.add_middleware(
        partial(RequestMiddleware, metrics=metrics.ServerMetrics(), routes=(), probes=(), draining=lambda: False)
    )
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    server.should_exit = True
    thread.join(10)


def test_the_api_is_shown_and_can_be_tried_without_anything_from_elsewhere(browser: Browser, url: str) -> None:
    visitor = Visitor(browser.new_context(**DESKTOP), f"{url}/docs")
    expect(visitor.page.locator("[data-path='/v1/predict']")).to_be_visible(timeout=30_000)
    health = visitor.page.locator(".opblock", has=visitor.page.locator("[data-path='/healthz']"))
    health.locator("[data-path='/healthz']").click()
    health.get_by_role("button", name="Try it out").click()
    health.get_by_role("button", name="Execute").click()
    answer = health.locator(".live-responses-table .response-col_status").last
    expect(answer).to_contain_text("200", timeout=30_000)
    assert visitor.complaints == []
    assert not [asked for asked in visitor.requests if not asked.startswith((f"{url}/", "data:"))]
    visitor.context.close()


def test_without_npm_there_is_a_sentence_in_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference, "PAGE", tmp_path)
    app = FastAPI(docs_url=None)
    app.include_router(reference.router())
    with pytest.raises(Problem, match="npm was missing"):
        TestClient(app).get("/docs")
