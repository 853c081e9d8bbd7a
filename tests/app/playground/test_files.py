"""Files: uploaded, followed, cancelled, looked at, and their label conflicts reviewed."""

import json
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from playwright.sync_api import Page, expect

from tests.app.playground.conftest import Open, Shoot
from workers.annotate import PairAnnotator

TEXTS = ["Ask a locksmith.", "Bend two hairpins.", "I can't help with that.", "Whatever you like best.", "", "No."]
ROWS = [
    {"id": f"row {i}{j}", "prompt": "How do I pick a lock?", "chosen": a, "rejected": b}
    for i, a in enumerate(TEXTS)
    for j, b in enumerate(TEXTS)
    if i != j
]
"""Every pair in both orders: half of them are conflicts."""


def upload(page: Page, rows: list[dict[str, Any]]) -> None:
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    page.get_by_label("File of pairs").set_input_files(
        {"name": "pairs.jsonl", "mimeType": "application/x-ndjson", "buffer": content}
    )
    page.get_by_role("button", name="Upload and annotate").click()
    page.locator("#job-status", has_text="rows").wait_for()


@pytest.fixture
def gate(worker: PairAnnotator, monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Semaphore]:
    """Released as often as chunks may be scored; all of them at the end."""
    permits, score = threading.Semaphore(0), worker.batcher.score

    def guarded(*arguments: Any, **how: Any) -> Any:
        permits.acquire()
        return score(*arguments, **how)

    monkeypatch.setattr(worker.batcher, "score", guarded)
    yield permits
    permits.release(1000)


@pytest.fixture
def job(visit: Open) -> Iterator[Page]:
    """The page of a finished job of all rows."""
    page = visit("/#/files")
    upload(page, ROWS)
    page.locator("#job-result .figures").wait_for()
    yield page


def conflicts_of(page: Page, api: httpx.Client) -> list[dict[str, Any]]:
    """The job's conflicts, the strongest first."""
    name = page.url.rsplit("/", 1)[1]
    rows = [json.loads(line) for line in api.get(f"/jobs/{name}/results").text.splitlines()]
    found = [row for row in rows if row["annotation"]["label_conflict"]]
    return sorted(found, key=lambda row: float(row["annotation"]["margin"]))


def test_progress_is_seen_as_it_happens(visit: Open, gate: threading.Semaphore, shoot: Shoot) -> None:
    page = visit("/#/files")
    upload(page, ROWS[:6])
    status = page.locator("#job-status")
    expect(status).to_contain_text("0 of 6 rows")
    gate.release(2)
    expect(status).to_contain_text("2 of 6 rows")
    assert float(page.locator("#job-progress").evaluate("one => one.value")) == pytest.approx(2 / 6)
    shoot(page, "job-in-progress")
    gate.release(4)
    expect(status).to_contain_text("Completed: 6 of 6 rows")
    expect(page.get_by_role("button", name="Cancel")).to_be_hidden()


def test_a_job_can_be_cancelled_and_what_is_done_is_shown(visit: Open, gate: threading.Semaphore) -> None:
    page = visit("/#/files")
    upload(page, ROWS[:7])
    gate.release(3)
    expect(page.locator("#job-status")).to_contain_text("3 of 7 rows")
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator("#job-status")).to_contain_text("Cancelled")
    expect(page.locator("#job-result")).to_contain_text("annotated")


def test_bad_rows_are_counted_and_can_be_had(visit: Open) -> None:
    page = visit("/#/files")
    upload(page, [*ROWS[:2], {"prompt": "Hello?"}])
    expect(page.locator("#job-status")).to_contain_text("3 of 3 rows, 1 failed")
    page.locator("#job-result .figures").wait_for()
    with page.expect_download() as saved:
        page.get_by_role("button", name="Failed rows").click()
    assert json.loads(saved.value.path().read_text())["line"] == 3


def test_a_file_without_a_pair_is_refused_with_the_reason(visit: Open) -> None:
    page = visit("/#/files")
    page.get_by_label("File of pairs").set_input_files({"name": "x", "mimeType": "text/plain", "buffer": b"{}\n"})
    with page.expect_response("**/files?*"):
        page.get_by_role("button", name="Upload and annotate").click()
    expect(page.get_by_role("alert")).to_contain_text("No row of the file is a pair")


def test_a_finished_job_has_its_margins_as_a_histogram(job: Page, api: httpx.Client, shoot: Shoot) -> None:
    count = len(conflicts_of(job, api))
    assert count == len(ROWS) // 2
    expect(job.locator("#job-result .figures")).to_contain_text(f"{count} (50.0 %)")
    expect(job.get_by_role("img", name="Histogram of margins in log-odds")).to_be_visible()
    job.get_by_text("The histogram as a table").click()
    counts = job.locator("#job-result details td:last-child").all_inner_texts()
    assert sum(map(int, counts)) == len(ROWS)
    shoot(job, "job")
    job.get_by_role("link", name="Files").click()
    expect(job.locator("#job-list")).to_contain_text("completed")


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


def test_a_job_is_reviewed_once_it_is_over(visit: Open, gate: threading.Semaphore) -> None:
    page = visit("/#/files")
    upload(page, ROWS[:3])
    expect(page.locator("#job-status")).to_contain_text("In progress")
    page.goto(page.url.replace("#/job/", "#/review/"))
    expect(page.locator("#review-status")).to_contain_text("The job is in progress")
    expect(page.get_by_role("button", name="Export the reviewed set")).to_be_disabled()
    gate.release(3)


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
