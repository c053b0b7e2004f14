"""The page in a real browser: photos come in by every way, this device or the server answers, also offline."""

import base64
import io
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, FileChooser, Playwright, Route, expect

from orchard.inference.model import Model
from orchard.serving import static
from profiles import wide_gamut
from waiting import wait_until

from .visitor import (
    DESKTOP,
    PHONE,
    SEEN,
    STARTED,
    Site,
    Visitor,
    assert_as_in_the_pipeline,
    expect_answer,
    expect_question,
    launch,
    violations,
    written,
)


def test_a_chosen_photo_is_named_by_this_device(desktop: Visitor, photo: Callable[[str], Path]) -> None:
    desktop.chooses(photo("Papaya 2"))
    expect_answer(desktop.newest, "Papaya 2")
    expect(desktop.newest.locator(".by")).to_contain_text("Answered by this device in")
    expect(desktop.newest.locator(".by")).to_contain_text("Your photo stayed here")
    expect(desktop.page.locator("#announcer")).to_contain_text("Papaya 2")
    assert desktop.newest.locator("img").evaluate("image => image.naturalWidth") == 100


def test_several_photos_become_cards_newest_first(desktop: Visitor, photo: Callable[[str], Path]) -> None:
    before = desktop.sent
    desktop.chooses(photo("Mango"))
    desktop.chooses(photo("Raspberry"), photo("Plum 5"))
    for card, label in zip(desktop.cards.all(), ["Raspberry", "Plum 5", "Mango"], strict=True):
        expect_answer(card, label)
    assert desktop.sent == before  # nothing left the device


def test_browser_and_server_agree(
    desktop: Visitor, site: Site, fruits: Path, photographed: bool, model: Model, tmp_path: Path
) -> None:
    photos = [frame for label in model.labels for frame in sorted((fruits / "Test" / label).glob("*.jpg"))[5:7]]
    photos += [_as_a_phone_takes_it(frame, tmp_path) for frame in photos[:6:2]]
    assert len(photos) >= 23
    desktop.chooses(*photos)
    expect(desktop.page.locator(".by[data-by=device]")).to_have_count(len(photos), timeout=STARTED)
    for card, frame in zip(desktop.cards.all(), photos, strict=True):
        answer = site.ask(frame)
        [expected, *_] = answer["top"]
        if not photographed and answer["answer"] == "unknown":  # as drawn ones are from afar: the page names none
            assert card.get_attribute("data-shows") == "unknown", frame
            continue
        best = card.locator(".top li").first
        assert best.locator(".name").inner_text() == expected["label"], frame
        confidence = float(best.locator(".share").get_attribute("value") or "nan")
        assert confidence == pytest.approx(expected["confidence"], abs=0.02), frame


@pytest.mark.parametrize("space", [None, "Display P3", "Adobe RGB"])
def test_the_page_sees_the_colours_that_the_pipeline_sees(
    desktop: Visitor, photo: Callable[[str], Path], tmp_path: Path, space: str | None
) -> None:
    file = tmp_path / "photo.jpg"
    Image.open(photo("Raspberry")).save(file, quality=95, icc_profile=wide_gamut(space) if space else None)
    assert_as_in_the_pipeline(desktop.page.evaluate(SEEN, list(file.read_bytes())), file)


def _as_a_phone_takes_it(frame: Path, folder: Path) -> Path:
    """A photograph of several megapixels, lying on its side, with the tag that sets it upright."""
    large = Image.new("RGB", (2000, 1500), "white")
    large.paste(Image.open(frame).resize((1300, 1300), Image.Resampling.BICUBIC), (350, 100))
    exif = Image.Exif()
    exif[0x0112] = 6
    file = folder / f"{frame.parent.name}.jpg"
    large.transpose(Image.Transpose.ROTATE_90).save(file, quality=90, exif=exif)
    return file


@pytest.mark.parametrize(
    ("content", "says"),
    [(lambda _: b"", "The file is empty."), (lambda jpeg: jpeg[: len(jpeg) // 2], "cut off")],
    ids=["empty", "truncated"],
)
def test_what_is_wrong_with_a_file_is_said_without_the_server(
    desktop: Visitor, photo: Callable[[str], Path], tmp_path: Path, content: Callable[[bytes], bytes], says: str
) -> None:
    before = desktop.sent
    desktop.chooses(written(tmp_path / "photo.jpg", content(photo("Mango").read_bytes())))
    expect(desktop.newest.locator("h3")).to_have_text("No answer")
    expect(desktop.newest.locator(".says")).to_contain_text(says)
    assert desktop.sent == before


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (lambda _: b"<html>not an image</html>", "no image that can be read here"),
        (lambda jpeg: jpeg[:300] + bytes(len(jpeg) - 302) + jpeg[-2:], "damaged"),
    ],
    ids=["unsupported_format", "corrupt"],
)
def test_what_the_server_rejects_shows_its_reason(
    desktop: Visitor, photo: Callable[[str], Path], tmp_path: Path, content: Callable[[bytes], bytes], says: str
) -> None:
    desktop.chooses(written(tmp_path / "photo.jpg", content(photo("Mango").read_bytes())))
    expect_question(desktop.newest, "This device cannot read this file")
    desktop.newest.locator(".allow").click()
    expect(desktop.newest.locator("h3")).to_have_text("No answer")
    expect(desktop.newest.locator(".says")).to_contain_text(says)


def test_transparent_pixels_count_as_white(
    desktop: Visitor, site: Site, photo: Callable[[str], Path], tmp_path: Path
) -> None:
    picture = Image.open(photo("Mango")).convert("RGBA")
    pixels = np.array(picture)
    pixels[(pixels[..., :3] > 235).all(axis=2)] = 0  # its white ground, now transparent black
    assert (pixels[..., 3] == 0).mean() > 0.1
    Image.fromarray(pixels).save(tmp_path / "mango.png")
    desktop.chooses(tmp_path / "mango.png")
    expect_answer(desktop.newest, "Mango")
    expected = site.ask(tmp_path / "mango.png")["confidence"]
    confidence = desktop.newest.locator(".share").first.get_attribute("value")
    assert float(confidence or "nan") == pytest.approx(expected, abs=0.005)


def test_a_photo_can_be_pasted(desktop: Visitor, photo: Callable[[str], Path], tmp_path: Path) -> None:
    desktop.context.grant_permissions(["clipboard-read", "clipboard-write"])
    Image.open(photo("Lemon Meyer")).save(tmp_path / "lemon.png")
    copy = """async (data) => {
      const bytes = Uint8Array.from(atob(data), (character) => character.charCodeAt(0));
      await navigator.clipboard.write([new ClipboardItem({"image/png": new Blob([bytes], {type: "image/png"})})]);
    }"""
    desktop.page.evaluate(copy, base64.b64encode((tmp_path / "lemon.png").read_bytes()).decode())
    desktop.page.keyboard.press("Control+V")
    expect_answer(desktop.newest, "Lemon Meyer")


def test_photos_can_be_dropped_anywhere(desktop: Visitor, photo: Callable[[str], Path]) -> None:
    dropped = """(data) => {
      const bytes = Uint8Array.from(atob(data), (character) => character.charCodeAt(0));
      const transfer = new DataTransfer();
      transfer.items.add(new File([bytes], "plum.jpg", {type: "image/jpeg"}));
      return transfer;
    }"""
    transfer = desktop.page.evaluate_handle(dropped, base64.b64encode(photo("Plum 5").read_bytes()).decode())
    desktop.page.dispatch_event("h1", "dragenter", {"dataTransfer": transfer})
    expect(desktop.page.locator(".hint")).to_have_text("Drop the photos here")
    desktop.page.dispatch_event("h1", "drop", {"dataTransfer": transfer})
    expect_answer(desktop.newest, "Plum 5")
    expect(desktop.page.locator(".hint")).to_have_text("or drop them here, or paste one")


def test_everything_works_by_keyboard_alone(desktop: Visitor, photo: Callable[[str], Path]) -> None:
    page = desktop.page

    def choose(chooser: FileChooser) -> None:
        chooser.set_files(str(photo("Orange 2")))

    page.on("filechooser", choose)  # long before the key: what comes before the browser knows of it is lost
    page.evaluate("document.body.tabIndex = -1; document.body.focus()")  # where a page begins that was just opened
    order = []
    for _ in range(4):
        page.keyboard.press("Tab")
        order.append(page.evaluate("document.activeElement.id || document.activeElement.className"))
    assert order == ["skip", "language", "camera-open", "choose"]
    page.keyboard.press("Enter")
    expect_answer(desktop.newest, "Orange 2")
    page.remove_listener("filechooser", choose)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "clear"
    page.keyboard.press("Tab")
    name = page.evaluate("document.activeElement.getAttribute('aria-label')")
    assert name == f"Remove {photo('Orange 2').name}"
    page.keyboard.press("Enter")
    expect(desktop.cards).to_have_count(0)
    assert page.evaluate("document.activeElement.id") == "add"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_serious_violation(
    desktop: Visitor, photo: Callable[[str], Path], tmp_path: Path, scheme: Any
) -> None:
    desktop.page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
    nothing, words = written(tmp_path / "nothing.jpg", b""), written(tmp_path / "words.jpg", b"no image")
    desktop.chooses(photo("Tomato 2"), nothing, words)
    expect_question(desktop.cards.last, "cannot read")
    expect_answer(desktop.newest, "Tomato 2")
    expect(desktop.cards.nth(1).locator(".says")).to_have_text("The file is empty.")
    desktop.newest.locator(".wrong").click()
    desktop.page.locator("#known summary").click()
    assert violations(desktop.page) == []
    desktop.page.locator("#known summary").click()


@pytest.mark.parametrize("width", [320, 390, 1280])
def test_nothing_makes_the_page_scroll_sideways(
    desktop: Visitor, photo: Callable[[str], Path], tmp_path: Path, width: int
) -> None:
    desktop.page.set_viewport_size({"width": width, "height": 800})
    desktop.chooses(photo("Cherry Rainier 2"), written(tmp_path / "words.jpg", b"no image"))
    expect_question(desktop.cards.last, "cannot read")
    expect_answer(desktop.newest, "Cherry Rainier 2")
    desktop.newest.locator(".wrong").click()
    assert desktop.page.evaluate("document.documentElement.scrollWidth") <= width


def test_the_model_has_threads_where_the_page_is_isolated(desktop: Visitor) -> None:
    assert desktop.page.evaluate("crossOriginIsolated")


def test_a_phone_gets_its_language_large_targets_and_its_camera_app(
    browser: Browser, site: Site, photo: Callable[[str], Path]
) -> None:
    visitor = Visitor(browser.new_context(locale="fr-FR", **PHONE), site.url)
    page = visitor.page
    expect(page.locator("h1")).to_have_text(re.compile("^Qu.y a-t-il sur votre photo"))
    assert page.locator("html").get_attribute("lang") == "fr"
    assert page.locator("#capture").get_attribute("capture") == "environment"
    visitor.waits_for("offline")
    page.set_input_files("#capture", str(photo("Onion Red 2")))
    expect(visitor.newest.locator("h3")).to_have_text("Onion Red 2")
    expect(visitor.newest.locator(".by")).to_contain_text("Réponse")
    for target in page.locator("button:visible, label:visible, summary:visible").all():
        box = target.bounding_box()
        assert box is not None
        assert min(box["width"], box["height"]) >= 44, target
    page.get_by_role("button", name="English").click()
    expect(page.locator("h1")).to_have_text("What is on your photo?")
    expect(visitor.newest.locator(".by")).to_contain_text("Answered by")
    page.reload()
    expect(page.locator("h1")).to_have_text("What is on your photo?")
    visitor.context.close()


def test_photos_wait_for_the_model_unless_they_may_go_to_the_server(
    browser: Browser, site: Site, photo: Callable[[str], Path]
) -> None:
    context = browser.new_context(locale="en-US", **PHONE)
    held: list[Route] = []
    context.route("**/model.onnx", lambda route: held.append(route))  # noqa: PLW0108 -- Playwright marks it
    visitor = Visitor(context, site.url).waits_for("loading")
    expect(visitor.page.locator("#state")).to_contain_text("photos wait here, or go to the server if you say so")
    visitor.chooses(photo("Raspberry"), photo("Mango"))
    expect_question(visitor.cards.last, "this photo and the next ones go to it")
    assert visitor.sent == 0
    visitor.newest.locator(".allow").click()  # one yes is for all of them
    for card, label in zip(visitor.cards.all(), ["Raspberry", "Mango"], strict=True):
        expect_answer(card, label, by="server")
    visitor.chooses(photo("Plum 5"))
    expect_answer(visitor.newest, "Plum 5", by="server")
    with context.expect_event("request", lambda request: request.url.endswith("/model.onnx")):
        visitor.page.reload()  # no promise outlives the page
    visitor.waits_for("loading")
    visitor.chooses(photo("Raspberry"))
    expect_question(visitor.newest, "this photo and the next ones go to it")
    sent = visitor.sent
    held.pop().continue_()
    visitor.waits_for("offline")
    expect_answer(visitor.newest, "Raspberry", by="device")
    assert visitor.sent == sent
    context.close()


def test_it_answers_without_a_connection_after_a_reload(
    browser: Browser, site: Site, photo: Callable[[str], Path], tmp_path: Path
) -> None:
    visitor = Visitor(browser.new_context(locale="en-US", **PHONE), site.url).waits_for("offline")
    visitor.context.set_offline(True)
    visitor.page.reload()
    visitor.waits_for("offline")
    visitor.chooses(photo("Grape pink 2"))
    expect_answer(visitor.newest, "Grape pink 2")
    visitor.chooses(written(tmp_path / "cut.jpg", photo("Mango").read_bytes()[:-200]))
    expect(visitor.newest.locator(".says")).to_contain_text("cut off")
    visitor.chooses(written(tmp_path / "text.jpg", b"no image"))
    expect_question(visitor.newest, "This device cannot read this file")
    visitor.newest.locator(".allow").click()
    expect_question(visitor.newest, "There is no connection")
    visitor.context.close()


@pytest.mark.usefixtures("npm_parts")
def test_under_a_path_of_a_host_the_whole_page_works_offline_too(
    browser: Browser, model: Model, photo: Callable[[str], Path]
) -> None:
    notice = "Photos stay on your phone <unless>\nyou say so: privacy@example.com & \\1"
    site = Site.start(model, root_path="/fruits", privacy_notice=notice)
    visitor = Visitor(browser.new_context(locale="en-US", **DESKTOP), f"{site.url}/fruits").waits_for("offline")
    assert visitor.page.url == f"{site.url}/fruits/"
    assert visitor.page.evaluate("navigator.serviceWorker.ready.then((found) => found.scope)") == f"{site.url}/fruits/"
    beside = [url for url in visitor.requests if not url.startswith((f"{site.url}/fruits", f"blob:{site.url}/"))]
    assert beside == []
    manifest = visitor.page.evaluate(
        """fetch(document.querySelector("link[rel=manifest]").href).then((answer) => answer.json())"""
    )
    assert manifest["start_url"] == manifest["scope"] == "./"
    asked = """fetch("v1/model").then((answer) => answer.json()).then((card) => card.digest)"""
    assert visitor.page.evaluate(asked) == model.digest
    visitor.context.set_offline(True)
    visitor.page.reload()
    visitor.waits_for("offline")
    shown = visitor.page.locator("#privacy p")
    expect(shown).to_be_visible()
    assert shown.inner_text() == notice
    assert shown.bounding_box()["y"] < visitor.page.locator("#add").bounding_box()["y"]  # type: ignore[index]
    assert violations(visitor.page) == []
    visitor.page.locator("#language").click()
    expect(visitor.page.locator("#privacy summary")).to_have_text("Protection des données")
    visitor.page.locator("#language").click()
    visitor.chooses(photo("Plum 5"))
    expect_answer(visitor.newest, "Plum 5")
    assert visitor.complaints == []
    visitor.context.close()
    site.stop()


@pytest.mark.usefixtures("npm_parts")
def test_a_new_model_takes_the_place_of_the_kept_one(
    browser: Browser, model: Model, photo: Callable[[str], Path]
) -> None:
    site = Site.start(model)
    visitor = Visitor(browser.new_context(locale="en-US", **PHONE), site.url).waits_for("offline")
    site.stop()
    visitor.page.reload()
    visitor.waits_for("offline")
    visitor.chooses(photo("Mango"))
    expect_answer(visitor.newest, "Mango")

    # Another model: it has other names, and is never sure.
    other = replace(
        model,
        labels=tuple(f"{label}, new" for label in model.labels),
        calibration=replace(model.calibration, threshold=1.01),
    )
    site = Site.start(other, int(site.url.rsplit(":")[-1]))
    visitor.page.reload()
    expect(visitor.page.locator("#known-labels li").first).to_contain_text(", new", timeout=STARTED)
    visitor.waits_for("offline")
    deadline = time.monotonic() + STARTED / 1000
    while time.monotonic() < deadline:  # the kept model answers until the new one runs
        visitor.chooses(photo("Mango"))
        expect(visitor.newest.locator(".by[data-by]:not([data-by=''])")).to_be_visible()
        if visitor.newest.locator("h3").inner_text() == "Not sure":
            break
    expect_answer(visitor.newest, "Not sure")
    expect(visitor.newest.locator(".says")).to_contain_text("It might be Mango, new (")
    site.stop()
    visitor.page.reload()
    visitor.waits_for("offline")
    visitor.chooses(photo("Mango"))
    expect_answer(visitor.newest, "Not sure")
    visitor.context.close()


@pytest.mark.usefixtures("npm_parts")
def test_a_page_is_never_kept_from_two_versions_while_servers_change(
    browser: Browser, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = Site.start(model, privacy_notice="former")
    visitor = Visitor(browser.new_context(locale="en-US", **PHONE), site.url).waits_for("offline")
    page, port = visitor.page, int(site.url.rsplit(":")[-1])
    site.stop()
    # One server has the new version, the one that is asked for the first file has not.
    both = static.read_page("new") | {"/": static.read_page("former")["/"]}
    with monkeypatch.context() as patched:
        patched.setattr(static, "read_page", lambda _: both)
        site = Site.start(model, port)
    page.reload()
    [version] = re.findall(rb'"version": "(\w+)"', both["/sw.js"].content)
    kept = f"orchard-page-/-{version.decode()}"
    has_tried = """kept => navigator.serviceWorker.getRegistration().then(
        found => caches.has(kept).then(begun => begun && !found.installing)
    )"""
    wait_until(lambda: page.evaluate(has_tried, kept))
    site.stop()
    site = Site.start(model, port, privacy_notice="new")
    page.reload()
    names = "caches.keys().then(names => names.filter(name => name.startsWith('orchard-page-')))"
    wait_until(lambda: page.evaluate(names) == [kept])
    page.reload()
    expect(page.locator("#privacy p")).to_have_text("new")
    visitor.context.set_offline(True)
    page.reload()
    expect(page.locator("#privacy p")).to_have_text("new")
    visitor.context.close()
    site.stop()


def test_without_the_runtime_the_server_answers_and_the_page_says_so(
    browser: Browser, model: Model, photo: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(static.PAGE, tmp_path / "page", ignore=shutil.ignore_patterns("vendor", "node_modules"))
    monkeypatch.setattr(static, "PAGE", tmp_path / "page")
    site = Site.start(model)
    visitor = Visitor(browser.new_context(locale="en-US", **PHONE), site.url).waits_for("server")
    expect(visitor.page.locator("#state-detail")).to_contain_text("set up without the part that runs on your device")
    visitor.chooses(photo("Papaya 2"))
    visitor.newest.locator(".allow").click()
    expect_answer(visitor.newest, "Papaya 2", by="server")
    visitor.page.wait_for_timeout(300)
    assert visitor.complaints == []
    visitor.context.close()
    site.stop()


def test_the_camera_shows_what_it_sees_and_the_shutter_names_it(
    playwright: Playwright, site: Site, photo: Callable[[str], Path], tmp_path: Path
) -> None:
    film = tmp_path / "mango.y4m"
    film.write_bytes(_film(photo("Mango")))
    browser = launch(
        playwright,
        "--use-fake-ui-for-media-stream",
        "--use-fake-device-for-media-stream",
        f"--use-file-for-fake-video-capture={film}",
    )
    visitor = Visitor(browser.new_context(locale="en-US", permissions=["camera"], **PHONE), site.url)
    visitor.waits_for("offline")
    page = visitor.page
    page.get_by_role("button", name="Use the camera").click()
    dialog = page.get_by_role("dialog", name="Camera")
    expect(dialog).to_be_visible()
    expect(dialog).to_contain_text("The model sees this square.")
    assert violations(page) == []
    for size in ((390, 844), (844, 390)):  # what is shown is what is taken
        page.set_viewport_size({"width": size[0], "height": size[1]})
        box = page.locator("#video").bounding_box()
        assert box is not None
        assert box["width"] == pytest.approx(box["height"], abs=1)
    for _ in range(2):
        page.get_by_role("button", name="Take the photo").click()
        expect(page.locator("#camera-answer")).to_contain_text("Mango")
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    assert page.evaluate("document.activeElement.id") == "camera-open"
    expect(page.locator("#video")).to_have_js_property("srcObject", None)  # the camera is off
    expect(visitor.cards).to_have_count(2)
    for card in visitor.cards.all():
        expect_answer(card, "Mango")
    browser.close()


def test_without_a_live_view_the_same_button_opens_the_camera_app(
    browser: Browser, site: Site, photo: Callable[[str], Path]
) -> None:
    visitor = Visitor(browser.new_context(locale="en-US", **PHONE), site.url).waits_for("offline")
    with visitor.page.expect_file_chooser() as chooser:
        visitor.page.get_by_role("button", name="Use the camera").click()  # this machine has none
    assert chooser.value.element.get_attribute("capture") == "environment"
    expect(visitor.page.get_by_role("alert")).to_contain_text("choose a photo")
    chooser.value.set_files(str(photo("Mango")))
    expect_answer(visitor.newest, "Mango")
    visitor.context.close()


def test_without_any_camera_there_is_no_button_for_it(browser: Browser, site: Site) -> None:
    context = browser.new_context(locale="en-US", **DESKTOP)
    context.add_init_script("delete Navigator.prototype.mediaDevices")  # as on a page without HTTPS
    visitor = Visitor(context, site.url)
    expect(visitor.page.locator("#choose")).to_be_attached()
    expect(visitor.page.locator("#camera-open")).to_be_hidden()
    context.close()


def _film(frame: Path, side: int = 480, frames: int = 10) -> bytes:
    """A film in YUV4MPEG2 of one photograph: 4:2:0, BT.601, limited range."""
    picture = Image.open(frame).convert("RGB").resize((side, side), Image.Resampling.BICUBIC).convert("YCbCr")
    full = np.asarray(picture, dtype=np.float32)
    luma = 16 + full[..., 0] * (219 / 255)
    chroma = 128 + (full[..., 1:] - 128) * (224 / 255)
    chroma = chroma.reshape(side // 2, 2, side // 2, 2, 2).mean(axis=(1, 3))
    planes = [luma, chroma[..., 0], chroma[..., 1]]
    content = b"".join(np.rint(plane).astype(np.uint8).tobytes() for plane in planes)
    film = io.BytesIO()
    film.write(f"YUV4MPEG2 W{side} H{side} F10:1 Ip A1:1 C420jpeg\n".encode())
    for _ in range(frames):
        film.write(b"FRAME\n" + content)
    return film.getvalue()
