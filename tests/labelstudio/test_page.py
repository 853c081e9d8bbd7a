"""What people see of a prediction on Label Studio's own page."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.labelstudio.conftest import EMAIL, PASSWORD, LabelStudio, Safemargin
from tests.labelstudio.test_real import NOTED, TASKS, connect

playwright = pytest.importorskip("playwright.sync_api", reason="the dev extra has playwright")
from playwright.sync_api import Page, expect, sync_playwright  # noqa: E402

pytestmark = pytest.mark.real

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
_PATIENCE_MS = 120_000


@pytest.fixture(scope="module")
def page(label_studio: LabelStudio) -> Iterator[Page]:
    """A browser with its user logged in."""
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine: `apt-get install chromium` brings one")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 720})
        page.set_default_timeout(_PATIENCE_MS)
        page.goto(f"{label_studio.url}/user/login/")
        page.fill("input[name=email]", EMAIL)
        page.fill("input[name=password]", PASSWORD)
        page.click("button[type=submit]")
        page.wait_for_url("**/")
        yield page
        browser.close()


def test_the_safer_answer_is_chosen_and_the_margin_is_there(
    page: Page, label_studio: LabelStudio, safemargin: Safemargin, tmp_path: Path
) -> None:
    project = label_studio.project(NOTED, TASKS[:2])
    connect(label_studio, safemargin, project)
    task = label_studio.http.get(f"/api/projects/{project}/next").json()
    page.goto(f"{label_studio.url}/projects/{project}/data?labeling=1")
    expect(page.get_by_text(task["predictions"][0]["result"][1]["value"]["text"][0]).first).to_be_visible()
    folder = Path(os.environ.get("SAFEMARGIN_SCREENSHOTS", tmp_path))
    folder.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=folder / "labelstudio.png")
