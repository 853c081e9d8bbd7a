"""The Idempotency-Key header: a request that is repeated is one job, and costs once."""

from typing import Any

import pytest
from redis import Redis
from starlette.testclient import TestClient

from app.jobs import keys
from tests.app.conftest import Connect, Station
from tests.app.test_files import PLAIN, jsonl, uploaded
from tests.app.test_results import lane  # noqa: F401

BODY = {"pairs": PLAIN}
OTHER = {"pairs": PLAIN[:1]}
SCORE = {"prompt": "Hello?", "responses": ["Hello.", "Go away."]}
CASES = [("/annotate", BODY), ("/score", SCORE), ("/annotate", BODY | {"direction": "raw"})]


def post(client: TestClient, path: str, body: Any, key: str, **headers: str) -> Any:
    return client.post(path, json=body, headers={"Idempotency-Key": key} | headers)


@pytest.fixture
def key(request: pytest.FixtureRequest) -> str:
    """A key that no other test uses."""
    return str(request.node.name)


@pytest.mark.parametrize(("path", "body"), CASES)
def test_a_repetition_gets_the_stored_answer(
    client: TestClient, station: Station, key: str, path: str, body: Any
) -> None:
    first = post(client, path, body, key)
    assert first.status_code == 200
    before = len(station.passes)
    again = post(client, path, body, key)
    assert (again.status_code, again.content) == (200, first.content)
    assert len(station.passes) == before
    assert post(client, path, body, key + "'").status_code == 200


def test_an_answer_given_at_once_is_kept_for_a_while_only(connect: Connect, redis_url: str, key: str) -> None:
    client = connect(repeat_seconds=100)
    with Redis.from_url(redis_url) as redis:
        before = set(redis.scan_iter(keys.JOB + "*"))
        assert post(client, "/annotate", BODY, key).status_code == 200
        kept = set(redis.scan_iter(keys.JOB + "*")) - before
        assert kept and all(0 < redis.ttl(name) <= 100 for name in kept)


@pytest.mark.usefixtures("lane")
def test_a_repetition_of_what_is_being_answered_is_409_and_names_the_job(
    connect: Connect, empty_queue: str, key: str
) -> None:
    client = connect(redis_url=empty_queue)
    file = uploaded(client, jsonl(*PLAIN))
    for path, body in (("/annotate", BODY), ("/jobs", {"file": file["id"]})):
        first = post(client, path, body, path + key, Prefer="respond-async")
        again = post(client, path, body, path + key, Prefer="respond-async")
        assert (first.status_code, again.status_code) == (202, 409)
        assert again.headers["Location"] == first.headers["Location"]
        assert again.headers["Retry-After"]
    assert len(client.get("/jobs").json()["data"]) == 2


@pytest.mark.parametrize(("path", "body"), [("/annotate", OTHER), ("/score", SCORE)])
def test_a_key_that_stands_for_another_request_is_422(client: TestClient, key: str, path: str, body: Any) -> None:
    assert post(client, "/annotate", BODY, key).status_code == 200
    answer = post(client, path, body, key)
    assert answer.status_code == 422
    (error,) = answer.json()["errors"]
    assert (error["pointer"], error["code"]) == ("header/Idempotency-Key", "idempotency_key_reused")


@pytest.mark.parametrize("body", [BODY | {"pairs": []}, BODY | {"direction": "nowhere"}], ids=["invalid", "unknown"])
def test_a_request_that_was_refused_does_not_use_up_its_key(client: TestClient, key: str, body: Any) -> None:
    assert post(client, "/annotate", body, key).status_code in (404, 422)
    assert post(client, "/annotate", BODY, key).status_code == 200


@pytest.mark.parametrize("bad", ["", "k" * 256])
def test_a_key_that_is_no_key_is_422(client: TestClient, bad: str) -> None:
    answer = post(client, "/annotate", BODY, bad)
    assert answer.status_code == 422
    assert [error["pointer"].lower() for error in answer.json()["errors"]] == ["header/idempotency-key"]


def test_a_finished_job_on_a_file_is_not_made_again(client: TestClient, key: str) -> None:
    body = {"file": uploaded(client, jsonl(*PLAIN))["id"]}
    location = post(client, "/jobs", body, key).headers["Location"]
    client.get(location, params={"wait": 20})
    again = post(client, "/jobs", body, key)
    assert (again.status_code, again.headers["Location"]) == (202, location)
    assert again.json()["status"] == "completed"


def test_what_was_deleted_meanwhile_is_410(client: TestClient, key: str, redis_url: str) -> None:
    post(client, "/annotate", BODY, key)
    job = client.get("/jobs", params={"limit": 1}).json()["data"][0]
    assert client.delete(f"/jobs/{job['id']}").status_code == 200
    assert post(client, "/annotate", BODY, key).status_code == 410


@pytest.mark.usefixtures("lane")
def test_a_full_queue_does_not_use_up_a_key(connect: Connect, empty_queue: str, key: str) -> None:
    full, later = (connect(redis_url=empty_queue, queue_tokens=size) for size in (1, 10_000))
    assert post(full, "/annotate", BODY, "another", Prefer="respond-async").status_code == 202
    refused = post(full, "/annotate", BODY, key, Prefer="respond-async")
    assert (refused.status_code, refused.json()["detail"]) == (503, "the queue is full")
    assert post(later, "/annotate", BODY, key, Prefer="respond-async").status_code == 202


def test_no_key_lies_in_the_queue_as_it_was_sent(client: TestClient, key: str, redis_url: str) -> None:
    post(client, "/annotate", BODY, key)
    with Redis.from_url(redis_url) as redis:
        assert not [name for name in redis.scan_iter(keys.PREFIX + "*") if key.encode() in name]
