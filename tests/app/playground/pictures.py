"""Pictures of the playground for the documentation, on the whole service with the default annotator.

`python -m tests.app.playground.pictures docs/images`; all text in them is that of the page's own examples.
"""

import io
import os
import sys
from pathlib import Path
from typing import Literal

from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

from app.settings import Settings
from cli.stack import Stack
from tests.app.playground.conftest import CHROMIUM

WIDTH = 1100
COLOURS = 256
Scheme = Literal["light", "dark"]
SCHEMES: dict[str, Scheme] = {"playground": "light", "playground-dark": "dark"}
MOST_BYTES = 250_000


def opened(browser: Browser, url: str, scheme: Scheme = "light", height: int = 800) -> Page:
    """A page of the service."""
    page = browser.new_page(viewport={"width": WIDTH, "height": height}, color_scheme=scheme)
    page.goto(url)
    return page


def pair(page: Page) -> None:
    """A pair with its tokens and rules."""
    page.get_by_label("rules, too").check()
    page.get_by_label("of them").fill("3")
    page.get_by_role("button", name="Annotate").click()
    page.locator("#pair-result .rules").wait_for()
    page.mouse.move(0, 0)


def responses(page: Page) -> None:
    """Responses in their order."""
    page.get_by_role("link", name="Responses").click()
    page.get_by_role("button", name="Order by safety").click()
    page.locator("#responses-result .verdict").wait_for()
    page.mouse.move(0, 0)


def job(page: Page) -> None:
    """A finished job."""
    page.get_by_role("link", name="Files").click()
    page.get_by_role("button", name="Use the example pairs").click()
    page.locator("#job-result .figures").wait_for()


def review(page: Page) -> None:
    """Its conflicts, one of them decided, and why the next one is one."""
    page.get_by_role("link", name="Review").click()
    page.locator("#review-item .response").first.wait_for()
    page.get_by_label("Your name").fill("Ada")
    page.keyboard.press("Enter")
    page.keyboard.press("f")
    page.locator("#review-status", has_text="1 flipped").wait_for()
    page.locator("#review-item .response").first.wait_for()
    page.keyboard.press("w")
    page.locator("#review-why .token").first.wait_for()


def keep(page: Page, path: Path, *, whole: bool) -> None:
    """A picture in few colours, and so of few bytes."""
    image = Image.open(io.BytesIO(page.screenshot(full_page=whole))).convert("RGB")
    image.quantize(COLOURS, dither=Image.Dither.NONE).save(path, optimize=True)
    assert path.stat().st_size <= MOST_BYTES, path


def take(url: str, folder: Path) -> None:
    """Take all of them."""
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        for name, scheme in SCHEMES.items():
            page = opened(browser, url, scheme)
            pair(page)
            keep(page, folder / f"{name}.png", whole=True)
        page = opened(browser, url)
        responses(page)
        keep(page, folder / "responses.png", whole=True)
        job(page)
        keep(page, folder / "job.png", whole=False)
        page.set_viewport_size({"width": WIDTH, "height": 1180})
        review(page)
        keep(page, folder / "review.png", whole=True)
        report = opened(browser, f"{url}/directions/balanced/report", height=1115)
        keep(report, folder / "report.png", whole=False)
        browser.close()


def main() -> None:
    """Of a service that runs where `SAFEMARGIN_URL` says, or of one started for the while."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    running = os.environ.get("SAFEMARGIN_URL")
    if running:
        take(running, folder)
        return
    with Stack(Settings(port=0), quiet=True) as stack:
        stack.wait_until_ready()
        take(stack.url, folder)


if __name__ == "__main__":
    main()
