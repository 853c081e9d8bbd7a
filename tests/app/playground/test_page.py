"""The page as a whole: keys, reports, and what makes it usable by everybody."""

import json
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from app.auth.keys import Keys
from app.settings import Settings
from tests.app.conftest import Station
from tests.app.playground.conftest import Open, Shoot, served

VIEWS = ["pair", "responses", "files", "directions"]
CONTRAST = """
() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const over = (colours) => {
    canvas.clearRect(0, 0, 1, 1);
    for (const colour of colours) {
      canvas.fillStyle = colour;
      canvas.fillRect(0, 0, 1, 1);
    }
    return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const light = (rgb) => {
    const [r, g, b] = rgb.map((v) => v / 255).map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const poor = [];
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const element = texts.currentNode.parentElement;
    const skipped = !element.checkVisibility() || element.closest("svg title, option, :disabled, .unseen");
    if (skipped || !texts.currentNode.data.trim()) continue;
    const layers = [];
    for (let at = element; at; at = at.parentElement) layers.unshift(getComputedStyle(at).backgroundColor);
    const behind = over(layers);
    const { fill, color } = getComputedStyle(element);
    const front = over([...layers, element.closest("svg") ? fill : color]);
    const [a, b] = [light(behind), light(front)].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < 4.5) poor.push(`${element.className || element.tagName}: ${ratio.toFixed(2)}`);
  }
  return poor;
}
"""
UNNAMED = """
() => [...document.querySelectorAll("button, a, input, select, textarea, [role=img]")]
  .filter((one) => one.checkVisibility())
  .filter((one) => !(one.getAttribute("aria-label") || one.labels?.[0]?.textContent.trim() || one.textContent.trim()))
  .map((one) => one.outerHTML.slice(0, 80))
"""


def with_a_result(page: Page) -> None:
    page.get_by_label("rules, too").check()
    page.get_by_role("button", name="Annotate").click()
    page.locator("#pair-result .rules").wait_for()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_what_is_behind_it(visit: Open, scheme: Any) -> None:
    page = visit(color_scheme=scheme)
    with_a_result(page)
    assert page.evaluate(CONTRAST) == []
    home = page.url.split("#")[0]
    page.goto(home + "#/directions")
    page.locator("#direction-list table").wait_for()
    assert page.evaluate(CONTRAST) == []
    page.goto(home + "#/responses")
    page.get_by_role("button", name="Order by safety").click()
    page.locator("#responses-result .token").first.wait_for()
    assert page.evaluate(CONTRAST) == []
    page.goto(home + "#/files")
    page.get_by_role("button", name="Use the example pairs").click()
    page.locator("#job-result .figures").wait_for()
    assert page.evaluate(CONTRAST) == []
    page.get_by_role("link", name="Review").click()
    page.locator("#review-item .response").first.wait_for()
    page.keyboard.press("w")
    page.locator("#review-why .token").first.wait_for()
    assert page.evaluate(CONTRAST) == []


def test_everything_that_can_be_used_has_a_name(visit: Open) -> None:
    page = visit()
    with_a_result(page)
    assert page.evaluate(UNNAMED) == []
    for view in VIEWS[1:]:
        page.goto(page.url.split("#")[0] + f"#/{view}")
        page.locator(f"[data-view={view}]").wait_for()
        assert page.evaluate(UNNAMED) == []


def test_focus_can_be_seen(visit: Open) -> None:
    page = visit()
    expect(page.locator("#options")).to_be_visible()
    for _ in range(8):
        page.keyboard.press("Tab")
        outline = page.evaluate("getComputedStyle(document.activeElement).outlineWidth")
        assert float(outline.removesuffix("px")) >= 2


def test_a_narrow_screen_is_not_scrolled_sideways(visit: Open, shoot: Shoot) -> None:
    page = visit(viewport={"width": 360, "height": 740})
    with_a_result(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    shoot(page, "narrow")
    page.get_by_role("link", name="Directions").click()
    page.locator("#direction-list table").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_a_service_that_is_busy_says_when_to_come_back(visit: Open, shoot: Shoot) -> None:
    page = visit()
    full = {"detail": "the queue is full", "errors": [{"pointer": "/pairs", "detail": "too many"}]}
    busy = {"status": 503, "headers": {"Retry-After": "7"}, "content_type": "application/problem+json"}
    page.route("**/annotate", lambda route: route.fulfill(**busy, body=json.dumps(full)))
    page.get_by_role("button", name="Annotate").click()
    expect(page.get_by_role("alert")).to_have_text("The queue is full; too many (/pairs); try again in 7 s.")
    shoot(page, "busy")


def test_a_service_that_becomes_ready_is_used_without_a_reload(visit: Open) -> None:
    page = visit()
    away = {"status": 503, "content_type": "application/problem+json", "body": json.dumps({"detail": "no worker"})}
    for path in ("**/readyz", "**/directions"):
        page.route(path, lambda route: route.fulfill(**away))
    page.clock.install()
    page.reload()
    directions = page.locator("#options [name=direction] option")
    expect(page.locator("#health")).to_have_text("not ready")
    expect(directions).to_have_count(0)
    page.unroute_all()
    page.clock.run_for(15_000)
    expect(page.locator("#health")).to_have_text("ready, 1 worker")
    expect(directions).to_have_count(2)


def test_results_are_announced(visit: Open) -> None:
    page = visit()
    for name in ("#pair-result", "#responses-result", "#review-status"):
        expect(page.locator(name)).to_have_attribute("aria-live", "polite")
    expect(page.get_by_role("status").first).to_contain_text("ready, 1 worker")


def test_reports_are_one_click_away(visit: Open) -> None:
    page = visit("/#/directions")
    expect(page.locator("#direction-list tbody tr")).to_have_count(2)
    with page.context.expect_page() as opened:
        page.get_by_role("link", name="Report of kind").click()
    expect(opened.value).to_have_title("Direction kind · Safemargin")


def test_a_service_that_asks_for_keys_is_used_with_one(
    visit: Open, station: Station, config: Settings, shoot: Shoot
) -> None:
    _, text = Keys(station.registry.artifacts).create("browser", "team-a", ["annotate"])
    with served(config.model_copy(update={"auth": True})) as url:
        page = visit(url=url)
        expect(page.get_by_role("alert")).to_contain_text("An API key is needed")
        page.get_by_role("button", name="Enter a key").click()
        shoot(page, "key")
        page.get_by_label("Key", exact=True).fill(text)
        page.get_by_role("button", name="Use it").click()
        expect(page.locator("#options")).to_be_visible()
        with_a_result(page)
        with page.expect_download() as saved:
            page.get_by_role("link", name="Report").first.click()
        assert "Direction kind" in saved.value.path().read_text()
        page.reload()
        expect(page.locator("#options")).to_be_visible()
        assert page.evaluate("localStorage.length") == 0, "a key outlives no tab"
        page.get_by_role("button", name="API key").click()
        page.get_by_role("button", name="Forget it").click()
        expect(page.get_by_role("alert")).to_contain_text("An API key is needed")
        page.context.close()
