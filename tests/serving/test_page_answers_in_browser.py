"""What the page makes of an answer, in a real browser: three kinds, what there is to know, share, and corrections."""

import base64
import io
import json
import re
import shutil
import struct
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pillow_heif
import pytest
from PIL import Image
from playwright.sync_api import Browser, BrowserContext, Route, expect

from orchard.cards import Cards
from orchard.images.decoding import Decoded, Limits, decode
from orchard.inference.kinds import Kinds
from orchard.inference.model import Model
from orchard.inference.regions import square
from orchard.serving import static
from orchard.vocabulary import Fit

from .visitor import DESKTOP, PHONE, STARTED, Site, Visitor, expect_answer, expect_question, violations, written

ENGLISH: dict[str, Any] = {"locale": "en-US"}
MANGO = {
    "name": "Mango <b>fruit</b>",
    "text": "Ripe when it gives way.<img src=x onerror=alert(1)>\nKeep the stone.",
    "season": "May to September",
    "storage": "In the fridge, once ripe",
    "origin": "South Asia",
    "link": "https://mango.example/about?a=1&b=2",
    "source": "An encyclopaedia",
    "licence": "CC BY 4.0",
}
CARDS = Cards(
    {
        "Mango": {"en": MANGO, "fr-CA": {"name": "Mangue", "season": "De mai à septembre"}},
        "Raspberry": {"de": {"name": "Himbeere", "link": "javascript:alert(1)"}},
    },
    {"Plum": {"en": {"name": "Plums", "text": "A kind of many sorts."}}},
)


@pytest.fixture(scope="module")
def model(trained: Path) -> Model:
    """A model with kinds and cards; it is sure of a kind before it is of a label."""
    found = Model.load(str(trained))
    of_label = [label.split()[0] for label in found.labels]
    names = tuple(sorted(set(of_label)))
    shares = np.array([[name == kind for name in names] for kind in of_label], np.float32)
    return replace(found, cards=CARDS, kinds=Kinds(names, shares, 0.5))


def _answers(context: BrowserContext, **answer: Any) -> None:
    """Let the server give this answer."""
    top = [{"label": "Plum 5", "confidence": 0.62}, {"label": "Mango", "confidence": 0.372}]
    top += [{"label": "Raspberry", "confidence": 0.008}]
    prediction = {"label": None, "kind": None, "confidence": 0.62, "familiarity": 0.9, "top": top} | answer
    body = {"model": "0" * 32, "predictions": [prediction]}
    context.unroute("**/v1/predict*")
    context.route("**/v1/predict*", lambda route: route.fulfill(json=body))


@pytest.fixture(scope="module")
def asking(browser: Browser, site: Site) -> Iterator[Visitor]:
    """A phone whose browser cannot run the model; the server is asked."""
    context = browser.new_context(**ENGLISH, **PHONE)
    context.route("**/model.onnx", lambda route: route.abort())
    yield Visitor(context, site.url).waits_for("server")
    context.close()


def _asks(visitor: Visitor, photo: Path) -> None:
    visitor.chooses(photo)
    expect(visitor.newest).to_have_attribute("aria-busy", "false")
    if visitor.newest.locator(".allow").is_visible():
        visitor.newest.locator(".allow").click()
    expect(visitor.newest.locator(".by")).to_have_attribute("data-by", "server")


def _last_question(visitor: Visitor) -> str:
    return [url for url in visitor.requests if "/v1/predict" in url][-1]


def test_an_unsure_answer_names_what_it_might_be(asking: Visitor, photo: Callable[[str], Path]) -> None:
    _answers(asking.context, answer="not_sure")
    _asks(asking, photo("Mango"))
    expect(asking.newest.locator("h3")).to_have_text("Not sure")
    expect(asking.newest.locator(".says")).to_contain_text("It might be Plum 5 (62%) or Mango (37%). Try it")
    expect(asking.newest.locator(".top .name")).to_have_text(["Plum 5", "Mango"])  # none of less than 1 %
    expect(asking.newest.locator(".fact")).to_be_hidden()
    expect(asking.newest.locator(".wrong")).to_have_text("Tell us what it is")


def test_a_sure_kind_is_the_answer_and_has_its_card(asking: Visitor, photo: Callable[[str], Path]) -> None:
    _answers(asking.context, answer="not_sure", kind="Plum")
    _asks(asking, photo("Mango"))
    expect(asking.newest.locator("h3")).to_have_text("Plum")
    says = asking.newest.locator(".says")
    expect(says).to_have_text("The kind is sure; which one is not. It might be Plum 5 (62%) or Mango (37%).")
    expect(asking.newest.locator(".fact h4")).to_have_text("Plums")


def test_a_further_column_is_text(asking: Visitor, photo: Callable[[str], Path]) -> None:
    columns = {
        "ripeness_by_eye": {"value": "<b>ripe</b>", "likeliest": "<b>ripe</b>", "confidence": 0.97},
        "variety": {"value": None, "likeliest": "Kent", "confidence": 0.4},
    }
    _answers(asking.context, answer="not_sure", columns=columns)
    _asks(asking, photo("Mango"))
    expect(asking.newest.locator(".columns dt")).to_have_text(["ripeness by eye", "variety"])
    expect(asking.newest.locator(".columns dd")).to_have_text(["<b>ripe</b>", "It might be Kent (40%)."])
    assert violations(asking.page) == []


def test_what_is_unlike_anything_learned_gets_no_name(asking: Visitor, photo: Callable[[str], Path]) -> None:
    _answers(asking.context, answer="unknown", confidence=0.999, familiarity=0.01)
    _asks(asking, photo("Mango"))
    expect(asking.newest.locator("h3")).to_have_text("Unlike anything I have learned")
    expect(asking.newest.locator(".top")).to_be_hidden()
    expect(asking.newest.locator(".fact")).to_be_hidden()
    assert not re.search("Plum|Mango|%", asking.newest.locator(".answer").inner_text())
    assert violations(asking.page) == []


def test_where_it_looks_is_shown_on_this_device_as_the_server_says_it(
    desktop: Visitor, site: Site, photo: Callable[[str], Path], tmp_path: Path
) -> None:
    tiles = [np.asarray(Image.open(photo(label)).convert("RGB").resize((200, 200))) for label in ("Mango", "Raspberry")]
    Image.fromarray(np.concatenate(tiles, axis=1)).save(tmp_path / "both.png")
    expected = site.ask(tmp_path / "both.png", regions="true")
    assert {region["name"] for region in expected["regions"]} == {"Mango", "Raspberry"}
    sent = desktop.sent
    desktop.chooses(tmp_path / "both.png")
    button = desktop.newest.get_by_role("button", name="Where it looks")
    expect(button).to_have_attribute("aria-pressed", "false")
    expect(desktop.newest.locator(".where")).to_be_hidden()
    button.focus()
    desktop.page.keyboard.press("Enter")
    expect(button).to_have_attribute("aria-pressed", "true")
    words = desktop.newest.locator(".where-words")
    expect(words).to_contain_text("On this photo: ")
    expect(words).to_contain_text(re.compile(r"Mango \(.*\), (on the left|top left|bottom left)"))
    expect(desktop.newest.locator(".where span")).to_have_text([region["name"] for region in expected["regions"]])
    boxes = desktop.newest.locator(".where span").evaluate_all(
        "all => all.map(({ style }) => [style.left, style.width])"
    )
    percents = [[float(value.removesuffix("%")) / 100 for value in box] for box in boxes]
    lefts = [[left, right - left] for left, _, right, _ in (region["box"] for region in expected["regions"])]
    np.testing.assert_allclose(percents, lefts, atol=1e-6)
    alpha = desktop.newest.locator(".where canvas").evaluate(
        """canvas => [...canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data]
          .filter((_, at) => at % 4 === 3)"""
    )
    shares = 1 - np.array(alpha).reshape(7, 7) / 255 / 0.6
    np.testing.assert_allclose(shares, expected["map"], atol=0.03)
    assert desktop.sent == sent
    assert violations(desktop.page) == []
    button.click()
    expect(desktop.newest.locator(".where")).to_be_hidden()
    expect(words).to_be_hidden()


def test_who_was_answered_by_the_server_asks_it_where_it_looks(asking: Visitor, photo: Callable[[str], Path]) -> None:
    regions = [
        {"box": [0, 0, 0.5, 1], "name": "Plum <b>", "confidence": 0.97},
        {"box": [0.5, 0, 1, 0.5], "name": "Mango", "confidence": 0.94},
    ]
    _answers(asking.context, answer="unknown", regions=regions, map=[[0, 0, 0.4], [0, 0.1, 1], [0, 0, 0.4]])
    _asks(asking, photo("Mango"))
    assert "regions" not in _last_question(asking)
    asking.newest.get_by_role("button", name="Where it looks").tap()
    words = asking.newest.locator(".where-words")
    expect(words).to_have_text(
        "Bright is what it looked at most: on the right. On this photo: Plum <b> (97%), on the left; Mango (94%), "
        "top right."
    )
    assert _last_question(asking).endswith("/v1/predict?top=5&regions=true")
    assert asking.page.evaluate("document.documentElement.scrollWidth") <= 390
    box = asking.newest.locator(".look").bounding_box()
    assert box is not None and min(box["width"], box["height"]) >= 44
    assert violations(asking.page) == []
    asking.page.locator("#language").tap()
    expect(words).to_contain_text("Sur cette photo : Plum <b> (97 %), à gauche; Mango (94 %), en haut à droite.")
    asking.page.locator("#language").tap()
    # It could not be had: that is said, and asked again at the next try.
    asking.newest.locator(".look").tap()
    _answers(asking.context, answer="unknown")
    _asks(asking, photo("Mango"))
    asking.context.unroute("**/v1/predict*")
    asking.context.route("**/v1/predict*", lambda route: route.fulfill(status=422, json={"reason": "corrupt"}))
    asking.newest.locator(".look").tap()
    expect(asking.newest.locator(".where-words")).to_have_text("It could not be shown where it looks.")


@pytest.mark.parametrize("fit", Fit)
@pytest.mark.parametrize(("width", "height"), [(300, 200), (100, 400)])
def test_what_the_model_sees_of_a_photo_is_known_here_too(desktop: Visitor, fit: Fit, width: int, height: int) -> None:
    code = "async ([size, fit]) => (await import('/assets/regions.js')).square(size, fit)"
    seen = desktop.page.evaluate(code, [{"width": width, "height": height}, fit])
    assert seen == pytest.approx(square(width, height, fit))


@pytest.mark.parametrize(
    ("probabilities", "familiarity", "shares", "expected"),
    [
        ([0.1, 0.9], 0.5, None, ("sure", "b", None)),
        ([0.4, 0.6], 0.5, None, ("not_sure", None, None)),
        ([0.1, 0.9], 0.2, None, ("unknown", None, None)),
        ([0.1, 0.9], 0.5, [0.9, 0.1], ("sure", "b", "K")),  # the label's, whatever else is likely
        ([0.4, 0.6], 0.5, [0.1, 0.9], ("not_sure", None, "K")),
        ([0.4, 0.6], 0.5, [0.3, 0.7], ("not_sure", None, None)),
        ([0.1, 0.9], 0.2, [0.1, 0.9], ("unknown", None, None)),
    ],
)
def test_the_outputs_of_the_model_become_one_of_three_answers(
    desktop: Visitor,
    probabilities: list[float],
    familiarity: float,
    shares: list[float] | None,
    expected: tuple[str, str | None, str | None],
) -> None:
    kinds = {"names": ["J", "K"], "threshold": 0.8, "of_label": ["J", "K"]}
    about: dict[str, Any] = {
        "labels": ["a", "b"],
        "threshold": 0.8,
        "familiarity_threshold": 0.3,
        "kinds": shares and kinds,
    }
    outputs = {"probabilities": probabilities, "familiarity": [familiarity], "kind_probabilities": shares}
    decide = "async ([outputs, about]) => (await import('/assets/decision.js')).decide(outputs, about, 5)"
    about["columns"] = [{"name": "ripeness", "output": "r", "values": ["raw", "ripe"], "threshold": 0.6}]
    outputs["r"] = [0.25, 0.75]
    found = desktop.page.evaluate(decide, [outputs, about])
    value = None if expected[0] == "unknown" else "ripe"
    assert found["columns"] == {"ripeness": {"value": value, "likeliest": "ripe", "confidence": 0.75}}
    about["columns"][0]["threshold"] = 0.8
    assert desktop.page.evaluate(decide, [outputs, about])["columns"]["ripeness"]["value"] is None
    assert (found["answer"], found["label"], found["kind"]) == expected
    assert (found["confidence"], found["familiarity"]) == (max(probabilities), familiarity)
    assert found["top"][0] == {"label": "b", "confidence": max(probabilities)}


def test_this_device_and_the_server_give_the_same_answers(
    desktop: Visitor, site: Site, photo: Callable[[str], Path], model: Model, tmp_path: Path
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (2, 200, 300, 3), np.uint8)
    strange = {"black": np.zeros((90, 90, 3), np.uint8), "noise": noise[0], "dim": noise[1] // 8}
    files = [photo(label) for label in model.labels]
    for name, pixels in strange.items():
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
        files.append(tmp_path / f"{name}.png")
    desktop.chooses(*files)
    expect(desktop.page.locator(".by[data-by=device]")).to_have_count(len(files), timeout=STARTED)
    answers = []
    for card, file in zip(desktop.cards.all(), files, strict=True):
        expected = site.ask(file)
        answers.append(expected["answer"])
        assert card.get_attribute("data-shows") == expected["answer"], file
        named = "Unlike anything I have learned" if expected["answer"] == "unknown" else "Not sure"
        expect(card.locator("h3")).to_have_text(expected["label"] or expected["kind"] or named)
        colour, shown = expected["columns"]["colour"], card.locator(".columns dd")
        if expected["answer"] == "unknown":
            expect(card.locator(".columns")).to_be_hidden()
        elif colour["value"]:
            expect(shown).to_have_text(colour["value"])
        else:
            expect(shown).to_contain_text(f"It might be {colour['likeliest']}")
    assert answers.count("sure") >= 8
    assert answers[-len(strange) :] == ["unknown"] * len(strange)


@pytest.fixture(scope="module")
def settled(browser: Browser, site: Site) -> Iterator[Visitor]:
    """A page whose model has cards."""
    context = browser.new_context(**ENGLISH, **DESKTOP, permissions=["clipboard-read", "clipboard-write"])
    context.add_init_script(
        """window.asked = 0;
        const persist = StorageManager.prototype.persist;
        StorageManager.prototype.persist = function () { window.asked++; return persist.call(this); };"""
    )
    yield Visitor(context, site.url).waits_for("offline")
    context.close()


def test_the_browser_is_asked_to_keep_the_model(desktop: Visitor) -> None:
    assert desktop.page.evaluate("window.asked") == 1


def test_a_photo_leads_to_what_there_is_to_know(desktop: Visitor, photo: Callable[[str], Path]) -> None:
    desktop.chooses(photo("Mango"))
    fact = desktop.newest.locator(".fact")
    expect(fact.locator("h4")).to_have_text(MANGO["name"])  # as text, never as HTML
    expect(fact.locator(".fact-text")).to_have_text(MANGO["text"], use_inner_text=True)
    expect(fact.locator("dt")).to_have_text(["Season", "Storage", "Origin"])
    expect(fact.locator("dd")).to_have_text([MANGO["season"], MANGO["storage"], MANGO["origin"]])
    expect(fact.locator(".source")).to_have_text("An encyclopaedia · CC BY 4.0")
    link = fact.get_by_role("link", name="Read more at mango.example")
    assert link.get_attribute("href") == MANGO["link"]
    assert "noopener" in (link.get_attribute("rel") or "")
    assert fact.locator("img, b").count() == 0
    assert violations(desktop.page) == []


def test_cards_come_in_the_language_of_the_page_or_else_in_another(
    desktop: Visitor, photo: Callable[[str], Path]
) -> None:
    desktop.chooses(photo("Mango"), photo("Raspberry"), photo("Lemon Meyer"))
    mango, raspberry, lemon = desktop.cards.all()
    expect(raspberry.locator(".fact h4")).to_have_text("Himbeere")
    assert raspberry.locator(".fact").get_attribute("lang") == "de"
    expect(raspberry.locator(".fact a")).to_be_hidden()  # its address is no web page's
    expect_answer(lemon, "Lemon Meyer")
    expect(lemon.locator(".fact")).to_be_hidden()
    desktop.page.get_by_role("button", name="Français").click()
    expect(mango.locator(".fact h4")).to_have_text("Mangue")
    expect(mango.locator(".fact dt")).to_have_text(["Saison"])
    desktop.page.get_by_role("button", name="English").click()
    expect(mango.locator(".fact h4")).to_have_text(MANGO["name"])


def test_cards_are_there_without_a_connection(desktop: Visitor, photo: Callable[[str], Path]) -> None:
    desktop.context.set_offline(True)
    desktop.page.reload()
    desktop.waits_for("offline")
    desktop.chooses(photo("Mango"))
    expect(desktop.newest.locator(".fact h4")).to_have_text(MANGO["name"])
    desktop.context.set_offline(False)


def test_the_square_that_is_shown_is_the_whole_photo_squeezed(
    desktop: Visitor, photo: Callable[[str], Path], tmp_path: Path
) -> None:
    wide = Image.new("RGB", (900, 300), "blue")
    wide.paste(Image.open(photo("Mango")).resize((300, 300)), (300, 0))
    wide.save(tmp_path / "wide.png")
    desktop.chooses(tmp_path / "wide.png")
    expect(desktop.newest.locator("figcaption")).to_have_text("As the model sees it")
    expect(desktop.newest.locator("img")).to_have_attribute("alt", "Preview of wide.png")
    image = desktop.newest.locator("img")
    image.scroll_into_view_if_needed()
    desktop.page.emulate_media(reduced_motion="reduce")
    shown = np.asarray(Image.open(io.BytesIO(image.screenshot())).convert("RGB"), dtype=float)
    side = len(shown)
    assert shown.shape[1] == pytest.approx(side, abs=1)
    seen = desktop.page.evaluate(
        """async (data) => {
          const { decode } = await import("/assets/pixels.js");
          const bytes = Uint8Array.from(atob(data), (character) => character.charCodeAt(0));
          const { width, height, data: pixels } = await decode(new Blob([bytes]), 224);
          return { width, height, pixels: [...pixels] };
        }""",
        base64.b64encode((tmp_path / "wide.png").read_bytes()).decode(),
    )
    assert (seen["width"], seen["height"]) == (224, 224)
    pixels = np.array(seen["pixels"], np.uint8).reshape(224, 224, 3)
    small = np.asarray(Image.fromarray(pixels).resize((side, side), Image.Resampling.BILINEAR), dtype=float)
    inside = slice(12, side - 12)  # within the rounded border
    assert np.abs(small[inside, inside] - shown[inside, inside, :][:, :, :]).mean() < 8


@pytest.mark.parametrize("fit", Fit)
@pytest.mark.parametrize("size", [(900, 301), (211, 700), (150, 90)])
def test_a_picture_becomes_square_here_as_in_training(desktop: Visitor, fit: Fit, size: tuple[int, int]) -> None:
    coarse = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(file, "png")
    seen = desktop.page.evaluate(
        """async ([data, fit]) => {
          const { decode } = await import("/assets/pixels.js");
          const bytes = Uint8Array.from(atob(data), (character) => character.charCodeAt(0));
          const { width, height, data: pixels } = await decode(new Blob([bytes]), 224, fit);
          return { width, height, pixels: [...pixels] };
        }""",
        [base64.b64encode(file.getvalue()).decode(), fit],
    )
    expected = decode(file.getvalue(), 224, Limits(), fit)
    assert isinstance(expected, Decoded)
    pixels = np.array(seen["pixels"], int).reshape(seen["height"], seen["width"], 3)
    assert pixels.shape == expected.pixels.shape
    # Pillow rounds after each of its passes. Where a side does not divide by the factor of the first, cheap step,
    # as 301 by 2, the last pixels of the page are of fewer, which shifts it by a fraction of a pixel.
    assert np.abs(pixels - expected.pixels).max() <= (8 if fit is Fit.PAD and size == (900, 301) else 2)


@pytest.mark.parametrize("fit", Fit)
@pytest.mark.parametrize("orientation", [*range(1, 10)])
def test_a_webp_is_set_upright_as_its_exif_says(desktop: Visitor, orientation: int, fit: Fit) -> None:
    """No browser does it; 9 is none."""
    coarse = np.random.default_rng(0).integers(0, 256, (4, 4, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    Image.fromarray(coarse).resize((480, 240), Image.Resampling.BICUBIC).save(file, "webp", lossless=True, exif=exif)
    seen = desktop.page.evaluate(
        """async ([data, fit]) => {
          const { decode } = await import("/assets/pixels.js");
          const bytes = Uint8Array.from(atob(data), (character) => character.charCodeAt(0));
          const { width, height, data: pixels, original } = await decode(new Blob([bytes]), 120, fit);
          return { width, height, pixels: [...pixels], original };
        }""",
        [base64.b64encode(file.getvalue()).decode(), fit],
    )
    expected = decode(file.getvalue(), 120, Limits(), fit)
    assert isinstance(expected, Decoded)
    assert seen["original"] == {"width": expected.width, "height": expected.height}
    pixels = np.array(seen["pixels"], int).reshape(seen["height"], seen["width"], 3)
    assert pixels.shape == expected.pixels.shape
    assert np.abs(pixels - expected.pixels).max() <= 2


def test_a_motion_photo_is_answered_here(desktop: Visitor, photo: Callable[[str], Path], tmp_path: Path) -> None:
    """As Samsung and Google write them: a JPEG, and a film behind it that its XMP tells of."""
    film = _film(desktop)
    assert len(film) > 3000
    jpeg = photo("Mango").read_bytes()
    tag = f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><MotionPhoto>1</MotionPhoto><Length>{len(film)}</Length></x:xmpmeta>'
    xmp = b"http://ns.adobe.com/xap/1.0/\0" + tag.encode()
    segment = b"\xff\xe1" + struct.pack(">H", len(xmp) + 2) + xmp
    moving = jpeg[:2] + segment + jpeg[2:] + film
    sent = desktop.sent
    desktop.chooses(written(tmp_path / "moving.jpg", moving))
    expect_answer(desktop.newest, "Mango", by="device")
    desktop.chooses(written(tmp_path / "cut.jpg", moving[: len(jpeg) // 2]))
    expect(desktop.newest.locator(".says")).to_contain_text("cut off")
    assert desktop.sent == sent


def _film(visitor: Visitor) -> bytes:
    """A second of a real film, recorded by the browser."""
    data = visitor.page.evaluate(
        """async () => {
          const canvas = Object.assign(document.createElement("canvas"), { width: 160, height: 120 });
          const pen = canvas.getContext("2d");
          const mimeType = ["video/mp4", "video/webm"].find((type) => MediaRecorder.isTypeSupported(type));
          const recorder = new MediaRecorder(canvas.captureStream(30), { mimeType });
          const parts = [];
          recorder.ondataavailable = (event) => parts.push(event.data);
          const done = new Promise((resolve) => (recorder.onstop = resolve));
          recorder.start();
          for (let frame = 0; frame < 20; frame++) {
            for (let at = 0; at < 200; at++) {
              pen.fillStyle = `hsl(${Math.random() * 360} 80% 50%)`;
              pen.fillRect(Math.random() * 160, Math.random() * 120, 9, 9);
            }
            await new Promise((resolve) => setTimeout(resolve, 33));
          }
          recorder.stop();
          await done;
          const bytes = new Uint8Array(await new Blob(parts).arrayBuffer());
          return btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join(""));
        }"""
    )
    return base64.b64decode(data)


@pytest.mark.parametrize("behind", [b"", b"\xff", b"anything behind it"])
def test_the_end_of_a_file_is_found_whatever_follows(
    desktop: Visitor, photo: Callable[[str], Path], behind: bytes
) -> None:
    jpeg = photo("Mango").read_bytes()
    png = io.BytesIO()
    Image.open(photo("Mango")).save(png, "PNG")
    thumbnail = b"\xff\xe1" + struct.pack(">H", 2 + 6) + b"\xff\xd8\xff\xd9\xff\xd9"  # has an end of its own
    for content in (jpeg, jpeg[:2] + thumbnail + jpeg[2:], png.getvalue()):
        assert not _ends_early(desktop, content + behind)
        for cut in (len(content) // 2, len(content) - 3, 5):
            assert _ends_early(desktop, content[:cut])


def _ends_early(visitor: Visitor, content: bytes) -> bool:
    check = """async (data) => (await import("/assets/whole.js")).endsEarly(
      new Blob([Uint8Array.from(atob(data), (character) => character.charCodeAt(0))]))"""
    return bool(visitor.page.evaluate(check, base64.b64encode(content).decode()))


def test_a_photo_of_an_iphone_is_sent_only_with_a_yes(
    desktop: Visitor, photo: Callable[[str], Path], tmp_path: Path
) -> None:
    file = tmp_path / "IMG_0001.heic"
    pillow_heif.from_pillow(Image.open(photo("Mango"))).save(file, quality=90)
    sent = desktop.sent
    desktop.chooses(file)
    expect_question(desktop.newest, "gets the file only if you say so")
    assert desktop.sent == sent
    desktop.newest.locator(".allow").click()
    expect_answer(desktop.newest, "Mango", by="server")
    expect(desktop.newest.locator(".by")).to_contain_text("It keeps no photo")
    desktop.chooses(file)  # that was a yes for one file
    expect_question(desktop.newest, "gets the file only if you say so")
    assert desktop.sent == sent + 1


def test_a_yes_for_all_holds_until_the_page_is_closed(
    desktop: Visitor, photo: Callable[[str], Path], tmp_path: Path
) -> None:
    files = [tmp_path / f"{label}.tiff" for label in ("Mango", "Raspberry")]
    for file in files:
        Image.open(photo(file.stem)).save(file)
    desktop.chooses(*files)
    expect_question(desktop.cards.last, "cannot read this file")
    desktop.newest.get_by_label("Do not ask again").check()
    desktop.newest.locator(".allow").click()
    for card, file in zip(desktop.cards.all(), files, strict=True):
        expect_answer(card, file.stem, by="server")
    desktop.page.reload()
    desktop.waits_for("offline")
    desktop.chooses(files[0])
    expect_answer(desktop.newest, "Mango", by="server")
    desktop.page.evaluate("sessionStorage.clear()")
    desktop.page.reload()
    desktop.waits_for("offline")
    desktop.chooses(files[0])
    expect_question(desktop.newest, "cannot read this file")


def test_an_answer_is_copied_where_nothing_can_share(desktop: Visitor, photo: Callable[[str], Path]) -> None:
    desktop.chooses(photo("Mango"))
    desktop.newest.get_by_role("button", name="Share").click()
    expect(desktop.newest.locator(".note")).to_have_text("Copied: paste it where you want.")
    assert desktop.page.evaluate("navigator.clipboard.readText()").startswith("Mango: ")


def test_an_answer_is_shared_with_its_photo(desktop: Visitor, photo: Callable[[str], Path]) -> None:
    # What phones have, and Chromium on Linux has not.
    desktop.page.evaluate(
        """() => {
          navigator.canShare = ({ files }) => files[0].type === "image/jpeg";
          navigator.share = async ({ text, files: [file] }) => { window.shared = [text, file.name, file.size]; };
        }"""
    )
    desktop.chooses(photo("Mango"))
    desktop.newest.get_by_role("button", name="Share").click()
    expect(desktop.newest.locator(".note")).to_have_text("Shared.")
    words, name, size = desktop.page.evaluate("window.shared")
    assert re.match(r"Mango: .*% sure$", words)
    assert (name, size) == (photo("Mango").name, photo("Mango").stat().st_size)
    desktop.page.evaluate("() => { delete navigator.share; delete navigator.canShare; }")


@pytest.mark.parametrize(
    ("label", "folder"),
    [
        ("Pêche de vigne 桃", "Pêche de vigne 桃"),
        ("Pe\u0302che", "Pêche"),
        ("../../etc/passwd", "__.._etc_passwd"),
        ("C:\\Windows", "C__Windows"),
        ("CON", "_CON"),
        ("aux.txt", "_aux.txt"),
        ("dots. . .", "dots"),
        ("..", "_"),
        (" ", "_"),
        ("a<b>|c?", "a_b__c_"),
        ("\u202egnp.exe\0\ud800", "_gnp.exe__"),
        ("桃" * 99, "桃" * 40),
    ],
)
def test_a_folder_has_a_name_that_is_safe_everywhere(desktop: Visitor, label: str, folder: str) -> None:
    code = "async (label) => (await import('/assets/zip.js')).safeName(JSON.parse(label))"
    assert desktop.page.evaluate(code, json.dumps(label)) == folder


def test_corrections_are_kept_and_exported_as_label_and_photo(
    desktop: Visitor, photo: Callable[[str], Path], tmp_path: Path
) -> None:
    page = desktop.page
    expect(page.locator("#corrections")).to_be_hidden()
    # What is known counts however it is typed; Windows and macOS take two of these for one folder.
    labels = {"mango ": "Mango", "MANGO": "Mango", "../Pêche 桃": "__Pêche 桃", "peach": "peach", "Peach": "Peach (2)"}
    desktop.chooses(*[photo("Mango")] * len(labels))
    expect_answer(desktop.cards.last, "Mango")
    for number, (card, label) in enumerate(zip(reversed(desktop.cards.all()), labels, strict=True)):
        card.get_by_role("button", name="Wrong? Tell us what it is").click()
        card.get_by_label("What is it?").fill(label)
        page.keyboard.press("Enter")
        expect(page.locator("#corrections-count")).to_contain_text(f"{number + 1} correction")
    expect(desktop.newest.locator(".note")).to_have_text("Kept on this device as Peach.")
    # Who says it again has said one thing, not two.
    desktop.newest.get_by_role("button", name="Change what it is").click()
    desktop.newest.get_by_role("button", name="Keep").click()
    expect(desktop.newest.locator("form")).to_be_hidden()
    page.reload()
    expect(page.locator("#corrections-count")).to_have_text(f"{len(labels)} corrections")
    assert violations(page) == []
    with page.expect_download() as download:
        page.get_by_role("button", name="Export corrections").click()
    assert re.fullmatch(r"orchard-corrections-\d{4}-\d\d-\d\d\.zip", download.value.suggested_filename)
    with zipfile.ZipFile(download.value.path()) as archive:
        assert archive.testzip() is None
        assert sorted(name.split("/")[0] for name in archive.namelist()) == sorted(labels.values())
        assert len({name.lower() for name in archive.namelist()}) == len(labels)
        assert {len(name.split("/")) for name in archive.namelist()} == {2}
        archive.extractall(tmp_path / "out")
    files = list((tmp_path / "out").rglob("*.jpg"))
    assert [file.read_bytes() for file in files] == [photo("Mango").read_bytes()] * len(labels)
    page.once("dialog", lambda dialog: dialog.dismiss())
    page.get_by_role("button", name="Delete them").click()
    expect(page.locator("#corrections")).to_be_visible()
    page.once("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Delete them").click()
    expect(page.locator("#corrections")).to_be_hidden()
    page.reload()
    desktop.waits_for("offline")
    expect(page.locator("#corrections")).to_be_hidden()


@pytest.mark.usefixtures("npm_parts")
def test_threads_that_hang_are_given_up_for_one_thread(
    browser: Browser, model: Model, photo: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(static.PAGE, tmp_path / "page", ignore=shutil.ignore_patterns("node_modules"))
    runtime = tmp_path / "page" / static.RUNTIME[0]
    stuck = (
        "if (globalThis.name?.startsWith('em-pthread')) await new Promise(() => {});\n"  # a thread that never starts
    )
    runtime.write_text(stuck + runtime.read_text(encoding="utf-8"), encoding="utf-8")
    monkeypatch.setattr(static, "PAGE", tmp_path / "page")
    site = Site.start(model)
    context = browser.new_context(**ENGLISH, **PHONE)
    context.clock.install()
    visitor = Visitor(context, site.url).waits_for("starting")
    visitor.chooses(photo("Mango"))
    expect_question(visitor.newest, "The photo waits here")
    visitor.page.wait_for_timeout(1500)  # long enough for one that does not hang
    expect(visitor.page.locator("#state")).to_have_attribute("data-state", "starting")
    context.clock.fast_forward("00:20")
    visitor.waits_for("offline")
    expect_answer(visitor.newest, "Mango", by="device")
    assert any("did not start within 20 s" in text for text in visitor.complaints)
    context.close()
    site.stop()


def test_eighty_one_labels_fit_a_phone(browser: Browser, site: Site, photo: Callable[[str], Path]) -> None:
    def describe(route: Route) -> None:
        answer = route.fetch()
        route.fulfill(response=answer, json=answer.json() | {"labels": labels})

    labels = [f"Sorte-de-pomme-rouge-très-longue-du-verger-nº-{number}" for number in range(81)]
    context = browser.new_context(locale="fr-FR", **PHONE)
    context.route("**/model.onnx", lambda route: route.abort())
    context.route("**/model.json", describe)
    _answers(
        context, answer="not_sure", kind=labels[7], top=[{"label": label, "confidence": 0.2} for label in labels[:5]]
    )
    visitor = Visitor(context, site.url).waits_for("server")
    page = visitor.page
    _asks(visitor, photo("Mango"))
    expect(visitor.newest.locator("h3")).to_have_text(labels[7])
    expect(page.locator("#labels option")).to_have_count(81)
    visitor.newest.locator(".wrong").tap()
    visitor.newest.locator("input[list]").fill(labels[80])
    for target in page.locator("button:visible, label.button:visible, summary:visible, input[list]:visible").all():
        box = target.bounding_box()
        assert box is not None
        assert min(box["width"], box["height"]) >= 44, target
    visitor.newest.get_by_role("button", name="Garder").tap()
    page.locator("#known summary").tap()
    expect(page.locator("#known-labels li").last).to_be_visible()
    expect(page.locator("#corrections-count")).to_have_text("1 correction")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    context.close()
