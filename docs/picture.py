"""``python docs/picture.py`` takes ``docs/pictures/page.png``, which the README shows; needs extra ``browser`` and Chromium."""

from __future__ import annotations

import shutil
from pathlib import Path

from playwright.sync_api import sync_playwright

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "results" / "cifar10_cpu" / "index.html"

if __name__ == "__main__":
    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 1400})
        page.goto(PAGE.as_uri())
        page.wait_for_selector("figure svg")
        page.screenshot(path=ROOT / "docs" / "pictures" / "page.png")
        browser.close()
