"""Jobs on files from end to end, and what comes of them in every format."""

import io
import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pyarrow.parquet as pq
import pytest
from redis import Redis
from starlette.testclient import TestClient

from app.jobs import keys
from app.jobs.hand import Hand
from app.jobs.store import JobStore
from tests.app.conftest import Connect, Station
from tests.app.jobs.conftest import claimed
from tests.app.test_files import PLAIN, jsonl, uploaded
from workers import tasks

TOO_LONG = PLAIN[0] | {"id": "long", "prompt": "word " * 400}
BAD = {"prompt": "Hello?", "chosen": "Hello."}
MIXED = jsonl(PLAIN[0], BAD, TOO_LONG, PLAIN[1]) + b"no JSON\n\n" + jsonl({**PLAIN[2], "id": None}, TOO_LONG, BAD)
"""Lines 1, 4 and 7 are pairs, 3 and 8 too long; 2, 5 and 9 are none; 6 is blank."""

GOOD_LINES, FAILED_LINES = [1, 4, 7], [2, 3, 5, 8, 9]


def start(client: TestClient, content: bytes, **options: Any) -> str:
    """Where the job on an uploaded file lies."""
    file = uploaded(client, content)
    accepted = client.post("/jobs", json={"file": file["id"]} | options)
    assert accepted.status_code == 202, accepted.text
    assert accepted.json()["file"] == file["id"]
    return str(accepted.headers["Location"])


def finished(client: TestClient, location: str) -> Any:
    job = client.get(location, params={"wait": 20}).json()
    assert job["status"] == "completed", job
    return job


def rows(client: TestClient, path: str, **params: Any) -> list[Any]:
    answer = client.get(path, params=params)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/x-ndjson")
    return [json.loads(line) for line in answer.text.splitlines()]


def table(client: TestClient, path: str, **params: Any) -> list[Any]:
    answer = client.get(path, params=params | {"type": "parquet"})
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/vnd.apache.parquet")
    return pq.read_table(io.BytesIO(answer.content)).to_pylist(maps_as_pydicts="strict")  # type: ignore[no-any-return]


@pytest.fixture
def small(connect: Connect) -> TestClient:
    """An API that cuts files into chunks of one row."""
    return connect(chunk_tokens=1)


def test_a_file_is_annotated_row_by_row_and_bad_rows_cost_nobody(small: TestClient) -> None:
    job = finished(small, start(small, MIXED))
    assert job["request_counts"] == {"total": 8, "completed": 3, "failed": 5}
    assert (job["kind"], job["error"]) == ("annotate", None)
    found = rows(small, job["results"])
    assert [row["line"] for row in found] == GOOD_LINES
    assert [row["annotation"]["id"] for row in found] == ["row 0", "row 1", "7"]
    assert {row["provenance"]["direction"] for row in found} == {"kind"}


def test_margins_are_those_that_annotate_gives(client: TestClient) -> None:
    job = finished(client, start(client, jsonl(*PLAIN), direction=["raw", "kind"]))
    at_once = client.post("/annotate", json={"pairs": PLAIN, "direction": ["raw", "kind"]}).json()
    for row, entry in zip(rows(client, job["results"]), at_once["annotations"], strict=True):
        assert row["provenance"] == at_once["provenance"]
        assert row["annotation"]["margin"] == pytest.approx(entry["margin"], rel=1e-4, abs=1e-5)


def test_errors_are_merged_in_the_order_of_the_lines(small: TestClient) -> None:
    job = finished(small, start(small, MIXED))
    errors = rows(small, job["errors"])
    assert [error["line"] for error in errors] == FAILED_LINES
    codes = ["missing_field", "too_long", "json_invalid", "too_long", "missing_field"]
    assert [error["code"] for error in errors] == codes
    assert (errors[0]["pointer"], errors[1]["id"]) == ("/rejected", "long")
    assert errors[1]["counts"]["window"] == 256
    assert "Hello" not in json.dumps(errors)


def test_a_reader_goes_on_after_any_line(small: TestClient) -> None:
    job = finished(small, start(small, MIXED))
    for cursor in range(10):
        for path, lines in (("results", GOOD_LINES), ("errors", FAILED_LINES)):
            found = rows(small, job[path], cursor=cursor)
            assert [row["line"] for row in found] == [line for line in lines if line > cursor]


@pytest.mark.parametrize("format", ["trl", "openrlhf"])
def test_trainers_get_prompt_chosen_rejected_and_margin(small: TestClient, format: str) -> None:
    job = finished(small, start(small, MIXED))
    found, raw = rows(small, job["results"], format=format), rows(small, job["results"])
    assert [row["margin"] for row in found] == [row["annotation"]["margin"] for row in raw]
    assert found[0] == {
        "prompt": [{"role": "user", "content": "Hello 0?"}],
        "chosen": [{"role": "assistant", "content": "Hello."}],
        "rejected": [{"role": "assistant", "content": "Go away."}],
        "margin": found[0]["margin"],
    }
    assert [row["prompt"][0]["content"] for row in found] == ["Hello 0?", "Hello 1?", "Hello 2?"]


@pytest.mark.parametrize("format", ["raw", "trl", "openrlhf"])
@pytest.mark.parametrize("direction", ["kind", ["kind", "raw"]], ids=str)
def test_parquet_holds_the_same_rows(small: TestClient, format: str, direction: Any) -> None:
    job = finished(small, start(small, MIXED, direction=direction))
    expected = rows(small, job["results"], format=format)
    for row in expected if format == "raw" else []:
        for other in row["provenance"]["others"] or []:
            del other["others"]  # there is no column for others of others, of which there are none
    assert table(small, job["results"], format=format) == expected
    assert len(table(small, job["results"], format=format, cursor=4)) == 1
    assert table(small, job["results"], format=format, cursor=9) == []


def test_a_small_request_that_became_a_job_has_results_in_every_format(client: TestClient) -> None:
    body = {"pairs": [*PLAIN, TOO_LONG]}
    location = client.post("/annotate", json=body, headers={"Prefer": "respond-async"}).headers["Location"]
    job = finished(client, location)
    assert [row["line"] for row in rows(client, job["results"])] == [1, 2, 3]
    assert [error["line"] for error in rows(client, job["errors"])] == [4]
    for format in ("raw", "trl", "openrlhf"):
        found = rows(client, job["results"], format=format, cursor=1)
        assert len(found) == 2
        assert table(client, job["results"], format=format, cursor=1) == found


def test_the_answer_to_a_large_request_is_that_of_a_small_one(connect: Connect) -> None:
    nameless = {key: text for key, text in PLAIN[0].items() if key != "id"}
    body = {"pairs": [*PLAIN, TOO_LONG, nameless]}
    small = connect().post("/annotate", json=body)
    client = connect(sync_tokens=10, chunk_tokens=1)
    accepted = client.post("/annotate", json=body)
    assert (small.status_code, accepted.status_code) == (200, 202)
    job = finished(client, accepted.headers["Location"])
    whole = client.get(job["results"], headers={"Accept": "application/json"})
    assert whole.headers["content-type"] == "application/json"
    found, expected = whole.json(), small.json()
    assert found["provenance"] == expected["provenance"]
    for one, other in zip(found["annotations"], expected["annotations"], strict=True):
        assert (one["id"], one.get("error")) == (other["id"], other.get("error"))
        assert one.get("margin", 0) == pytest.approx(other.get("margin", 0), rel=1e-4, abs=1e-5)
    waited = client.post("/annotate", json=body, headers={"Prefer": "wait=20"})
    assert waited.status_code == 200
    assert [entry["id"] for entry in waited.json()["annotations"]] == [entry["id"] for entry in found["annotations"]]


def test_the_rows_of_a_file_are_streamed_whatever_is_accepted(client: TestClient) -> None:
    """The whole answer of a large file would not fit into memory."""
    job = finished(client, start(client, jsonl(*PLAIN)))
    whole = client.get(job["results"], headers={"Accept": "application/json"})
    assert whole.headers["content-type"] == "application/x-ndjson"


@pytest.fixture
def lane(station: Station, empty_queue: str) -> Iterator[Hand]:
    """A lane on a queue whose tasks only the test runs, beside the one that they run in."""
    served = list(tasks._duties)
    with Redis.from_url(empty_queue) as redis:
        replace(station.presence, redis=redis).announce()
        tasks.serve(replace(served[0], worker="alone", jobs=JobStore(redis)))
        yield Hand(JobStore(redis), "alone", "beside")
        tasks.serve(served[0])


def lines(client: TestClient, path: str) -> list[int]:
    return [row["line"] for row in rows(client, path)]


def test_a_job_in_progress_shows_what_is_done_without_a_gap(
    connect: Connect, lane: Hand, empty_queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks, "_TASK_SECONDS", 0)  # a task works on one chunk
    client = connect(redis_url=empty_queue, chunk_tokens=1)
    location = start(client, MIXED)
    results, errors = f"{location}/results", f"{location}/errors"
    assert (lines(client, results), lines(client, errors)) == ([], [])
    tasks.annotate_next(keys.BULK)
    claimed(lane, keys.BULK)
    tasks.annotate_next(keys.BULK)
    assert client.get(location).json()["request_counts"] == {"total": 8, "completed": 2, "failed": 3}
    assert (lines(client, results), lines(client, errors)) == ([1], [])
    lane.give_back()
    tasks.annotate_next(keys.BULK)
    assert (lines(client, results), lines(client, errors)) == ([1, 4], [2, 3])
    client.delete(location)
    assert (lines(client, results), lines(client, errors)) == ([1, 4], [2, 3, 5, 9])


def test_a_file_that_is_deleted_fails_the_job_that_reads_it(connect: Connect, lane: Hand, empty_queue: str) -> None:
    client = connect(redis_url=empty_queue)
    location = start(client, MIXED)
    client.delete(f"/files/{client.get(location).json()['file']}")
    tasks.annotate_next(keys.BULK)
    job = client.get(location).json()
    assert (job["status"], job["error"]) == ("failed", "its file was deleted while the job used it")
    for name in ("results", "errors"):
        answer = client.get(job[name])
        assert (answer.status_code, answer.headers["content-type"]) == (410, "application/problem+json")


def test_an_unknown_file_is_404_and_a_malformed_one_422(client: TestClient) -> None:
    for name, status in (("file-" + "0" * 32, 404), ("x", 422)):
        answer = client.post("/jobs", json={"file": name})
        assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (status, "/file")


def test_a_full_queue_is_503_and_leaves_no_rows_behind(
    connect: Connect, lane: Hand, station: Station, empty_queue: str
) -> None:
    client = connect(redis_url=empty_queue, sync_tokens=1, bulk_queue_tokens=1)
    before = set((station.artifacts / "jobs").glob("*"))
    first, second = (client.post("/annotate", json={"pairs": PLAIN}) for _ in range(2))
    assert (first.status_code, second.status_code) == (202, 503)
    assert second.headers["Retry-After"] == "10"
    assert {path.name for path in set((station.artifacts / "jobs").glob("*")) - before} == {first.json()["id"]}
