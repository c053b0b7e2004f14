"""What goes wrong with photos on a market, in a real browser: wrong files, second thoughts, weak connections."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Browser, Playwright, Route, expect

from .visitor import PHONE, STARTED, Site, Visitor, expect_answer, expect_question, launch, written

SMALL = PHONE | {"viewport": {"width": 360, "height": 640}, "locale": "en-US"}


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


def test_photos_beyond_those_that_have_room_are_not_left_out_in_silence(
    desktop: Visitor, photo: Callable[[str], Path], tmp_path: Path
) -> None:
    content = photo("Mango").read_bytes()
    photos = [written(tmp_path / f"{number}.jpg", content) for number in range(52)]
    desktop.chooses(*photos)
    expect(desktop.page.get_by_role("alert")).to_have_text(re.compile("first 50 of these 52 photos"))
    expect(desktop.cards).to_have_count(50)
    expect(desktop.cards.last.locator("img")).to_have_attribute("alt", "Preview of 49.jpg")
    desktop.page.locator("#clear").click()
    desktop.chooses(*photos[50:])
    expect(desktop.page.get_by_role("alert")).to_have_count(0)
    expect_answer(desktop.cards.last, "Mango")


@pytest.mark.parametrize("broken", ["model.json", "model.onnx", "assets/vendor/*.wasm", "assets/vendor/*.mjs"])
def test_what_could_not_be_loaded_is_loaded_a_little_later(
    browser: Browser, site: Site, photo: Callable[[str], Path], broken: str
) -> None:
    """The browser does not say that a connection is back which was only weak."""
    context = browser.new_context(**SMALL)
    context.route(f"**/{broken}", lambda route: route.abort())
    visitor = Visitor(context, site.url).waits_for("server", "nothing")
    expect(visitor.page.locator("#state")).not_to_contain_text("This browser cannot")
    visitor.chooses(photo("Mango"))
    expect_question(visitor.newest, "The photo waits here")
    context.unroute(f"**/{broken}")
    visitor.waits_for("ready", "offline")
    expect_answer(visitor.newest, "Mango")
    context.close()


def test_storage_that_fails_does_not_take_the_page_away(browser: Browser, site: Site) -> None:
    visitor = Visitor(browser.new_context(**SMALL), site.url).waits_for("offline")
    [worker] = visitor.context.service_workers
    worker.evaluate("() => { caches.open = () => Promise.reject(new DOMException('', 'UnknownError')); }")
    answer = visitor.page.reload()
    assert answer is not None
    assert answer.from_service_worker
    expect(visitor.page.locator("h1")).to_have_text("What is on your photo?")
    visitor.context.close()


def test_where_it_looks_comes_into_view(browser: Browser, site: Site, photo: Callable[[str], Path]) -> None:
    visitor = Visitor(browser.new_context(**SMALL), site.url).waits_for("offline")
    visitor.chooses(photo("Mango"))
    expect_answer(visitor.newest, "Mango")
    button = visitor.newest.get_by_role("button", name="Where it looks")
    # As with many likely answers and a long card; below it there are others.
    visitor.newest.locator(".top").evaluate("list => { list.style.paddingTop = '500px'; }")
    visitor.page.evaluate("document.body.style.paddingBottom = '700px'")
    button.evaluate("button => button.scrollIntoView({ block: 'start' })")
    expect(visitor.newest.locator(".view")).not_to_be_in_viewport()
    button.tap()
    expect(visitor.newest.locator(".view")).to_be_in_viewport(ratio=0.9)
    visitor.context.close()


def test_text_has_the_size_that_the_browser_is_set_to(playwright: Playwright, site: Site) -> None:
    browser = launch(playwright, "--blink-settings=defaultFontSize=32")
    visitor = Visitor(browser.new_context(**SMALL), site.url).waits_for("offline")
    size = "one => parseFloat(getComputedStyle(document.querySelector(one)).fontSize)"
    assert [visitor.page.evaluate(size, one) for one in ("body", "#state-text", "#choose + svg + span")] == [34, 30, 32]
    assert visitor.page.evaluate("document.documentElement.scrollWidth") <= 360
    browser.close()


def test_no_card_says_that_something_is_kept_once_it_is_deleted(desktop: Visitor, photo: Callable[[str], Path]) -> None:
    elsewhere = desktop.context.new_page()
    elsewhere.goto(desktop.url)
    for number, page in enumerate((desktop.page, elsewhere), 1):  # where it is deleted, and in another tab
        desktop.chooses(photo("Mango"))
        expect_answer(desktop.newest, "Mango")
        desktop.newest.locator(".wrong").click()
        desktop.newest.get_by_label("What is it?").fill("Plum")
        desktop.newest.get_by_role("button", name="Keep").click()
        expect(desktop.newest.locator(".note")).to_have_text("Kept on this device as Plum.")
        returns = "document.dispatchEvent(new Event('visibilitychange'))"
        elsewhere.evaluate(returns)
        expect(elsewhere.locator("#corrections-count")).to_have_text("1 correction")
        page.once("dialog", lambda dialog: dialog.accept())
        page.get_by_role("button", name="Delete them").click()
        expect(page.locator("#corrections")).to_be_hidden()
        desktop.page.evaluate(returns)
        expect(desktop.page.locator("#corrections")).to_be_hidden()
        expect(desktop.newest.locator(".note")).to_have_text("")
        expect(desktop.newest.locator(".wrong")).to_have_text("Wrong? Tell us what it is")
        expect(desktop.cards).to_have_count(number)
    elsewhere.close()
