"""Jobs over HTTP: followed, listed, cancelled, deleted, and gone in the end."""

import json
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from redis import Redis
from starlette.testclient import TestClient

from app.jobs import keys
from app.jobs.hand import Hand
from app.jobs.store import JobStore
from app.routes import jobs as routes
from app.schemas.chunk import Chunk
from app.schemas.pairs import Pair
from tests.app.conftest import Connect
from tests.app.jobs.conftest import PLENTY, answer, claimed, submission
from tests.conftest import ref
from workers.annotate import PairAnnotator

PAIR = {"prompt": "Hello?", "chosen": "Hello.", "rejected": "Go away."}
ASYNC = {"Prefer": "respond-async"}
WHOLE = {"Accept": "application/json"}


def ask(client: TestClient, count: int = 1, **options: Any) -> str:
    """Where the job of a request lies that nobody waits for."""
    accepted = client.post("/annotate", json={"pairs": [PAIR] * count} | options, headers=ASYNC)
    assert accepted.status_code == 202
    return str(accepted.headers["Location"])


def finished(client: TestClient, location: str) -> Any:
    return client.get(location, params={"wait": 20}).json()


@pytest.fixture
def store(empty_queue: str) -> JobStore:
    """Jobs that nobody works on."""
    return JobStore(Redis.from_url(empty_queue))


@pytest.fixture
def idle(connect: Connect, empty_queue: str) -> TestClient:
    """An API whose jobs nobody works on."""
    return connect(redis_url=empty_queue)


def test_a_job_in_progress_says_when_to_look_again(idle: TestClient, store: JobStore) -> None:
    job_id = store.submit(submission(), limit=PLENTY)
    found = idle.get(f"/jobs/{job_id}", params={"wait": 0.1})
    assert found.headers["Retry-After"]
    job = found.json()
    assert (job["status"], job["completed_at"], job["expires_at"]) == ("in_progress", None, None)
    assert job["request_counts"] == {"total": 1, "completed": 0, "failed": 0}


def test_the_whole_answer_of_a_job_in_progress_is_409_and_its_rows_are_none_yet(
    idle: TestClient, store: JobStore
) -> None:
    job_id = store.submit(submission(), limit=PLENTY)
    whole = idle.get(f"/jobs/{job_id}/results", headers=WHOLE)
    assert (whole.status_code, whole.headers["Retry-After"]) == (409, "1")
    rows = idle.get(f"/jobs/{job_id}/results")
    assert (rows.status_code, rows.text) == (200, "")


@pytest.mark.parametrize("path", ["", "/results", "/errors", "/events"])
def test_an_unknown_job_is_404(client: TestClient, path: str) -> None:
    assert client.get(f"/jobs/nothing{path}").status_code == 404


def test_without_keys_everybody_may_see_every_job_and_lists_their_own(idle: TestClient, store: JobStore) -> None:
    job_id = store.submit(submission(owner="somebody"), limit=PLENTY)
    assert idle.get(f"/jobs/{job_id}").status_code == 200
    assert idle.get("/jobs").json()["data"] == []


@pytest.mark.parametrize("path", ["", "/results", "/errors", "/events"])
def test_an_expired_job_is_410(idle: TestClient, store: JobStore, path: str) -> None:
    job_id = store.submit(submission(), limit=PLENTY)
    store.redis.hset(keys.job(job_id), "expires_at", "1")
    assert idle.get(f"/jobs/{job_id}{path}").status_code == 410


def test_jobs_are_listed_newest_first_in_pages(idle: TestClient, store: JobStore) -> None:
    ids = [store.submit(submission(), limit=PLENTY) for _ in range(5)]
    seen: list[str] = []
    more, after = True, None
    while more:
        page = idle.get("/jobs", params={"limit": 2} | ({"after": after} if after else {})).json()
        seen += [job["id"] for job in page["data"]]
        more, after = page["has_more"], seen[-1]
    assert seen == ids[::-1]


@pytest.mark.parametrize("params", [{"limit": 0}, {"limit": 101}, {"limit": "x"}])
def test_a_page_that_makes_no_sense_is_422(client: TestClient, params: dict[str, Any]) -> None:
    assert client.get("/jobs", params=params).status_code == 422


def test_a_request_that_is_answered_at_once_is_no_job_any_more(client: TestClient) -> None:
    before = client.get("/jobs").json()["data"]
    assert client.post("/annotate", json={"pairs": [PAIR]}).status_code == 200
    assert client.get("/jobs").json()["data"] == before


def test_a_job_in_progress_is_cancelled_and_keeps_what_is_done(
    idle: TestClient, store: JobStore, worker: PairAnnotator
) -> None:
    used = ref(worker.holdings.directions.all()["kind"])
    item = Pair.model_validate({"id": "a", **PAIR})
    chunk = Chunk(directions=[used], truncate=False, items=[item], lines=[1], tokens=10)
    job_id = store.submit(submission(2), limit=PLENTY)
    hand = Hand(store, "w", "lane")
    answer(hand, claimed(hand), worker.annotate(chunk).model_dump_json().encode())
    cancelled = idle.delete(f"/jobs/{job_id}")
    assert (cancelled.status_code, cancelled.json()["status"]) == (200, "cancelled")
    assert cancelled.json()["request_counts"] == {"total": 2, "completed": 1, "failed": 0}
    (row,) = idle.get(f"/jobs/{job_id}/results").text.splitlines()
    assert json.loads(row)["line"] == 1
    whole = idle.get(f"/jobs/{job_id}/results", headers=WHOLE)
    assert (whole.status_code, whole.json()["detail"]) == (409, "the job was cancelled")


def test_deleting_a_finished_job_deletes_its_results(client: TestClient) -> None:
    location = ask(client)
    job = finished(client, location)
    assert client.get(job["results"]).text
    assert client.delete(location).json()["status"] == "completed"
    assert [client.get(path).status_code for path in (location, job["results"], job["errors"])] == [410] * 3
    assert client.delete(location).status_code == 410
    assert job["id"] not in [listed["id"] for listed in client.get("/jobs").json()["data"]]


def test_cancelling_only_a_job_in_progress_is_cancelled(idle: TestClient, store: JobStore) -> None:
    location = f"/jobs/{store.submit(submission(), limit=PLENTY)}"
    cancelled = idle.delete(location, params={"cancel": True})
    assert (cancelled.status_code, cancelled.json()["status"]) == (200, "cancelled")
    again = idle.delete(location, params={"cancel": True})
    assert (again.status_code, idle.get(location).json()["status"]) == (409, "cancelled")


def test_cancelling_only_deletes_nothing_of_a_job_that_is_over(client: TestClient) -> None:
    location = ask(client)
    job = finished(client, location)
    before = client.get(job["results"]).text
    refused = client.delete(location, params={"cancel": True})
    assert (refused.status_code, refused.headers["content-type"]) == (409, "application/problem+json")
    assert refused.json()["detail"] == "the job is over; nothing was deleted"
    assert (client.get(location).json(), client.get(job["results"]).text) == (job, before)
    assert client.delete("/jobs/nothing", params={"cancel": True}).status_code == 404


def test_a_job_that_ends_while_it_is_to_be_cancelled_keeps_its_results(
    idle: TestClient, store: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id, cancel = store.submit(submission(), limit=PLENTY), JobStore.cancel

    def late(jobs: JobStore, job_id: str) -> bool:
        hand = Hand(store, "w", "lane")
        answer(hand, claimed(hand))
        return cancel(jobs, job_id)

    monkeypatch.setattr(JobStore, "cancel", late)
    assert idle.delete(f"/jobs/{job_id}", params={"cancel": True}).status_code == 409
    assert idle.get(f"/jobs/{job_id}").json()["status"] == "completed"
    assert store.answers(job_id)


def events_of(text: str) -> list[tuple[str, Any]]:
    blocks = [block.splitlines() for block in text.split("\n\n") if block and not block.startswith(":")]
    return [(name.removeprefix("event: "), json.loads(data.removeprefix("data: "))) for name, data in blocks]


def test_events_tell_of_every_step_and_of_the_end(
    idle: TestClient, store: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = store.submit(submission(3), limit=PLENTY)
    steps = iter(range(4))

    async def step(_seconds: float) -> None:
        if number := next(steps):  # nothing happens before the first look
            answer(lane := Hand(store, "w", str(number)), claimed(lane))

    monkeypatch.setattr(routes, "asyncio", SimpleNamespace(sleep=step))
    told = idle.get(f"/jobs/{job_id}/events")
    assert told.headers["content-type"].startswith("text/event-stream")
    events = events_of(told.text)
    assert [(name, job["request_counts"]["completed"]) for name, job in events] == [
        ("progress", 0),
        ("progress", 1),
        ("progress", 2),
        ("end", 3),
    ]
    assert events[-1][1]["status"] == "completed"
    assert ": still there\n\n" in told.text


def test_events_tell_of_a_stage_and_of_a_loss_though_as_many_steps_are_done(
    idle: TestClient, store: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = store.submit(submission(kind="training", queue=keys.TRAIN), limit=PLENTY)
    steps: Iterator[Callable[[], bool]] = iter(
        (
            lambda: store.progress(job_id, "instruct", 1, 2, 0.5),
            lambda: store.progress(job_id, "instruct", 1, 2, 0.25),
            lambda: store.progress(job_id, "align", 1, 2, 0.25),
            lambda: store.cancel(job_id),
        )
    )

    async def step(_seconds: float) -> None:
        assert next(steps)()

    monkeypatch.setattr(routes, "asyncio", SimpleNamespace(sleep=step))
    events = events_of(idle.get(f"/jobs/{job_id}/events").text)
    assert [(name, job["stage"], job["loss"]) for name, job in events] == [
        ("progress", None, None),
        ("progress", "instruct", 0.5),
        ("progress", "instruct", 0.25),
        ("progress", "align", 0.25),
        ("end", "align", 0.25),
    ]


def test_events_of_a_job_that_is_over_are_its_end(client: TestClient) -> None:
    location = ask(client)
    job = finished(client, location)
    ((name, told),) = events_of(client.get(f"{location}/events").text)
    assert (name, told) == ("end", job)


def test_errors_are_only_there_for_rows(client: TestClient) -> None:
    body = {"prompt": "Hello?", "responses": ["Hello.", "Go away."]}
    location = client.post("/score", json=body, headers=ASYNC).headers["Location"]
    assert client.get(f"{location}/errors").status_code == 422


def test_a_job_whose_worker_fails_unexpectedly_says_so_without_any_text(
    client: TestClient, worker: PairAnnotator, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_groups: object, _directions: object, **_how: object) -> object:
        raise RuntimeError("cannot read Hello?")

    monkeypatch.setattr(worker.batcher, "score", broken)
    job = finished(client, ask(client))
    assert job["status"] == "failed"
    assert "RuntimeError" in job["error"] and "Hello?" not in job["error"]
    at_once = client.post("/annotate", json={"pairs": [PAIR]})
    assert at_once.status_code == 500
    assert "Hello?" not in at_once.text
