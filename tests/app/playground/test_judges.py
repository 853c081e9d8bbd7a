"""Taught models and reward models of the store, as the page lets them say a margin."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Page, expect

from app.alignments import Alignments
from app.rewards import RewardModels
from tests.app.conftest import Station
from tests.app.playground.conftest import Open
from tests.app.playground.test_pair import LOCK, annotate, fill, signed
from tests.workers.alignment.shelf import put as put_alignment
from tests.workers.rewards.shelf import classifier
from tests.workers.rewards.shelf import put as put_model
from workers.engine.annotator import Annotator

ASKED: dict[str, dict[str, str]] = {
    "rahf": {"method": "rahf", "alignment": "kinder"},
    "reward": {"method": "reward", "reward_model": "mine"},
}


@pytest.fixture(autouse=True)
def shelved(station: Station, annotator: Annotator, tmp_path: Path) -> Iterator[None]:
    """One of each in the store; gone afterwards."""
    alignments, models = Alignments(station.registry.artifacts), RewardModels(station.registry.artifacts)
    put_alignment(alignments, annotator, "kinder", method="rahf-dual")
    put_model(models, classifier(tmp_path / "mine"), "mine")
    yield
    alignments.delete("kinder")
    models.delete("mine")


def choose(page: Page, method: str) -> None:
    """A method, and the only model there is for it."""
    page.get_by_label("Method").select_option(method)
    field, name = list(ASKED[method].items())[1]
    expect(page.locator(f"#options [name={field.removesuffix('_model')}]")).to_have_value(name)


@pytest.mark.parametrize("method", ASKED)
def test_a_pair_has_the_models_margin_and_no_contributions(visit: Open, api: httpx.Client, method: str) -> None:
    page = visit()
    choose(page, method)
    expect(page.locator("#options [name=direction]")).to_be_hidden()
    fill(page)
    annotate(page)
    answer = api.post("/annotate", json={"pairs": [LOCK]} | ASKED[method]).json()
    (entry,) = answer["annotations"]
    result = page.locator("#pair-result")
    expect(result.locator(".verdict")).to_contain_text(signed(entry["margin"]))
    expect(result.locator(".verdict")).to_contain_text(f"level {entry['level']} of 3")
    expect(page.get_by_role("img", name="log-odds, probability")).to_be_visible()
    expect(result.locator(".token")).to_have_count(0)
    page.get_by_text("What made these numbers").click()
    expect(page.locator(".source")).to_contain_text(ASKED[method].get("alignment", "mine"))


def test_a_reward_model_orders_responses(visit: Open, api: httpx.Client) -> None:
    page = visit("/#/responses")
    choose(page, "reward")
    texts = [area.input_value() for area in page.locator("#responses-list textarea").all()]
    prompt = page.locator("#responses-form [name=prompt]").input_value()
    page.get_by_role("button", name="Order by safety").click()
    page.locator("#responses-result .verdict").wait_for()
    order = api.post("/score", json={"prompt": prompt, "responses": texts} | ASKED["reward"]).json()["order"]
    heads = page.locator("#responses-result .ranking").get_by_role("rowheader").all_inner_texts()
    assert [head.split(" ")[1] for head in heads] == [str(index + 1) for index in order]
    expect(page.locator("#responses-result .token")).to_have_count(0)


def test_responses_are_not_ordered_by_what_cannot(visit: Open) -> None:
    page = visit()
    choose(page, "rahf")
    page.get_by_role("link", name="Responses").click()
    expect(page.get_by_label("Method")).to_have_value("margin")
    expect(page.locator("#options [value=rahf]")).to_be_disabled()


@pytest.mark.parametrize("method", ASKED)
def test_a_file_is_annotated_and_reviewed_with_it(visit: Open, api: httpx.Client, method: str) -> None:
    page = visit("/#/files")
    choose(page, method)
    rows = [LOCK, LOCK | {"chosen": LOCK["rejected"], "rejected": LOCK["chosen"]}]
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    page.get_by_label("File of pairs").set_input_files({"name": "p", "mimeType": "text/plain", "buffer": content})
    page.get_by_role("button", name="Upload and annotate").click()
    page.locator("#job-result .figures").wait_for()
    job = page.url.rsplit("/", 1)[1]
    made: list[dict[str, Any]] = [json.loads(line) for line in api.get(f"/jobs/{job}/results").text.splitlines()]
    assert {row["provenance"]["method"] for row in made} == {method}
    page.get_by_role("link", name="Review 1 label conflict").click()
    page.locator("#review-item .response").first.wait_for()
    expect(page.get_by_role("button", name="Why?")).to_be_hidden()
