"""Rule pools over HTTP: stored, listed, shown, deleted, and refused where a rule could not be judged by."""

from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from app.artifacts import Artifacts
from app.rulebanks import CARD, RuleBanks
from app.rulepools import POOL
from tests.app.conftest import Connect
from tests.app.test_rulebanks import card

CALM = {"id": "calm", "category": "tone", "text": "The response stays calm."}
POLITE = {"id": "polite", "category": "tone", "text": "The response is polite to the user."}
SECRET = "the launch code is 0000"


@pytest.fixture
def client(connect: Connect, tmp_path: Path) -> TestClient:
    """An API on an empty store."""
    return connect(artifacts=str(tmp_path))


def add(client: TestClient, *rules: dict[str, Any], **options: Any) -> Any:
    return client.post("/rules", json={"id": "mine", "rules": list(rules)} | options)


def problem(answer: Any) -> tuple[int, str, str]:
    """Status, and pointer and code of the one field that an answer complains of."""
    assert answer.headers["content-type"] == "application/problem+json"
    (error,) = answer.json()["errors"]
    return answer.status_code, error["pointer"], error["code"]


def test_a_stored_pool_is_listed_and_shown(client: TestClient) -> None:
    answer = add(client, POLITE, CALM)
    assert (answer.status_code, answer.headers["Location"]) == (201, "/rules/mine")
    card = answer.json()
    assert card == {"id": "mine", "digest": card["digest"], "rules": 2, "categories": {"tone": 2}}
    assert client.get("/rules").json() == {"pools": [card]}
    shown = client.get("/rules/mine").json()
    assert shown == {"id": "mine", "digest": card["digest"], "rules": [CALM, POLITE]}


def test_no_worker_is_needed(connect: Connect, empty_queue: str, tmp_path: Path) -> None:
    client = connect(redis_url=empty_queue, artifacts=str(tmp_path))
    assert add(client, CALM).status_code == 201
    assert client.get("/rules/mine").status_code == 200


def test_the_same_rules_again_change_nothing(client: TestClient) -> None:
    assert add(client, CALM, POLITE).json() == add(client, POLITE, CALM).json()


def test_other_rules_under_a_taken_id_need_replace(client: TestClient) -> None:
    add(client, CALM)
    assert problem(add(client, POLITE)) == (409, "/id", "pool_exists")
    assert client.get("/rules/mine").json()["rules"] == [CALM]
    assert add(client, POLITE, replace=True).status_code == 201
    assert client.get("/rules/mine").json()["rules"] == [POLITE]


def test_a_deleted_pool_is_gone_and_its_id_free(client: TestClient) -> None:
    add(client, CALM)
    assert client.delete("/rules/mine").status_code == 204
    assert client.get("/rules").json() == {"pools": []}
    assert problem(client.get("/rules/mine")) == (404, "path/pool_id", "unknown_pool")
    assert problem(client.delete("/rules/mine")) == (404, "path/pool_id", "unknown_pool")
    assert add(client, POLITE).status_code == 201


def test_a_pool_that_a_bank_needs_is_not_deleted(client: TestClient, tmp_path: Path) -> None:
    digest = add(client, CALM).json()["digest"]
    banks = RuleBanks(Artifacts(str(tmp_path)))
    made = card("probes").model_copy(update={"pool_digest": digest})
    banks.publish("probes", made.digest, {CARD: made.model_dump_json().encode()})
    refused = client.delete("/rules/mine")
    assert problem(refused) == (409, "path/pool_id", "pool_needed")
    assert "1 rule bank (probes)" in refused.json()["detail"]
    assert add(client, POLITE, replace=True).status_code == 201
    assert client.delete("/rules/mine").status_code == 409, "its former rules are needed"
    banks.delete("probes")
    assert client.delete("/rules/mine").status_code == 204


def test_a_damaged_pool_hurts_no_other(client: TestClient, tmp_path: Path) -> None:
    digest = add(client, CALM).json()["digest"]
    add(client, POLITE, id="sound")
    (tmp_path / "rules" / "mine" / digest.removeprefix("sha256:") / POOL).write_bytes(b"nonsense")
    assert [card["id"] for card in client.get("/rules").json()["pools"]] == ["sound"]
    assert client.get("/rules/mine").status_code == 404


def test_what_cannot_be_an_id_is_422(client: TestClient) -> None:
    assert problem(add(client, CALM, id="../x"))[:2] == (422, "/id")
    assert problem(client.get("/rules/.hidden"))[:2] == (422, "path/pool_id")


@pytest.mark.parametrize(
    ("change", "pointer", "code"),
    [
        ({"id": "polite"}, "/rules/1/id", "duplicate_rule"),
        ({"id": "no id"}, "/rules/1/id", "string_pattern_mismatch"),
        ({"text": ""}, "/rules/1/text", "too_short"),
        ({"text": " \n "}, "/rules/1/text", "string_pattern_mismatch"),
        ({"text": "very " * 61}, "/rules/1/text", "rule_too_long"),
        ({"text": "very " * 10_000}, "/rules/1/text", "rule_too_long"),
        ({"text": "very" * 151}, "/rules/1/text", "rule_too_long"),
        ({"text": 3}, "/rules/1/text", "string_type"),
        ({"text": "nul \x00"}, "/rules/1/text", "value_error"),
        ({"category": " "}, "/rules/1/category", "string_pattern_mismatch"),
        ({"wait": 1}, "/rules/1/wait", "extra_forbidden"),
    ],
)
def test_a_rule_that_cannot_be_judged_by_is_named(
    client: TestClient, change: dict[str, Any], pointer: str, code: str
) -> None:
    answer = add(client, POLITE, CALM | {"text": SECRET} | change)
    assert problem(answer) == (422, pointer, code)
    assert SECRET not in answer.text
    assert client.get("/rules").json() == {"pools": []}


@pytest.mark.parametrize(
    "token",
    [
        "<|im_end|>",
        "<|start_header_id|>",
        "<｜User｜>",
        "[INST]",
        "[/inst]",
        "[AVAILABLE_TOOLS]",
        "<<SYS>>",
        "<</SYS>>",
        "<s>",
        "</s>",
        "<bos>",
        "<start_of_turn>",
    ],
)
def test_a_rule_with_something_like_a_control_token_is_refused(client: TestClient, token: str) -> None:
    answer = add(client, CALM | {"text": f"The response{token} stays calm."})
    assert problem(answer) == (422, "/rules/0/text", "control_token")


@pytest.mark.parametrize("text", ["Prices a < b | c > d stay right.", "It uses [brackets] and <b>bold</b>.", "No <3."])
def test_ordinary_brackets_are_no_control_tokens(client: TestClient, text: str) -> None:
    assert add(client, CALM | {"text": text}).status_code == 201


def test_white_space_in_a_rule_is_folded(client: TestClient) -> None:
    add(client, CALM | {"text": "  The response\n\nstays\tcalm. "})
    assert client.get("/rules/mine").json()["rules"] == [CALM]


def test_a_pool_has_a_rule_at_least_and_512_at_most(client: TestClient) -> None:
    assert problem(add(client)) == (422, "/rules", "too_short")
    many = [CALM | {"id": f"calm-{i}"} for i in range(513)]
    assert problem(add(client, *many)) == (422, "/rules", "too_long")
    assert add(client, *many[:512]).json()["rules"] == 512
