"""The page in a real browser: it asks for nothing, fits a phone, and answers pointer and keyboard."""

import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from orchard.inference.model import Model
from orchard.layout import Metrics, Run
from orchard.output import Output
from orchard.report import ReportData, collect, render

ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
ARGUMENTS += ["--disable-component-update", "--disable-sync"]
HOSTILE = "<script>document.title='owned'</script>"
LABELS = ["Apple", "Cherry", HOSTILE, "A name " * 12, "Onebigwordwithoutaplacetobreak" * 4]
LABELS += [f"Tomato {i}" for i in range(76)]


def _cannot(reason: str) -> NoReturn:
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        _cannot("there is no chromium: install the package of that name")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def report(
    tmp_path_factory: pytest.TempPathFactory,
    a_run: Callable[[], Run],
    metrics_of: Callable[..., Metrics],
    write_output: Callable[..., Callable[[str], bytes]],
    a_model: Callable[[Sequence[str]], Model],
) -> Path:
    folder = tmp_path_factory.mktemp("report")
    read_image = write_output(folder / "out", LABELS)
    model = a_model(LABELS)
    page = render(collect(Output(str(folder / "out")), metrics_of(LABELS), a_run(), read_image, lambda: model))
    return _written(folder, page)


def _written(folder: Path, page: str) -> Path:
    file = folder / "report.html"
    file.write_text(page, encoding="utf-8")
    return file


class Opened:
    """A page with what it asked for and complained about."""

    def __init__(self, page: Page, file: Path) -> None:
        self.page = page
        self.requests: list[str] = []
        self.complaints: list[str] = []
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("console", lambda message: self.complaints.append(message.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.goto(file.as_uri())


def _open(browser: Browser, file: Path, width: int = 1280, **options: Any) -> Opened:
    context = browser.new_context(viewport={"width": width, "height": 850}, offline=True, **options)
    return Opened(context.new_page(), file)


@pytest.fixture
def desktop(browser: Browser, report: Path) -> Iterator[Opened]:
    opened = _open(browser, report)
    yield opened
    elsewhere = [url for url in opened.requests if not url.startswith("data:") and url != report.as_uri()]
    assert elsewhere == []
    assert opened.complaints == []
    opened.page.context.close()


def test_names_run_no_script_and_pictures_load(desktop: Opened) -> None:
    assert desktop.page.title() == "some fruits · Orchard report"
    broken = "[...document.images].filter(i => i.complete && !i.naturalWidth && i.checkVisibility()).length"
    assert desktop.page.evaluate(broken) == 0
    picture = desktop.page.locator(".gallery .shot").first.evaluate("shot => getComputedStyle(shot).backgroundImage")
    size = "url => new Promise(done => { const i = new Image(); i.onload = () => done(i.naturalWidth); i.src = url })"
    assert desktop.page.evaluate(size, picture.removeprefix('url("').removesuffix('")')) == 100


def test_a_switch_shows_where_the_network_looked(desktop: Opened) -> None:
    page = desktop.page
    shades = page.locator("#mistakes .looked")
    assert shades.count() == 24
    expect(shades.first).to_have_attribute(
        "aria-label", re.compile("; looked at: (middle|left|right|top|bottom|nowhere)")
    )

    def expect_opacity(of: str) -> None:
        for _ in range(100):  # it fades
            found = set(shades.evaluate_all("all => all.map(one => getComputedStyle(one, '::after').opacity)"))
            if found == {of}:
                return
            page.wait_for_timeout(50)
        assert found == {of}

    page.mouse.move(0, 0)
    expect_opacity("0")
    page.get_by_label("Where it looked").focus()
    page.keyboard.press("Space")
    expect_opacity("1")
    picture = shades.first.evaluate("one => getComputedStyle(one, '::after').backgroundImage")
    assert picture.startswith('url("data:image/webp;base64,')
    page.keyboard.press("Space")
    expect_opacity("0")


@pytest.mark.parametrize("width", [320, 390, 800, 1280])
def test_nothing_makes_the_page_scroll_sideways(browser: Browser, report: Path, width: int) -> None:
    page = _open(browser, report, width).page
    for summary in page.locator("summary").all():
        summary.click()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.locator(".gallery button").first.click()
    sheet = page.locator(".sheet:popover-open")
    box = sheet.bounding_box()
    assert box is not None and box["x"] >= 0 and box["x"] + box["width"] <= width
    assert sheet.evaluate("sheet => sheet.scrollWidth - sheet.clientWidth") <= 0
    page.context.close()


def test_a_mistake_opens_by_the_keyboard_and_gives_the_focus_back(desktop: Opened) -> None:
    page = desktop.page
    button = page.locator(".gallery button").first
    button.focus()
    page.keyboard.press("Enter")
    sheet = page.locator(".sheet:popover-open")
    expect(sheet).to_contain_text("not sure; familiarity 0.42")
    expect(sheet.get_by_role("button", name="Close")).to_be_focused()
    page.keyboard.press("Escape")
    expect(sheet).to_have_count(0)
    expect(button).to_be_focused()


def test_a_cell_opens_by_the_keyboard_and_by_touch(browser: Browser, report: Path) -> None:
    page = _open(browser, report, 390, has_touch=True, is_mobile=True).page
    matrix = page.locator(".matrix").first
    matrix.focus()
    steps = page.evaluate(
        "(() => { const m = JSON.parse(document.querySelector('#block').textContent).matrices[0];"
        " return m.sheets[0].slice(0, 2) })()"
    )
    page.keyboard.press("ArrowRight")  # the first step goes to the first cell
    for key, times in zip(("ArrowDown", "ArrowRight"), steps, strict=True):
        for _ in range(times):
            page.keyboard.press(key)
    page.keyboard.press("Enter")
    sheet = page.locator(".sheet:popover-open")
    expect(sheet).to_have_count(1)
    sheet.get_by_role("button", name="Close").tap()
    expect(sheet).to_have_count(0)
    where = f"""async () => {{
        const m = JSON.parse(document.querySelector('#block').textContent).matrices[0];
        const svg = document.querySelector('.matrix');
        svg.scrollIntoView({{ block: 'center', behavior: 'instant' }});
        const box = svg.parentElement;
        const [row, column] = {steps};
        const scale = svg.getScreenCTM().a;
        box.scrollLeft = (m.left + column * m.cell) * scale - box.clientWidth / 2;
        // A touch is told where it is by the frame that is shown: scrolling is in the next ones.
        await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
        const p = new DOMPoint(m.left + (column + .5) * m.cell, m.top + (row + .5) * m.cell);
        const at = p.matrixTransform(svg.getScreenCTM());
        return [at.x, at.y, document.elementFromPoint(at.x, at.y)?.closest('.matrix') === svg, innerHeight];
    }}"""
    for _ in range(5):  # on a busy machine a touch may come while the page still scrolls, and is taken for a part of it
        x, y, is_hit, height = page.evaluate(where)
        assert is_hit and 0 <= x <= 390 and 0 <= y <= height, (x, y, is_hit)
        page.touchscreen.tap(x, y)
        page.wait_for_timeout(500)
        if sheet.count():
            break
    expect(sheet).to_have_count(1)
    page.context.close()


def test_the_matrix_folds_into_kinds(desktop: Opened) -> None:
    page = desktop.page
    block = page.locator("#classifier-0")
    assert block.locator(".matrix:visible").count() == 1
    block.locator("label", has_text="Kinds").click()
    matrix = block.locator(".matrix:visible")
    assert "by kind: 41 true classes" in (matrix.get_attribute("aria-label") or "")
    expect(block.locator(".of-kinds .confusions li").first).to_be_visible()


def test_pointing_at_the_map_shows_the_image_and_its_name(desktop: Opened) -> None:
    page = desktop.page
    mark = page.locator("#scatter use:not(.bare)").last
    mark.scroll_into_view_if_needed()
    box = mark.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    expect(page.locator("#tip")).to_be_visible()
    page.wait_for_function("document.querySelector('#tip img').naturalWidth === 56")
    assert re.search(r"(train|test): .*\d\.jpg", page.locator("#tip").inner_text())
    page.mouse.move(2, 2)
    expect(page.locator("#tip")).to_be_hidden()


def test_the_map_answers_the_arrow_keys_and_escape(desktop: Opened) -> None:
    page = desktop.page
    page.locator("#scatter").focus()
    page.keyboard.press("ArrowRight")
    first = page.locator("#tip").inner_text()
    page.keyboard.press("ArrowRight")
    assert page.locator("#tip").inner_text() != first
    assert ".jpg" in (page.locator("#live").text_content() or "")
    page.keyboard.press("Escape")
    expect(page.locator("#tip")).to_be_hidden()


def test_a_tap_shows_the_image_on_a_phone(browser: Browser, report: Path) -> None:
    page = _open(browser, report, 390, has_touch=True, is_mobile=True).page
    mark = page.locator("#scatter use:not(.bare)").last
    mark.scroll_into_view_if_needed()
    box = mark.bounding_box()
    assert box is not None
    page.touchscreen.tap(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    expect(page.locator("#tip img")).to_be_visible()
    tip = page.locator("#tip").bounding_box()
    assert tip is not None
    assert tip["x"] >= 0
    assert tip["x"] + tip["width"] <= 390
    page.context.close()


def test_the_legend_finds_and_picks_out_a_class(desktop: Opened) -> None:
    page = desktop.page
    page.locator("#find").fill("tomato 3")
    assert page.locator("#legend li:visible").count() == 17  # 3, 13, 23, 30 to 39, 43, 53, 63 and 73
    button = page.locator("#legend button:visible").first
    button.click()
    assert button.get_attribute("aria-pressed") == "true"
    label = button.get_attribute("data-l")
    picked = page.locator("#scatter .points .on")
    assert picked.count() == 6
    assert {mark.get_attribute("data-l") for mark in picked.all()} == {label}
    page.locator("#all").click()
    assert page.locator("#scatter .on").count() == 0


def test_marks_turn_into_pictures_and_back(desktop: Opened) -> None:
    page = desktop.page
    page.locator("#as-pictures").click()
    assert page.locator("#scatter image").count() == page.locator("#scatter use:not(.bare)").count()
    page.mouse.move(2, 2)
    picture = page.locator("#scatter image").first
    picture.scroll_into_view_if_needed()
    # What scrolling does to the pointer comes with the next frames; only then does it point.
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    picture.hover(force=True)
    expect(page.locator("#tip img")).to_be_visible()
    page.locator("#as-pictures").click()
    assert page.locator("#scatter image:visible").count() == 0


def test_the_confusion_matrix_names_the_cell_under_the_pointer(desktop: Opened) -> None:
    page = desktop.page
    svg = page.locator(".matrix").first
    svg.scroll_into_view_if_needed()
    labels, row = page.evaluate(
        "(() => { const m = JSON.parse(document.querySelector('#block').textContent).matrices[0];"
        " return [m.labels, m.labels.indexOf('Tomato 40')] })()"
    )
    x, y = page.evaluate(
        """([row, column]) => {
          const m = JSON.parse(document.querySelector('#block').textContent).matrices[0];
          const svg = document.querySelector('.matrix');
          const p = new DOMPoint(m.left + (column + .5) * m.cell, m.top + (row + .5) * m.cell);
          const at = p.matrixTransform(svg.getScreenCTM());
          return [at.x, at.y];
        }""",
        [row, row + 1],
    )
    page.mouse.move(x, y)
    # As the metrics of conftest.py say: label i is taken for the next one i times, and is right 10 times.
    text = page.locator("#tip").inner_text()
    assert labels[row : row + 2] == ["Tomato 40", "Tomato 41"] == [LABELS[45], LABELS[46]]
    assert "Tomato 40 → Tomato 41" in text
    assert "45 of 55 images" in text
    page.mouse.click(x, y)
    sheet = page.locator(".sheet:popover-open")
    expect(sheet).to_contain_text("Tomato 40 taken for Tomato 41")
    expect(sheet.locator("li").first).to_contain_text("test/Tomato 40/0.jpg")
    expect(sheet.locator(".near li").first).to_contain_text("cosine 0.910")


def test_the_matrix_changes_from_shares_to_counts(desktop: Opened) -> None:
    page = desktop.page
    assert page.locator(".matrix .shades.by-share").first.is_visible()
    page.locator("label", has_text="Images").first.click()
    assert page.locator(".matrix .shades.by-count").first.is_visible()
    assert page.locator(".matrix .shades.by-share").first.is_hidden()


def test_the_class_table_sorts_by_any_column(desktop: Opened) -> None:
    page = desktop.page
    table = page.locator("table.sortable").first

    def column(index: int) -> list[str]:
        return [cell.strip() for cell in table.locator(f"tbody tr > :nth-child({index})").all_inner_texts()]

    table.get_by_role("button", name="Test images").click()
    supports = [int(text.split()[0]) for text in column(5)]  # some are marked as few
    assert supports == sorted(supports, reverse=True)
    assert len(set(supports)) > 5
    table.get_by_role("button", name="Test images").click()
    assert [int(text.split()[0]) for text in column(5)] == sorted(supports)
    table.get_by_role("button", name="Class").click()
    names = column(1)
    assert names.index("Tomato 9") < names.index("Tomato 10")
    assert table.locator("th[aria-sort]").count() == 1


def test_tabs_show_one_classifier_at_a_time(desktop: Opened) -> None:
    page = desktop.page
    assert page.locator(".classifier:visible").count() == 1
    tabs = page.get_by_role("tab")
    tabs.first.focus()
    page.keyboard.press("ArrowRight")
    assert tabs.nth(1).get_attribute("aria-selected") == "true"
    assert page.locator(".classifier:visible").get_attribute("id") == "classifier-1"


def test_without_scripts_everything_can_be_read(browser: Browser, report: Path) -> None:
    page = _open(browser, report, java_script_enabled=False).page
    assert page.locator(".classifier:visible").count() == 2
    assert page.locator("#scatter use").count() > 100
    assert page.locator("#find").is_hidden()
    page.locator(".confusions button").first.click()
    assert page.locator(".sheet:popover-open").count() == 1
    page.context.close()


@pytest.mark.parametrize("count", [0, 1, 2, 500])
def test_small_and_large_runs_work_without_complaint(
    browser: Browser, tmp_path: Path, count: int, a_run: Callable[[], Run], metrics_of: Callable[..., Metrics]
) -> None:
    labels = [f"label {i}" for i in range(count)]
    metrics = metrics_of(labels, n_classifiers=1)
    if count == 0:
        metrics.pop("classifiers")
    opened = _open(browser, _written(tmp_path, render(ReportData(metrics, a_run()))), 390)
    assert opened.complaints == []
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= 390
    opened.page.context.close()
