"""The page in WebKit, which every browser on an iPhone is made of: a private window, and later no connection."""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from selenium.webdriver import WebKitGTK
from selenium.webdriver.common.by import By
from selenium.webdriver.webkitgtk.options import Options
from selenium.webdriver.webkitgtk.service import Service

from orchard.inference.model import Model
from profiles import wide_gamut
from waiting import wait_until

from .visitor import SEEN, STARTED, Site, assert_as_in_the_pipeline, cannot


@pytest.fixture
def webkit(tmp_path: Path) -> Iterator[WebKitGTK]:
    """A private window: automation gives no other."""
    browsers = sorted(Path("/usr").glob("lib*/*/webkit2gtk-4.*/MiniBrowser"))
    driver, screen = shutil.which("WebKitWebDriver"), shutil.which("Xvfb")
    if not (browsers and driver and screen):
        cannot("there is no WebKit: install webkit2gtk-driver and xvfb")
    ours, theirs = os.pipe()
    with subprocess.Popen([screen, "-displayfd", str(theirs), "-nolisten", "tcp"], pass_fds=[theirs]) as display:
        try:
            os.close(theirs)
            environment = os.environ | {"DISPLAY": f":{os.read(ours, 16).decode().strip()}", "HOME": str(tmp_path)}
            options = Options()
            options.binary_location = str(browsers[-1])
            options.add_argument("--automation")
            window = WebKitGTK(options=options, service=Service(driver, env=environment))
            try:
                yield window
            finally:
                window.quit()
        finally:
            os.close(ours)
            display.terminate()


def text(window: WebKitGTK, selector: str) -> str:
    return str(window.execute_script("return document.querySelector(arguments[0])?.innerText ?? ''", selector))


def choose(window: WebKitGTK, photo: Path) -> None:
    window.find_element(By.ID, "choose").send_keys(str(photo))


def wait(condition: Callable[[], Any]) -> None:
    wait_until(condition, 3 * STARTED / 1000)  # a browser begins, too


@pytest.mark.usefixtures("npm_parts")
def test_a_private_window_answers_keeps_corrections_and_needs_no_connection(
    webkit: WebKitGTK, model: Model, photo: Callable[[str], Path], tmp_path: Path
) -> None:
    wide = tmp_path / "wide.jpg"
    Image.open(photo("Raspberry")).save(wide, quality=95, icc_profile=wide_gamut("Display P3"))
    site = Site.start(model)
    try:
        webkit.get(site.url)
        wait(lambda: webkit.find_elements(By.CSS_SELECTOR, "#state[data-state=offline]"))
        choose(webkit, photo("Mango"))
        wait(lambda: text(webkit, "#cards > li .by"))
        assert text(webkit, "#cards > li h3") == "Mango"
        assert "Answered by this device" in text(webkit, "#cards > li .by")

        answered = f"({SEEN})(arguments[0]).then(arguments[1], (error) => arguments[1](String(error)))"
        assert_as_in_the_pipeline(webkit.execute_async_script(answered, list(wide.read_bytes())), wide)

        webkit.find_element(By.CSS_SELECTOR, "#cards > li .wrong").click()
        webkit.find_element(By.CSS_SELECTOR, "#cards > li form input").send_keys("Papaya 2")
        webkit.find_element(By.CSS_SELECTOR, "#cards > li form [type=submit]").click()
        wait(lambda: text(webkit, "#cards > li .note"))
        assert "Kept on this device as Papaya 2" in text(webkit, "#cards > li .note")
    finally:
        site.stop()

    webkit.refresh()
    wait(lambda: webkit.find_elements(By.CSS_SELECTOR, "#state[data-state=offline]"))
    assert text(webkit, "#corrections-count") == "1 correction"
    choose(webkit, photo("Raspberry"))
    wait(lambda: text(webkit, "#cards > li .by"))
    assert text(webkit, "#cards > li h3") == "Raspberry"
