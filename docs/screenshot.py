"""Take a picture of a report: ``python docs/screenshot.py REPORT.html OUT.png [--width 1280] [--dark]``."""

import argparse
import shutil
from pathlib import Path

from playwright.sync_api import sync_playwright

ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def screenshot(
    report: Path, picture: Path, width: int = 1280, height: int | None = None, *, dark: bool = False
) -> None:
    """Write a PNG of the page as Chromium shows it at a width: its first ``height`` pixels, or all of it."""
    browser_path = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path, args=list(ARGUMENTS))
        page = browser.new_page(
            viewport={"width": width, "height": height or 900}, color_scheme="dark" if dark else "light"
        )
        page.goto(report.resolve().as_uri())
        page.screenshot(path=picture, full_page=height is None)
        browser.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("report", type=Path)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--width", type=int, default=1280)
    parser.add_argument("--height", type=int, help="only the first pixels of the page; all of it by default")
    parser.add_argument("--dark", action="store_true")
    options = parser.parse_args()
    screenshot(options.report, options.picture, options.width, options.height, dark=options.dark)
