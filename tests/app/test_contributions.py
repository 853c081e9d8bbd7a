"""`"contributions": true`: what every token adds to the margin or to the score."""

from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.app.conftest import SLOPE
from tests.app.test_annotate import LOCK, TALK

RESPONSES = ["Ask a locksmith.", "Bend two hairpins, naïve 🔪!", ""]


def annotated(client: TestClient, *pairs: dict[str, Any], **options: Any) -> Any:
    answer = client.post("/annotate", json={"pairs": list(pairs), "contributions": True} | options)
    assert answer.status_code == 200, answer.text
    return answer.json()


def total(tokens: list[dict[str, Any]]) -> float:
    return float(sum(token["contribution"] for token in tokens))


def test_they_add_up_to_the_margin(client: TestClient) -> None:
    for entry in annotated(client, LOCK, TALK)["annotations"]:
        own = entry["contributions"]
        assert total(own["chosen"]) - total(own["rejected"]) == pytest.approx(entry["margin"])
        assert total(own["chosen"]) == pytest.approx(SLOPE * entry["raw"]["chosen"])


def test_the_margin_is_that_of_a_request_without_them(client: TestClient) -> None:
    (plain,) = client.post("/annotate", json={"pairs": [LOCK]}).json()["annotations"]
    (entry,) = annotated(client, LOCK)["annotations"]
    assert "contributions" not in plain
    assert entry["margin"] == pytest.approx(plain["margin"], rel=1e-4)


def test_their_texts_join_to_the_response_and_the_last_is_the_end_of_the_turn(client: TestClient) -> None:
    answer = client.post("/score", json={"prompt": "Hello?", "responses": RESPONSES, "contributions": True}).json()
    for text, score in zip(RESPONSES, answer["scores"], strict=True):
        *tokens, end = score["contributions"]
        assert "".join(token["text"] for token in tokens) == text
        assert end["text"] is None
        assert len(tokens) == score["tokens"]
        assert total(score["contributions"]) == pytest.approx(score["score"])


def test_every_direction_has_its_own(client: TestClient) -> None:
    (entry,) = annotated(client, LOCK, direction=["kind", "raw"])["annotations"]
    for said in entry["directions"].values():
        assert total(said["contributions"]["chosen"]) - total(said["contributions"]["rejected"]) == pytest.approx(
            said["margin"]
        )
    assert entry["contributions"] == entry["directions"]["kind"]["contributions"]
    assert entry["directions"]["raw"]["contributions"] != entry["contributions"]


def test_they_come_beside_what_the_rules_say(client: TestClient) -> None:
    (entry,) = annotated(client, LOCK, explain=True, rules={"pool": "tiny-rules", "k": 2})["annotations"]
    assert entry["rules"]["critical"] and entry["contributions"]["chosen"]


def test_a_pair_that_cannot_be_read_fails_alone(client: TestClient) -> None:
    failed, fine = annotated(client, {**LOCK, "id": "long", "prompt": "word " * 400}, LOCK)["annotations"]
    assert failed["error"]["code"] == "too_long"
    assert fine["contributions"]


def test_a_job_of_a_small_request_keeps_them(client: TestClient) -> None:
    body = {"pairs": [LOCK], "contributions": True}
    accepted = client.post("/annotate", json=body, headers={"Prefer": "respond-async"})
    job = client.get(accepted.headers["Location"], params={"wait": 20}).json()
    (row,) = client.get(job["results"]).text.splitlines()
    assert '"contributions":{"chosen":[{' in row
    assert client.get(job["results"], params={"type": "parquet"}).content[:4] == b"PAR1"


@pytest.mark.parametrize(
    "body",
    [
        {"pairs": [{**LOCK, "id": str(i)} for i in range(17)]},
        {"pairs": [LOCK], "method": "rules", "rules": {"pool": "tiny-rules"}},
        {"pairs": [LOCK], "method": "rahf", "alignment": "any"},
        {"pairs": [LOCK], "method": "reward", "reward_model": "any"},
        {"prompt": "Hello?", "responses": ["Yes."] * 33},
        {"prompt": "Hello?", "responses": ["Yes."], "method": "reward", "reward_model": "any"},
    ],
    ids=["too many pairs", "rules", "rahf", "reward", "too many responses", "reward of responses"],
)
def test_what_is_not_to_be_explained_is_refused(client: TestClient, body: dict[str, Any]) -> None:
    answer = client.post("/score" if "responses" in body else "/annotate", json=body | {"contributions": True})
    assert answer.status_code == 422
    assert [error["pointer"] for error in answer.json()["errors"]] == ["/contributions"]


def test_files_are_too_large_for_them(client: TestClient) -> None:
    answer = client.post("/jobs", json={"file": "file-" + "0" * 32, "contributions": True})
    assert answer.status_code == 422
    assert [error["pointer"] for error in answer.json()["errors"]] == ["/contributions"]
