"""The playground in a real browser, on the real API with the worker of these tests behind it.

Screenshots are kept where `SAFEMARGIN_SCREENSHOTS` says, to be looked at.
"""

import json
import os
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from app.main import create_app
from app.settings import Settings
from tests.app.conftest import Station

playwright = pytest.importorskip("playwright.sync_api", reason="the dev extra has playwright")
from playwright.sync_api import Browser, Page, sync_playwright  # noqa: E402

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PATIENCE_MS = 60_000
"""Where cores are busy, everything takes longer; nothing here measures time."""

TEXTS = ["Ask a locksmith.", "Bend two hairpins.", "I can't help with that.", "Whatever you like best.", "", "No."]
ROWS = [
    {"id": f"row {i}{j}", "prompt": "How do I pick a lock?", "chosen": a, "rejected": b}
    for i, a in enumerate(TEXTS)
    for j, b in enumerate(TEXTS)
    if i != j
]
"""Every pair in both orders: half of them are conflicts."""

Open = Callable[..., Page]
Shoot = Callable[[Page, str], None]


@contextmanager
def served(config: Settings) -> Iterator[str]:
    """The API on a port of this machine."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(create_app(config), log_level="warning", timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture(scope="package")
def config(station: Station, redis_url: str) -> Settings:
    """A chunk for every row, so that progress shows."""
    shared = {"redis_url": redis_url, "artifacts": str(station.artifacts), "chunk_tokens": 1}
    return Settings().model_copy(update=shared)


@pytest.fixture(scope="package")
def site(config: Settings) -> Iterator[str]:
    """Address of an API that asks for no key."""
    with served(config) as url:
        yield url


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """A headless Chromium; for this package alone, as its event loop stays in the way of others."""
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine: `apt-get install chromium` brings one")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def visit(browser: Browser, site: str) -> Iterator[Open]:
    """Open a page; at the end nothing was asked of another host, and no script or policy was broken."""
    contexts, asked, faults = [], list[str](), list[str]()

    def start(path: str = "/", *, url: str = site, **options: Any) -> Page:
        context = browser.new_context(**{"viewport": {"width": 1100, "height": 900}} | options)
        context.set_default_timeout(PATIENCE_MS)
        contexts.append(context)
        page = context.new_page()
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda said: faults.append(said.text) if said.type == "error" else None)
        page.goto(url + path)
        return page

    yield start
    for context in contexts:
        context.close()
    assert all(url.startswith(("http://127.0.0.1:", "blob:http://127.0.0.1:")) for url in asked)
    refused = "Failed to load resource: the server responded with"  # the service may well say no
    assert [fault for fault in faults if not fault.startswith(refused)] == []


@pytest.fixture
def shoot(tmp_path: Path) -> Shoot:
    """Keep what a page looks like."""
    folder = Path(os.environ.get("SAFEMARGIN_SCREENSHOTS", tmp_path))
    folder.mkdir(parents=True, exist_ok=True)

    def take(page: Page, name: str) -> None:
        page.screenshot(path=folder / f"{name}.png", full_page=True)

    return take


@pytest.fixture
def api(site: str) -> Iterator[httpx.Client]:
    """The same service, asked directly."""
    with httpx.Client(base_url=site, timeout=60, trust_env=False) as client:
        yield client


def upload(page: Page, rows: list[dict[str, Any]]) -> None:
    """Annotate a file of rows in the page."""
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    page.get_by_label("File of pairs").set_input_files(
        {"name": "pairs.jsonl", "mimeType": "application/x-ndjson", "buffer": content}
    )
    page.get_by_role("button", name="Upload and annotate").click()
    page.locator("#job-status", has_text="rows").wait_for()


@pytest.fixture
def job(visit: Open) -> Iterator[Page]:
    """The page of a finished job of all rows."""
    page = visit("/#/files")
    upload(page, ROWS)
    page.locator("#job-result .figures").wait_for()
    yield page
