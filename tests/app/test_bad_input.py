"""What the API does with requests that it cannot answer: a problem that names the field and repeats no text."""

import json
from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.app.conftest import Connect
from workers.annotate import PairAnnotator

SECRET = "xyzzy-secret"
PAIR: dict[str, Any] = {"id": "a", "prompt": f"{SECRET}?", "chosen": f"{SECRET}!", "rejected": SECRET}


def said(role: str, content: str = SECRET) -> dict[str, str]:
    return {"role": role, "content": content}


def changed(**fields: Any) -> dict[str, Any]:
    return {"pairs": [{**PAIR, **fields}]}


CASES: list[tuple[str, dict[str, Any], str]] = [
    ("no pairs", {"pairs": []}, "/pairs"),
    ("pairs missing", {}, "/pairs"),
    ("empty prompt", changed(prompt=""), "/pairs/0/prompt"),
    ("prompt of spaces", changed(prompt=" \n"), "/pairs/0/prompt"),
    ("empty conversation", changed(prompt=[]), "/pairs/0/prompt"),
    ("prompt of the wrong type", changed(prompt=7), "/pairs/0/prompt"),
    ("ends with the assistant", changed(prompt=[said("user"), said("assistant")]), "/pairs/0/prompt"),
    ("unknown role", changed(prompt=[said("wizard"), said("user")]), "/pairs/0/prompt/0/role"),
    ("empty turn", changed(prompt=[said("user", "")]), "/pairs/0/prompt/0/content"),
    ("duplicate ids", {"pairs": [PAIR, PAIR]}, "/pairs/1/id"),
    ("id that is another's position", {"pairs": [{**PAIR, "id": "1"}, {**PAIR, "id": None}]}, "/pairs/1/id"),
    ("chosen missing", {"pairs": [{"prompt": SECRET, "rejected": SECRET}]}, "/pairs/0/chosen"),
    ("chosen null", changed(chosen=None), "/pairs/0/chosen"),
    ("NUL byte", changed(chosen=f"{SECRET}\x00"), "/pairs/0/chosen"),
    ("lone surrogate", changed(rejected=f"{SECRET}\ud800"), "/pairs/0/rejected"),
    ("lone surrogate in a turn", changed(prompt=[said("user", "\udfff")]), "/pairs/0/prompt/0/content"),
    ("unknown field", changed(chozen="x"), "/pairs/0/chozen"),
    ("unknown field called like a kind of prompt", changed(text="x"), "/pairs/0/text"),
    ("text as a field's name", changed(**{f"{SECRET} {SECRET}": "x"}), "/pairs/0/(unnamed)"),
    ("unknown method", {"pairs": [PAIR], "method": "magic"}, "/method"),
    ("direction that is no id", {"pairs": [PAIR], "direction": "../x"}, "/direction"),
    ("direction of the wrong type", {"pairs": [PAIR], "direction": 7}, "/direction"),
    ("no directions", {"pairs": [PAIR], "direction": []}, "/direction"),
    ("one of several directions that is no id", {"pairs": [PAIR], "direction": ["kind", "../x"]}, "/direction/1"),
    ("truncate that is no boolean", {"pairs": [PAIR], "truncate": [1]}, "/truncate"),
]


@pytest.mark.parametrize(("body", "pointer"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_the_field_is_named_and_no_text_repeated(client: TestClient, body: dict[str, Any], pointer: str) -> None:
    answer = client.post("/annotate", content=json.dumps(body), headers={"Content-Type": "application/json"})
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert pointer in [error["pointer"] for error in answer.json()["errors"]]
    assert SECRET not in answer.text


def test_invalid_utf8_is_located_in_its_field(client: TestClient) -> None:
    body = json.dumps({"pairs": [{**PAIR, "chosen": "@"}]}).encode().replace(b"@", b"\xff\xfe")
    answer = client.post("/annotate", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"] == "/pairs/0/chosen"


@pytest.mark.parametrize("body", [b"", b"{", b'{"pairs": [}', b"[" * 100_000, b"\x00"])
def test_a_body_that_is_no_json_is_400_or_422(client: TestClient, body: bytes) -> None:
    answer = client.post("/annotate", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code in (400, 422)
    assert answer.headers["content-type"] == "application/problem+json"


def test_a_body_not_sent_as_json_is_415(client: TestClient) -> None:
    answer = client.post("/annotate", content=json.dumps({"pairs": [PAIR]}), headers={"Content-Type": "text/plain"})
    assert answer.status_code == 415
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("announced", [True, False])
def test_a_body_over_the_limit_is_413_whether_announced_or_not(
    connect: Connect, worker: PairAnnotator, announced: bool
) -> None:
    client = connect(max_body_bytes=1000)
    body = json.dumps({"pairs": [{**PAIR, "chosen": "x" * 2000}]}).encode()
    content: Any = body if announced else iter([body[:700], body[700:]])
    answer = client.post("/annotate", content=content, headers={"Content-Type": "application/json"})
    assert answer.status_code == 413
    assert answer.headers["content-type"] == "application/problem+json"


def test_an_unknown_direction_is_404(client: TestClient) -> None:
    answer = client.post("/annotate", json={"pairs": [PAIR], "direction": "nowhere"})
    assert answer.status_code == 404
    assert answer.json()["errors"][0]["pointer"] == "/direction"
    assert SECRET not in answer.text


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/nowhere", 404), ("GET", "/annotate", 405)])
def test_every_error_is_a_problem(client: TestClient, method: str, path: str, status: int) -> None:
    answer = client.request(method, path)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["status"] == status


def test_a_bad_request_does_not_disturb_the_next(client: TestClient) -> None:
    client.post("/annotate", content=b"{", headers={"Content-Type": "application/json"})
    assert client.post("/annotate", json={"pairs": [PAIR]}).status_code == 200


@pytest.mark.parametrize("path", ["/annotate", "/files"])
def test_a_body_that_is_cut_off_is_no_fault_of_the_service(client: TestClient, path: str) -> None:
    come = iter([{"type": "http.request", "body": b"{", "more_body": True}, {"type": "http.disconnect"}])
    sent: list[Any] = []

    async def receive() -> Any:
        return next(come)

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"content-length", b"100"), (b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "path": path, "query_string": b"", "headers": headers}
    assert client.portal is not None
    client.portal.call(client.app, scope, receive, send)
    assert sent[0]["status"] == 400
