"""Files: uploaded, followed, cancelled and looked at."""

import json
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from playwright.sync_api import Page, expect

from tests.app.playground.conftest import ROWS, Open, Shoot, upload
from workers.annotate import PairAnnotator

COUNTS = ("total", "completed", "failed")


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


def test_cancelling_a_job_that_has_just_ended_deletes_nothing_and_shows_it(job: Page) -> None:
    ended: list[str] = []
    stale = {"id": "x", "status": "in_progress", "created_at": 0, "request_counts": dict.fromkeys(COUNTS, 0)}
    told = {"content_type": "text/event-stream", "body": f"event: progress\ndata: {json.dumps(stale)}\n\n"}
    job.on("request", lambda request: ended.append(request.url) if request.method == "DELETE" else None)
    job.route("**/events", lambda route: route.continue_() if ended else route.fulfill(**told))
    job.reload()
    job.get_by_role("button", name="Cancel").click()
    expect(job.locator("#job-status")).to_contain_text(f"Completed: {len(ROWS)} of {len(ROWS)} rows")
    expect(job.locator("#job-result .figures")).to_contain_text(f"{len(ROWS) // 2} (50.0 %)")
    expect(job.get_by_role("button", name="Cancel")).to_be_hidden()
    expect(job.get_by_role("alert")).to_be_hidden()
    assert [url.rpartition("?")[2] for url in ended] == ["cancel=true"]


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
    rows = [json.loads(line) for line in api.get(f"/jobs/{job.url.rpartition('/')[2]}/results").text.splitlines()]
    count = sum(row["annotation"]["label_conflict"] for row in rows)
    assert count == len(ROWS) // 2
    expect(job.locator("#job-result .figures")).to_contain_text(f"{count} (50.0 %)")
    expect(job.get_by_role("img", name="Histogram of margins in log-odds")).to_be_visible()
    job.get_by_text("The histogram as a table").click()
    counts = job.locator("#job-result details td:last-child").all_inner_texts()
    assert sum(map(int, counts)) == len(ROWS)
    shoot(job, "job")
    job.get_by_role("link", name="Files").click()
    expect(job.locator("#job-list")).to_contain_text("completed")


def test_a_job_is_reviewed_once_it_is_over(visit: Open, gate: threading.Semaphore) -> None:
    page = visit("/#/files")
    upload(page, ROWS[:3])
    expect(page.locator("#job-status")).to_contain_text("In progress")
    page.goto(page.url.replace("#/job/", "#/review/"))
    expect(page.locator("#review-status")).to_contain_text("The job is in progress")
    expect(page.get_by_role("button", name="Export the reviewed set")).to_be_disabled()
    gate.release(3)


@pytest.mark.parametrize("view", ["job", "review"])
def test_what_stands_in_the_address_is_no_more_than_the_id_of_a_job(visit: Open, view: str) -> None:
    page = visit()
    with page.expect_request("**/jobs/**") as asked:
        page.goto(f"{page.url.split('#')[0]}#/{view}/nothing?limit=1&x=#y")
    assert "/jobs/nothing%3Flimit%3D1%26x%3D%23y" in asked.value.url
    expect(page.get_by_role("alert")).to_be_visible()
    expect(page.get_by_role("button", name="Cancel")).to_be_hidden()
