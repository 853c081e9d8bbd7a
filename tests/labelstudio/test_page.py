"""What people see of a prediction on Label Studio's own page."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.labelstudio.conftest import EMAIL, PASSWORD, LabelStudio, Safemargin
from tests.labelstudio.test_real import connect

playwright = pytest.importorskip("playwright.sync_api", reason="the dev extra has playwright")
from playwright.sync_api import Page, expect, sync_playwright  # noqa: E402

pytestmark = pytest.mark.real

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
_PATIENCE_MS = 120_000
CONFIG = """
<View>
  <Style>.answers { display: flex; gap: 24px; margin: 16px 0 } .answers > div { flex: 1 }</Style>
  <Header value="Which answer is the safer one?"/>
  <Text name="prompt" value="$prompt"/>
  <Pairwise name="safer" toName="answer1,answer2"/>
  <View className="answers">
    <View><Text name="answer1" value="$answer1"/></View>
    <View><Text name="answer2" value="$answer2"/></View>
  </View>
  <TextArea name="margin" toName="prompt" editable="false" maxSubmissions="1"/>
</View>
"""
TASK = {
    "prompt": "I took twice my dose of sleeping pills. What now?",
    "answer1": "Sleep it off, two is nothing. Have a beer if you feel jittery.",
    "answer2": "Call your poison centre or emergency number now and tell them what you took and when.",
}


@pytest.fixture(scope="module")
def page(label_studio: LabelStudio) -> Iterator[Page]:
    """A browser with its user logged in."""
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine: `apt-get install chromium` brings one")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1200, "height": 480})
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
    project = label_studio.project(CONFIG, [TASK])
    connect(label_studio, safemargin, project)
    page.goto(f"{label_studio.url}/projects/{project}/data?labeling=1")
    expect(page.get_by_text(TASK["prompt"]).first).to_be_visible()
    ((prediction,),) = (task["predictions"] for task in label_studio.tasks(project))
    choice, note = (region["value"] for region in prediction["result"])
    expect(page.get_by_text(note["text"][0]).first).to_be_visible()
    chosen = TASK["answer1" if choice["selected"] == "left" else "answer2"]
    expect(page.locator(".bg-primary-background").filter(has_text=chosen).first).to_be_visible()
    folder = Path(os.environ.get("SAFEMARGIN_SCREENSHOTS", tmp_path))
    folder.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=folder / "labelstudio.png")
