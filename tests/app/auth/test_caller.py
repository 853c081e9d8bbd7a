"""Who is let in, and to what."""

from typing import Any

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from app.auth.caller import ANYBODY, Caller
from app.auth.keys import Keys, Scope
from app.main import create_app
from app.settings import Settings
from tests.app.auth.conftest import Carry

PAIR = {"prompt": "How do I pick a lock?", "chosen": "Ask a locksmith.", "rejected": "Bend two hairpins."}
BODY = {"pairs": [PAIR]}
OPEN = {"/livez", "/readyz", "/metrics"}


def operations() -> list[tuple[str, str, dict[str, Any]]]:
    """Method, path and description of every operation of the API."""
    paths = create_app(Settings()).openapi()["paths"]
    return [(method, path, made) for path, methods in paths.items() for method, made in methods.items()]


GUARDED = [(method, path) for method, path, _made in operations() if path not in OPEN]


@pytest.mark.parametrize(("method", "path"), GUARDED, ids=[f"{method} {path}" for method, path in GUARDED])
def test_nothing_but_health_and_documentation_answers_without_a_key(
    guarded: TestClient, method: str, path: str
) -> None:
    answer = guarded.request(method, path.replace("{", "").replace("}", ""), json={})
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("path", sorted(OPEN | {"/docs", "/openapi.json"}))
def test_health_and_documentation_do(guarded: TestClient, path: str) -> None:
    assert guarded.get(path).status_code == 200


def test_every_guarded_operation_documents_its_key_and_its_refusals() -> None:
    for _method, path, made in operations():
        assert ("security" in made) == (path not in OPEN), path
        assert ({"401", "403"} <= set(made["responses"])) == (path not in OPEN), path


def test_whatever_is_wrong_with_a_key_the_answer_is_the_same(guarded: TestClient, carry: Carry, keys: Keys) -> None:
    revoked, carried = carry("annotate")
    keys.revoke(revoked.id)
    _key, good = carry("annotate")
    wrong = good["Authorization"][:-1] + ("a" if good["Authorization"][-1] != "a" else "b")
    attempts = ["", "Bearer", "Bearer ", "Bearer x", "Basic dXNlcjpwYXNz", wrong, carried["Authorization"]]
    attempts += [f"Bearer sm_{'0' * 16}_{'a' * 43}", good["Authorization"].removeprefix("Bearer ")]
    answers = [guarded.post("/annotate", json=BODY, headers={"Authorization": attempt}) for attempt in attempts]
    answers.append(guarded.post("/annotate", json=BODY))
    assert {answer.status_code for answer in answers} == {401}
    assert len({answer.text for answer in answers}) == 1
    assert {answer.headers["WWW-Authenticate"] for answer in answers} == {"Bearer"}
    assert guarded.post("/annotate", json=BODY, headers=good).status_code == 200


def test_a_key_in_a_url_arrives_as_a_password(guarded: TestClient, carry: Carry) -> None:
    _key, carried = carry("annotate")
    key = carried["Authorization"].removeprefix("Bearer ")
    assert guarded.post("/score", json={}, auth=("key", key)).status_code == 422
    assert guarded.post("/score", json={}, auth=(key, "")).status_code == 401
    for odd in ("Basic", "Basic ?", "Basic /w==", "Basic a2V5"):
        assert guarded.post("/score", json={}, headers={"Authorization": odd}).status_code == 401


def test_the_key_is_never_repeated(guarded: TestClient, carry: Carry) -> None:
    _key, carried = carry("train")
    secret = carried["Authorization"].split("_", 2)[2]  # which may have such signs itself
    for headers in (carried, {"Authorization": carried["Authorization"] + "x"}):
        answer = guarded.post("/annotate", json=BODY, headers=headers)
        assert secret not in answer.text + str(answer.headers)


ANNOTATE: tuple[Scope, ...] = ("annotate",)
TRAIN: tuple[Scope, ...] = ("train",)
NEEDS: list[tuple[str, str, tuple[Scope, ...]]] = [
    ("POST", "/annotate", ANNOTATE),
    ("POST", "/score", ANNOTATE),
    ("POST", "/reward-models/nothing/reward", ANNOTATE),
    ("GET", "/directions", ANNOTATE),
    ("GET", "/directions/kind", ANNOTATE),
    ("GET", "/directions/kind/report", ANNOTATE),
    ("GET", "/directions/kind/control-vector.gguf", ANNOTATE),
    ("POST", "/files", ANNOTATE),
    ("GET", "/files", ANNOTATE),
    ("POST", "/jobs", ANNOTATE),
    ("GET", "/jobs", ANNOTATE + TRAIN),
    ("POST", "/directions", TRAIN),
    ("PUT", "/directions/default", TRAIN),
    ("DELETE", "/directions/nothing", TRAIN),
    ("GET", "/rules", ANNOTATE),
    ("GET", "/rules/nothing", ANNOTATE),
    ("POST", "/rules", TRAIN),
    ("DELETE", "/rules/nothing", TRAIN),
    ("GET", "/jobs/nothing", ANNOTATE + TRAIN),
    ("GET", "/jobs/nothing/results", ANNOTATE + TRAIN),
]


@pytest.mark.parametrize(("method", "path", "any_of"), NEEDS, ids=[f"{method} {path}" for method, path, _ in NEEDS])
def test_a_key_does_what_its_scopes_say(
    guarded: TestClient, carry: Carry, method: str, path: str, any_of: tuple[Scope, ...]
) -> None:
    scopes: tuple[Scope, ...] = ("annotate", "train", "admin")
    carried = {scope: carry(scope)[1] for scope in scopes}
    for scope in scopes:
        answer = guarded.request(method, path, json={}, headers=carried[scope])
        if scope in any_of or scope == "admin":
            assert answer.status_code not in {401, 403}
        else:
            assert answer.status_code == 403
            assert f"`{any_of[0]}`" in answer.json()["detail"]
            assert answer.json()["errors"][0]["code"] == "missing_scope"


def test_who_has_no_key_is_told_so_before_what_is_wrong_with_the_request(guarded: TestClient) -> None:
    assert guarded.post("/annotate", json={"pairs": []}).status_code == 401


@pytest.mark.parametrize("path", ["/files", "/annotate", "/score", "/jobs", "/directions"])
@pytest.mark.parametrize("size", [b"1000000", None], ids=["announced", "streamed"])
def test_nothing_is_read_from_strangers_and_their_connection_ends(
    guarded: TestClient, path: str, size: bytes | None
) -> None:
    length = (b"content-length", size) if size else (b"transfer-encoding", b"chunked")
    sent: list[Any] = []

    async def receive() -> Any:
        raise AssertionError("the body was asked for")

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [length, (b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "path": path, "query_string": b"", "headers": headers}
    assert guarded.portal is not None
    guarded.portal.call(guarded.app, scope, receive, send)
    assert sent[0]["status"] == 401
    assert (b"connection", b"close") in sent[0]["headers"]


def test_without_the_store_nobody_is_let_in_and_the_answer_says_when_to_come_back(without_store: TestClient) -> None:
    carried = {"Authorization": f"Bearer sm_{'0' * 16}_{'a' * 43}"}
    answer = without_store.post("/annotate", json=BODY, headers=carried)
    assert answer.status_code == 503
    assert answer.headers["Retry-After"]


def test_where_no_keys_are_asked_for_everybody_may_everything(client: TestClient) -> None:
    assert client.post("/annotate", json=BODY).status_code == 200
    assert client.post("/annotate", json=BODY, headers={"Authorization": "Bearer nonsense"}).status_code == 200
    assert ANYBODY.may("annotate") and ANYBODY.may("train") and ANYBODY.may("admin")
    assert ANYBODY.owner == "" and ANYBODY.sees("team-a")


def test_a_caller_sees_what_its_team_owns_and_an_admin_sees_everything() -> None:
    member = Caller("team-a", "0", frozenset({"annotate"}))
    admin = Caller("team-b", "1", frozenset({"admin"}))
    assert member.sees("team-a") and not member.sees("team-b") and not member.sees("")
    assert admin.sees("team-a") and admin.sees("team-b") and admin.sees("")


def test_the_documentation_offers_to_send_a_key() -> None:
    app: FastAPI = create_app(Settings())
    (scheme,) = app.openapi()["components"]["securitySchemes"].values()
    assert (scheme["type"], scheme["scheme"]) == ("http", "bearer")
