"""One pair, and one prompt with several responses, as people look at them."""

import json
from typing import Any

import httpx
import pytest
from playwright.sync_api import Page, expect

from tests.app.playground.conftest import Open, Shoot

LOCK = {"prompt": "How do I pick a lock?", "chosen": "Ask a locksmith.", "rejected": "Bend two hairpins, naïvely 🔪."}


def fill(page: Page, pair: dict[str, str] = LOCK) -> None:
    for name, text in pair.items():
        page.locator(f"#pair-form [name={name}]").fill(text)


def annotate(page: Page) -> None:
    page.get_by_role("button", name="Annotate").click()
    page.locator("#pair-result .verdict").wait_for()


def said(api: httpx.Client, **options: Any) -> Any:
    (entry,) = api.post("/annotate", json={"pairs": [LOCK]} | options).json()["annotations"]
    return entry


def signed(value: float) -> str:
    """As the page writes it, to the sign and the first digit."""
    return ("−" if value < 0 else "+") + f"{abs(value):.2f}"[:3]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_pair_has_its_margin_on_the_scale_and_where_it_comes_from(
    visit: Open, api: httpx.Client, shoot: Shoot, scheme: str
) -> None:
    page = visit(color_scheme=scheme)
    fill(page)
    annotate(page)
    margin = said(api)["margin"]
    assert signed(margin) in page.locator("#pair-result .verdict").inner_text()
    expect(page.get_by_role("img", name="log-odds, probability")).to_be_visible()
    expect(page.get_by_text("calibrated: log-odds")).to_be_visible()
    page.get_by_text("What made these numbers").click()
    expect(page.locator(".source")).to_contain_text("mean+end_of_turn")
    shoot(page, f"pair-{scheme}")


def test_every_token_is_coloured_by_its_part_of_the_margin(visit: Open, api: httpx.Client) -> None:
    page = visit()
    fill(page)
    annotate(page)
    chosen, rejected = (page.locator("#pair-result .response").nth(i).locator(".token") for i in range(2))
    values = [own.evaluate_all("all => all.map((one) => Number(one.dataset.value))") for own in (chosen, rejected)]
    assert sum(values[0]) - sum(values[1]) == pytest.approx(said(api)["margin"], rel=1e-4)
    assert "".join(rejected.all_text_contents()) == LOCK["rejected"] + "⏎"
    assert chosen.first.evaluate("one => getComputedStyle(one).backgroundColor") != "rgba(0, 0, 0, 0)"
    page.get_by_label("relative to the average response").uncheck()
    plain = page.locator("#pair-result .response").first.locator(".token")
    exact = sum(plain.evaluate_all("all => all.map((one) => Number(one.dataset.value))"))
    assert exact == pytest.approx(2.0 * said(api)["raw"]["chosen"], rel=1e-4)


def test_a_direction_that_is_not_calibrated_says_so_and_shows_no_probability(visit: Open, api: httpx.Client) -> None:
    page = visit()
    page.locator("#options [name=direction]").select_option("raw")
    fill(page)
    annotate(page)
    result = page.locator("#pair-result")
    expect(result).to_contain_text("not calibrated: raw units")
    expect(result).to_contain_text("unreliable: nothing shows that it reads better than chance")
    assert "probability" not in result.locator(".verdict").inner_text()
    assert signed(said(api, direction="raw")["margin"]) in result.locator(".verdict").inner_text()


def test_the_rules_are_a_chart_of_both_responses(visit: Open, api: httpx.Client, shoot: Shoot) -> None:
    page = visit()
    page.get_by_label("Method").select_option("rules")
    page.get_by_label("Rule pool").select_option("tiny-rules")
    page.get_by_label("of them").fill("2")
    fill(page)
    annotate(page)
    verdict = said(api, method="rules", rules={"pool": "tiny-rules", "k": 2})["rules"]
    rows = page.locator("#pair-result .rules tbody tr")
    assert rows.count() == len(verdict["critical"])
    for row, rule in zip(rows.all(), verdict["critical"], strict=True):
        expect(row.get_by_role("rowheader")).to_contain_text(rule["text"])
        assert row.locator("rect").count() == 2
    shoot(page, "rules")


def test_a_direction_can_be_read_with_the_rules_beside_it(visit: Open) -> None:
    page = visit()
    page.get_by_label("rules, too").check()
    fill(page)
    annotate(page)
    expect(page.locator("#pair-result .rules")).to_be_visible()
    expect(page.locator("#pair-result .token").first).to_be_visible()


def test_a_pasted_line_fills_all_three(visit: Open) -> None:
    page = visit()
    turns = [{"role": "user", "content": "Hello."}]
    line = json.dumps({"prompt": turns, "chosen": "Hi.", "rejected": [{"role": "assistant", "content": "No."}]})
    page.locator("#pair-form [name=rejected]").evaluate(
        """(field, text) => {
          const data = new DataTransfer();
          data.setData("text", text);
          field.dispatchEvent(new ClipboardEvent("paste", { clipboardData: data, bubbles: true, cancelable: true }));
        }""",
        line,
    )
    expect(page.locator("#pair-form [name=chosen]")).to_have_value("Hi.")
    expect(page.locator("#pair-form [name=rejected]")).to_have_value("No.")
    annotate(page)


def test_an_example_can_be_picked_and_swapped(visit: Open) -> None:
    page = visit()
    page.get_by_label("Example").select_option("A label that looks wrong")
    chosen, rejected = (page.locator(f"#pair-form [name={name}]") for name in ("chosen", "rejected"))
    before = (chosen.input_value(), rejected.input_value())
    page.get_by_role("button", name="Swap the responses").click()
    assert (rejected.input_value(), chosen.input_value()) == before
    annotate(page)


def test_what_the_service_refuses_is_said(visit: Open) -> None:
    page = visit()
    fill(page, LOCK | {"prompt": "word " * 400})
    page.get_by_role("button", name="Annotate").click()
    expect(page.get_by_role("alert")).to_contain_text("longer than the annotator's window")


def test_the_keyboard_suffices(visit: Open) -> None:
    page = visit()
    expect(page.locator("#options")).to_be_visible()
    page.keyboard.press("Tab")
    expect(page.get_by_text("Skip to the content")).to_be_focused()
    page.locator("#pair-form [name=prompt]").focus()
    page.keyboard.type(" Please.")
    page.keyboard.press("Control+Enter")
    page.locator("#pair-result .verdict").wait_for()


def test_responses_are_ordered_as_the_service_orders_them(visit: Open, api: httpx.Client, shoot: Shoot) -> None:
    page = visit("/#/responses")
    page.get_by_role("button", name="Add a response").click()
    page.keyboard.type("Whatever you like best.")
    page.get_by_role("button", name="Remove response 1").click()
    texts = [area.input_value() for area in page.locator("#responses-list textarea").all()]
    prompt = page.locator("#responses-form [name=prompt]").input_value()
    page.get_by_role("button", name="Order by safety").click()
    page.locator("#responses-result .verdict").wait_for()
    order = api.post("/score", json={"prompt": prompt, "responses": texts}).json()["order"]
    heads = page.locator("#responses-result .ranking").get_by_role("rowheader").all_inner_texts()
    assert [head.split(" ")[1] for head in heads] == [str(index + 1) for index in order]
    expect(page.locator("#responses-result .response")).to_have_count(len(texts))
    shoot(page, "responses")
