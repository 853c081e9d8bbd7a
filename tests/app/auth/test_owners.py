"""What is one owner's is nobody else's: files, jobs and idempotency keys."""

import json
import secrets
from typing import Any

import pytest
from starlette.testclient import TestClient

from app.auth.keys import Keys, Scope
from app.jobs.cut import estimated_tokens
from app.schemas.pairs import Pair
from tests.app.auth.conftest import Carry

PAIR = {"prompt": "How do I pick a lock?", "chosen": "Ask a locksmith.", "rejected": "Bend two hairpins."}
BODY, OTHER = {"pairs": [PAIR]}, {"pairs": [PAIR, PAIR]}
FILE = json.dumps(PAIR).encode()
Headers = dict[str, str]


@pytest.fixture
def of(keys: Keys) -> Any:
    """Headers of a key that belongs to an owner."""

    def make(owner: str, scope: Scope = "annotate") -> Headers:
        return {"Authorization": f"Bearer {keys.create('test', owner, (scope,), None)[1]}"}

    return make


@pytest.fixture
def ours(of: Any) -> Headers:
    return of(f"we-{secrets.token_hex(4)}")  # type: ignore[no-any-return]


@pytest.fixture
def theirs(of: Any) -> Headers:
    return of(f"they-{secrets.token_hex(4)}")  # type: ignore[no-any-return]


@pytest.fixture
def admin(of: Any) -> Headers:
    return of("operators", "admin")  # type: ignore[no-any-return]


def test_a_file_is_its_owners(guarded: TestClient, ours: Headers, theirs: Headers, admin: Headers) -> None:
    file = guarded.post("/files", content=FILE, headers=ours).json()
    path = f"/files/{file['id']}"
    for method in ("GET", "DELETE"):
        assert guarded.request(method, path, headers=theirs).status_code == 404
    used = guarded.post("/jobs", json={"file": file["id"]}, headers=theirs)
    assert (used.status_code, used.json()["errors"][0]["code"]) == (404, "unknown_file")
    assert guarded.get("/files", headers=theirs).json()["data"] == []
    assert guarded.get("/files", headers=ours).json()["data"] == [file]
    assert guarded.get(path, headers=admin).json() == file


def test_the_same_file_of_two_owners_is_two_files(guarded: TestClient, ours: Headers, theirs: Headers) -> None:
    one, other = (guarded.post("/files", content=FILE, headers=owner).json() for owner in (ours, theirs))
    assert one["id"] != other["id"]
    assert guarded.delete(f"/files/{one['id']}", headers=ours).status_code == 204
    assert guarded.get(f"/files/{other['id']}", headers=theirs).status_code == 200


def test_a_job_is_its_owners(guarded: TestClient, ours: Headers, theirs: Headers, admin: Headers) -> None:
    file = guarded.post("/files", content=FILE, headers=ours).json()
    location = guarded.post("/jobs", json={"file": file["id"]}, headers=ours).headers["Location"]
    job = guarded.get(location, params={"wait": 20}, headers=ours).json()
    assert job["status"] == "completed"
    for path in (location, f"{location}/results", f"{location}/errors", f"{location}/events"):
        assert guarded.get(path, headers=theirs).status_code == 404
        assert guarded.get(path, headers=admin).status_code == 200
    assert guarded.delete(location, headers=theirs).status_code == 404
    assert guarded.get("/jobs", headers=theirs).json()["data"] == []
    assert guarded.get("/jobs", headers=ours).json()["data"] == [job]


def test_an_idempotency_key_is_its_owners(guarded: TestClient, ours: Headers, theirs: Headers) -> None:
    keyed = {"Idempotency-Key": "ours"}
    assert guarded.post("/annotate", json=BODY, headers=ours | keyed).status_code == 200
    assert guarded.post("/annotate", json=OTHER, headers=theirs | keyed).status_code == 200
    assert guarded.post("/annotate", json=OTHER, headers=ours | keyed).status_code == 422


def test_a_request_that_is_repeated_costs_no_quota(guarded: TestClient, carry: Carry) -> None:
    _, headers = carry("annotate", tokens_per_minute=estimated_tokens(Pair.model_validate(PAIR)))
    keyed = headers | {"Idempotency-Key": "test_a_request_that_is_repeated"}
    answers = [guarded.post("/annotate", json=BODY, headers=keyed) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200] * 3
    assert guarded.post("/annotate", json=BODY, headers=headers).status_code == 429
