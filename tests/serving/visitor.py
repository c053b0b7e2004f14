"""Someone who has the page open in a real browser, and the server that sends it."""

import os
import shutil
import socket
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import httpx
import numpy as np
import pytest
import uvicorn
from playwright.sync_api import Browser, BrowserContext, Locator, Page, Playwright, expect

from orchard.images.decoding import Decoded, Limits, decode
from orchard.inference.model import Model
from orchard.serving import static
from orchard.serving.app import Serving, create_app
from waiting import wait_until

ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
ARGUMENTS += ["--disable-component-update", "--disable-sync"]
PHONE: dict[str, Any] = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
DESKTOP: dict[str, Any] = {"viewport": {"width": 1280, "height": 800}}
AXE = static.PAGE / "node_modules/axe-core/axe.min.js"
SEEN = """async (photo) => {
    const { decode } = await import("/assets/pixels.js");
    return Array.from((await decode(new Blob([Uint8Array.from(photo)]), 224)).data);
}"""
"""The pixels that the page gives to the model, of a photo's bytes."""
STARTED = 30_000  # ms within which the model must run in the browser, on a busy machine


def cannot(reason: str) -> NoReturn:
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def launch(playwright: Playwright, *arguments: str) -> Browser:
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        cannot("there is no chromium: install the package of that name")
    return playwright.chromium.launch(executable_path=path, args=[*ARGUMENTS, *arguments])


@dataclass
class Site:
    """A server of this process."""

    url: str
    server: uvicorn.Server
    thread: threading.Thread

    @classmethod
    def start(cls, model: Model, port: int = 0, root_path: str = "", privacy_notice: str = "") -> "Site":
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        # Browsers keep connections open.
        config = uvicorn.Config(
            create_app(model, Serving(root_path=root_path, privacy_notice=privacy_notice)),
            log_level="warning",
            timeout_graceful_shutdown=1,
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        site = cls(f"http://127.0.0.1:{listener.getsockname()[1]}", server, thread)
        wait_until(lambda: server.started)
        made = ("/readyz", "/model.onnx")
        wait_until(lambda: 503 not in [httpx.head(site.url + path).status_code for path in made])
        return site

    def stop(self) -> None:
        self.server.should_exit = True
        self.thread.join(10)

    def ask(self, photo: Path, **parameters: str) -> dict[str, Any]:
        """What the server's own model says of a photograph."""
        files = {"file": (photo.name, photo.read_bytes())}
        answer = httpx.post(f"{self.url}/v1/predict", params={"top": "5", **parameters}, files=files, timeout=30)
        answer.raise_for_status()
        [prediction] = answer.json()["predictions"]
        return dict(prediction)


class Visitor:
    """Someone who has the page open, and what the page asked for and complained about."""

    def __init__(self, context: BrowserContext, url: str) -> None:
        self.context = context
        self.url = url
        self.page: Page = context.new_page()
        self.requests: list[str] = []
        self.complaints: list[str] = []
        context.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.goto(url)

    @property
    def cards(self) -> Locator:
        return self.page.locator("#cards > li")

    @property
    def newest(self) -> Locator:
        return self.cards.first

    def waits_for(self, *states: str) -> "Visitor":
        selector = ",".join(f"#state[data-state={state}]" for state in states)
        self.page.locator(selector).wait_for(timeout=STARTED)
        return self

    @property
    def sent(self) -> int:
        """How many photos have gone to the server."""
        return len([url for url in self.requests if "/v1/predict" in url])

    def chooses(self, *photos: Path) -> None:
        self.page.set_input_files("#choose", [str(photo) for photo in photos])


def expect_answer(card: Locator, label: str, by: str = "device") -> None:
    expect(card.locator("h3")).to_have_text(label)
    expect(card.locator(".top li").first).to_be_visible()
    expect(card.locator(".by")).to_have_attribute("data-by", by)


def expect_question(card: Locator, says: str) -> None:
    """The card asks whether its photo may go to the server."""
    expect(card.locator("h3")).to_have_text("Ask the server?")
    expect(card.locator(".says")).to_contain_text(says)
    expect(card.locator(".allow")).to_be_visible()


def violations(page: Page) -> list[str]:
    """What axe-core finds of serious or critical impact, each with the elements that it concerns."""
    if not page.evaluate("'axe' in window"):
        page.evaluate(AXE.read_text(encoding="utf-8"))
    # What fades in has less contrast than it will have.
    page.evaluate(
        "Promise.all(document.getAnimations().filter(one => one.effect.getComputedTiming().endTime < Infinity)"
        ".map(one => one.finished.catch(() => {})))"
    )
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    return [
        f"{violation['id']}: {[node['html'] for node in violation['nodes']]}"
        for violation in found["violations"]
        if violation["impact"] in ("serious", "critical")
    ]


def assert_as_in_the_pipeline(seen: list[int], photo: Path) -> None:
    """Fail unless what `SEEN` has returned of a photo is what a run sees."""
    decoded = decode(photo.read_bytes(), 224, Limits())
    assert isinstance(decoded, Decoded)
    assert np.abs(np.array(seen).reshape(decoded.pixels.shape) - decoded.pixels).mean() < 0.5


def written(file: Path, content: bytes) -> Path:
    """Write a file, and return its path."""
    file.write_bytes(content)
    return file
