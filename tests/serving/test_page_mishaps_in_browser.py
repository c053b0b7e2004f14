"""What goes wrong with photos on a market, in a real browser: wrong files, second thoughts, weak connections."""

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Route, expect

from .visitor import STARTED, Visitor, expect_answer, expect_question, written


@pytest.fixture
def tiffs(photo: Callable[[str], Path], tmp_path: Path) -> list[Path]:
    """Photos that the browser cannot read and the server can."""
    files = [tmp_path / f"{number}.tiff" for number in range(4)]
    for file in files:
        Image.open(photo("Mango")).save(file)
    return files


def test_a_photo_that_was_removed_no_longer_goes_to_the_server(desktop: Visitor, tiffs: list[Path]) -> None:
    held: list[Route] = []
    desktop.context.route("**/v1/predict*", lambda route: held.append(route))  # noqa: PLW0108 -- Playwright marks it
    before = desktop.sent
    desktop.chooses(*tiffs)
    expect_question(desktop.cards.last, "cannot read this file")
    expect_question(desktop.newest, "cannot read this file")
    desktop.newest.get_by_label("Do not ask again").check()
    with desktop.context.expect_event("request", lambda request: "/v1/predict" in request.url):
        desktop.newest.locator(".allow").click()
    said = desktop.page.locator("#announcer").inner_text()
    desktop.page.locator("#clear").click()
    desktop.page.wait_for_timeout(500)
    assert desktop.sent == before + 1
    # What one has allowed for all goes as long as it is shown, too.
    desktop.chooses(*tiffs)
    expect(desktop.cards).to_have_count(len(tiffs))
    desktop.page.locator("#clear").click()
    desktop.page.wait_for_timeout(500)
    assert desktop.sent <= before + 2
    assert desktop.page.locator("#announcer").inner_text() == said
    desktop.context.unroute("**/v1/predict*")
    desktop.page.evaluate("sessionStorage.clear()")
    desktop.page.reload()
    desktop.waits_for("offline")


@pytest.mark.parametrize(
    ("status", "reason", "says"),
    [
        (503, "queue_full", "The server has too much to do."),
        (502, None, "The server has too much to do."),
        (500, "engine_died", "The server could not answer."),
        (408, "slow_body", "The server could not answer."),
    ],
)
def test_a_server_that_cannot_answer_now_can_be_asked_again(
    desktop: Visitor, tiffs: list[Path], status: int, reason: str | None, says: str
) -> None:
    body = {"reason": reason} if reason else {}
    desktop.context.route("**/v1/predict*", lambda route: route.fulfill(status=status, json=body))
    desktop.chooses(tiffs[0])
    expect_question(desktop.newest, "cannot read this file")
    desktop.newest.locator(".allow").click()
    expect(desktop.newest.locator(".says")).to_contain_text(says, timeout=STARTED)
    desktop.context.unroute("**/v1/predict*")
    desktop.newest.locator(".allow").click()
    expect_answer(desktop.newest, "Mango", by="server")


@pytest.mark.parametrize("name", ["film.mp4", "receipt.pdf", "list.txt"])
def test_what_is_no_image_is_not_offered_to_the_server(desktop: Visitor, tmp_path: Path, name: str) -> None:
    desktop.chooses(written(tmp_path / name, b"no image"))
    expect(desktop.newest.locator("h3")).to_have_text("No answer")
    expect(desktop.newest.locator(".says")).to_contain_text("no image that can be read here")
    expect(desktop.newest.locator(".allow")).to_be_hidden()
