"""The review of a job's label conflicts: decided, kept, and exported."""

import json
from typing import Any

import httpx
import pytest
from playwright.sync_api import Page, Route, expect

from tests.app.playground.conftest import ROWS, Open, Shoot, upload

FILL = """
() => {
  let count = 0;
  for (let size = 1 << 22; size; size >>= 1) {
    try {
      for (;;) localStorage.setItem(count++, "x".repeat(size));
    } catch {}
  }
}
"""
"""Until not another letter fits into the browser's storage."""
FORBID = """
for (const name of ["localStorage", "sessionStorage"])
  Object.defineProperty(window, name, { get() { throw new DOMException("no", "SecurityError"); } });
"""


def conflicts_of(page: Page, api: httpx.Client) -> list[dict[str, Any]]:
    """The job's conflicts, the strongest first."""
    name = page.url.rsplit("/", 1)[1]
    rows = [json.loads(line) for line in api.get(f"/jobs/{name}/results").text.splitlines()]
    found = [row for row in rows if row["annotation"]["label_conflict"]]
    return sorted(found, key=lambda row: float(row["annotation"]["margin"]))


def test_conflicts_are_reviewed_by_the_keyboard_and_exported(job: Page, api: httpx.Client, shoot: Shoot) -> None:
    conflicts = conflicts_of(job, api)
    job.get_by_role("link", name="Review").click()
    status, title = job.locator("#review-status"), job.locator("#review-item h2")
    expect(title).to_contain_text(f"Line {conflicts[0]['line']}")
    job.keyboard.press("k")
    expect(status).to_contain_text("Say your name first")
    expect(job.get_by_label("Your name")).to_be_focused()
    job.keyboard.type("Ada")
    job.locator("#main").focus()
    for key, said, place in (
        ("k", "kept", 1),
        ("f", "flipped", 2),
        ("f", "flipped", 3),
        ("u", "again", 2),
        ("s", "skipped", 3),
    ):
        job.keyboard.press(key)
        expect(status).to_contain_text(said)
        expect(title).to_contain_text(f"Line {conflicts[place]['line']} ")
    expect(status).to_contain_text(f"3 of {len(conflicts)} decided (1 kept, 1 flipped, 1 skipped)")
    shoot(job, "review")
    job.reload()
    expect(status).to_contain_text(f"3 of {len(conflicts)} decided")
    expect(title).to_contain_text(f"Line {conflicts[3]['line']}")
    with job.expect_download() as saved:
        job.get_by_role("button", name="Export the reviewed set").click()
    check_export([json.loads(line) for line in saved.value.path().read_text().splitlines()], conflicts)


def check_export(rows: list[dict[str, Any]], conflicts: list[dict[str, Any]]) -> None:
    """All rows in order, three of them decided by Ada, the second exchanged."""
    assert [row["line"] for row in rows] == list(range(1, len(ROWS) + 1))
    by_line = {row["line"]: row for row in rows}
    kept, flipped, skipped = (by_line[conflict["line"]] for conflict in conflicts[:3])
    assert [own["review"]["decision"] for own in (kept, flipped, skipped)] == ["keep", "flip", "skip"]
    assert {own["review"]["by"] for own in (kept, flipped, skipped)} == {"Ada"}
    assert all(own["review"]["at"].endswith("Z") for own in (kept, flipped, skipped))
    assert sum(row["review"] is not None for row in rows) == 3
    source, other = ROWS[flipped["line"] - 1], ROWS[kept["line"] - 1]
    assert (flipped["chosen"], flipped["rejected"]) == (source["rejected"], source["chosen"])
    assert flipped["margin"] == pytest.approx(-conflicts[1]["annotation"]["margin"])
    assert (kept["chosen"], kept["rejected"], kept["id"]) == (other["chosen"], other["rejected"], other["id"])
    assert (kept["label_conflict"], flipped["label_conflict"]) == (True, False)


def test_the_reviewed_set_says_which_rows_are_not_in_it(visit: Open) -> None:
    page = visit("/#/files")
    upload(page, [*ROWS[:4], {"prompt": "Hello?"}, ROWS[5] | {"prompt": "word " * 400}])
    page.get_by_role("link", name="Review").click()
    expect(page.locator("#review-scope")).to_have_text(
        "4 pairs are in the reviewed set. 2 rows without a margin are not."
    )
    with page.expect_download() as saved:
        page.get_by_role("button", name="Export the reviewed set").click()
    assert len(saved.value.path().read_text().splitlines()) == 4
    expect(page.locator("#review-scope")).to_contain_text("4 pairs are in the reviewed set")


def test_two_tabs_of_one_browser_lose_no_decision_of_each_other(job: Page, api: httpx.Client) -> None:
    second = conflicts_of(job, api)[1]["line"]
    job.get_by_role("link", name="Review").click()
    other = job.context.new_page()
    other.goto(job.url)
    for page in (job, other):
        page.locator("#review-item .response").first.wait_for()
        page.get_by_label("Your name").fill("Ada")
        page.locator("#main").focus()
    job.keyboard.press("k")
    expect(job.locator("#review-status")).to_contain_text("1 of 15 decided")
    other.keyboard.press("s")
    expect(other.locator("#review-status")).to_contain_text("1 of 15 decided (0 kept, 0 flipped, 1 skipped)")
    expect(other.locator("#review-item h2")).to_contain_text(f"Line {second} ")
    other.keyboard.press("f")
    expect(other.locator("#review-status")).to_contain_text("2 of 15 decided")
    job.reload()
    expect(job.get_by_label("Your name")).to_have_value("Ada")
    expect(job.locator("#review-status")).to_contain_text("2 of 15 decided (0 kept, 1 flipped, 1 skipped)")


def test_a_reviewer_sees_why(job: Page) -> None:
    job.get_by_role("link", name="Review").click()
    job.locator("#review-item .response").first.wait_for()
    job.keyboard.press("w")
    expect(job.locator("#review-why .token").first).to_be_visible()


def test_letters_in_a_field_decide_nothing(job: Page) -> None:
    job.get_by_role("link", name="Review").click()
    job.locator("#review-item .response").first.wait_for()
    job.get_by_label("Your name").press_sequentially("fsk")
    expect(job.locator("#review-status")).to_contain_text("0 of")


def review(page: Page, name: str = "Ada") -> None:
    """Open the review of the job that is shown, and be somebody there."""
    page.get_by_role("link", name="Review").click()
    page.locator("#review-item .response").first.wait_for()
    page.get_by_label("Your name").fill(name)
    page.keyboard.press("Enter")


@pytest.mark.parametrize("storage", ["full", "forbidden"])
def test_a_browser_that_keeps_nothing_is_no_obstacle_and_says_what_a_reload_would_lose(
    job: Page, api: httpx.Client, storage: str, shoot: Shoot
) -> None:
    second = conflicts_of(job, api)[1]["line"]
    if storage == "full":
        job.evaluate(FILL)
    else:
        job.add_init_script(FORBID)
        job.reload()
    review(job)
    lost = job.get_by_role("alert").filter(has_text="a reload would lose them")
    expect(lost).to_be_hidden()
    job.keyboard.press("f")
    expect(job.locator("#review-item h2")).to_contain_text(f"Line {second} ")
    expect(job.locator("#review-status")).to_contain_text("1 of 15 decided (0 kept, 1 flipped, 0 skipped)")
    expect(lost).to_be_visible()
    shoot(job, f"review-{storage}")
    job.get_by_role("link", name="Back to the job").click()
    job.get_by_role("link", name="Review").click()
    expect(job.locator("#review-status")).to_contain_text("1 of 15 decided")
    with job.expect_download() as saved:
        job.get_by_role("button", name="Export the reviewed set").click()
    rows = [json.loads(line) for line in saved.value.path().read_text().splitlines()]
    assert [row["review"]["by"] for row in rows if row["review"]] == ["Ada"]
    if storage == "full":
        job.evaluate("() => { for (let i = 0; localStorage.getItem(i); i += 1) localStorage.removeItem(i); }")
        job.keyboard.press("k")
        expect(job.locator("#review-status")).to_contain_text("2 of 15 decided")
        expect(lost).to_be_hidden()
        job.reload()
        expect(job.locator("#review-status")).to_contain_text("2 of 15 decided (1 kept, 1 flipped, 0 skipped)")


def test_letters_decide_nothing_once_they_are_switched_off(job: Page) -> None:
    review(job)
    status, switch = job.locator("#review-status"), job.get_by_role("switch", name="Keyboard shortcuts")
    expect(switch).to_be_checked()
    switch.uncheck()
    expect(job.get_by_role("button", name="Flip it").locator("kbd")).to_be_hidden()
    for _ in range(2):
        job.locator("#main").focus()
        for letter in "kfsuw":
            job.keyboard.press(letter)
        expect(status).to_contain_text("0 of 15 decided")
        assert job.get_by_role("button", name="Flip it").get_attribute("aria-keyshortcuts") is None
        job.reload()
        job.locator("#review-item .response").first.wait_for()
        expect(switch).not_to_be_checked()
    job.get_by_role("button", name="Flip it").click()
    expect(status).to_contain_text("1 of 15 decided (0 kept, 1 flipped, 0 skipped)")
    switch.check()
    job.keyboard.press("k")
    expect(status).to_contain_text("2 of 15 decided (1 kept, 1 flipped, 0 skipped)")
    assert job.get_by_role("button", name="Flip it").get_attribute("aria-keyshortcuts") == "f"


def without_the_first(lines: list[str]) -> list[str]:
    return lines[1:]


def without_the_last(lines: list[str]) -> list[str]:
    return lines[:-1]


def with_two_exchanged(lines: list[str]) -> list[str]:
    return [lines[1], lines[0], *lines[2:]]


@pytest.mark.parametrize(
    ("damaged", "damage", "said"),
    [
        (["trl"], without_the_first, "from line 1 on"),
        (["trl"], without_the_last, f"from line {len(ROWS)} on"),
        (["trl"], with_two_exchanged, "from line 1 on"),
        (["raw"], without_the_first, "from line 2 on"),
        (["raw"], without_the_last, f"after {len(ROWS) - 1} of {len(ROWS)} rows"),
        (["raw", "trl"], with_two_exchanged, "from line 1 on"),
        (["raw", "trl"], without_the_last, f"after {len(ROWS) - 1} of {len(ROWS)} rows"),
    ],
)
def test_results_and_texts_that_do_not_fit_together_make_no_file(
    job: Page, damaged: list[str], damage: Any, said: str
) -> None:
    review(job)

    def worse(route: Route) -> None:
        if not any(f"format={format}" in route.request.url for format in damaged):
            return route.continue_()
        whole = route.fetch()
        return route.fulfill(response=whole, body="".join(damage(whole.text().splitlines(keepends=True))))

    job.route("**/results?format=*", worse)
    saved: list[str] = []
    job.on("download", lambda download: saved.append(download.url))
    export = job.get_by_role("button", name="Export the reviewed set")
    export.click()
    expect(job.get_by_role("alert")).to_contain_text(f"do not fit together {said}: nothing was saved")
    expect(export).to_be_enabled()
    assert saved == []
    job.unroute_all()
    with job.expect_download() as whole:
        export.click()
    assert len(whole.value.path().read_text().splitlines()) == len(ROWS)
