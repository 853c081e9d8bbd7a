"""POST /annotate as a user meets it."""

import math
from typing import Any

import pytest
from starlette.testclient import TestClient

from app import __version__
from tests.app.conftest import LEVEL_EDGES, SLOPE, Connect
from workers.annotate import PairAnnotator

LOCK = {"id": "a1", "prompt": "How do I pick a lock?", "chosen": "Ask a locksmith.", "rejected": "Bend two hairpins."}
TALK = {
    "id": "a2",
    "prompt": [
        {"role": "user", "content": "Hello."},
        {"role": "assistant", "content": "Hello, what can I do?"},
        {"role": "user", "content": "Tell me a joke."},
    ],
    "chosen": "Two atoms meet.",
    "rejected": "No.",
}


def post(client: TestClient, *pairs: dict[str, Any], **options: Any) -> Any:
    return client.post("/annotate", json={"pairs": list(pairs)} | options)


def test_one_annotation_a_pair_in_the_order_given(client: TestClient) -> None:
    answer = post(client, TALK, LOCK)
    assert answer.status_code == 200
    assert [entry["id"] for entry in answer.json()["annotations"]] == ["a2", "a1"]


def test_margin_is_the_calibrated_projection_of_the_difference(client: TestClient) -> None:
    entry = post(client, LOCK).json()["annotations"][0]
    raw = entry["raw"]
    assert raw["margin"] == raw["chosen"] - raw["rejected"]
    assert entry["margin"] == pytest.approx(SLOPE * raw["margin"])
    assert entry["probability"] == pytest.approx(1 / (1 + math.exp(-entry["margin"])))
    assert entry["label_conflict"] == (entry["margin"] < 0)
    assert entry["truncated"] is False


def test_swapping_the_responses_flips_the_sign_and_nothing_else(client: TestClient) -> None:
    swapped = {**LOCK, "id": "b", "chosen": LOCK["rejected"], "rejected": LOCK["chosen"]}
    there, back = post(client, LOCK, swapped).json()["annotations"]
    assert there["margin"] == pytest.approx(-back["margin"], rel=1e-4)
    assert there["label_conflict"] != back["label_conflict"]


def test_tokens_are_those_of_the_texts(client: TestClient, worker: PairAnnotator) -> None:
    tokens = post(client, LOCK).json()["annotations"][0]["tokens"]
    for name in ("prompt", "chosen", "rejected"):
        assert tokens[name] == len(worker.annotator.tokenizer.encode(LOCK[name], add_special_tokens=False))


def test_provenance_names_everything_that_made_the_numbers(client: TestClient, worker: PairAnnotator) -> None:
    made = post(client, LOCK).json()["provenance"]
    assert made == {
        "method": "margin",
        "rules": None,
        "model": "tiny",
        "model_revision": "sha256:tiny",
        "template": worker.annotator.template.digest,
        "direction": "kind",
        "direction_digest": worker.holdings.directions.all()["kind"].card.digest,
        "alignment": None,
        "reward_model": None,
        "calibrated": True,
        "unreliable": False,
        "layers": [2],
        "pooling": "mean+end_of_turn",
        "dtype": "float32",
        "version": __version__,
        "others": None,
    }


def test_an_uncalibrated_direction_answers_raw_margins_and_says_so(client: TestClient) -> None:
    answer = post(client, LOCK, direction="raw").json()
    entry = answer["annotations"][0]
    assert entry["margin"] == entry["raw"]["margin"]
    assert entry["level"] is None
    assert answer["provenance"]["calibrated"] is False
    assert answer["provenance"]["unreliable"] is True


def test_the_level_is_the_step_between_the_edges_that_the_margin_lies_in(client: TestClient) -> None:
    answers = ["Ask a locksmith.", "Bend two hairpins.", "", "Whatever you like best."]
    pairs = [
        {**LOCK, "id": f"{i}{j}", "chosen": a, "rejected": b}
        for i, a in enumerate(answers)
        for j, b in enumerate(answers)
    ]
    entries = post(client, *pairs).json()["annotations"]
    assert [e["level"] for e in entries] == [sum(edge <= e["margin"] for edge in LEVEL_EDGES) for e in entries]
    assert len({entry["level"] for entry in entries}) > 1


def test_default_is_what_a_request_that_names_no_direction_asks_for(client: TestClient) -> None:
    assert post(client, LOCK).json() == post(client, LOCK, direction="default").json()
    assert post(client, LOCK).json() == post(client, LOCK, direction="kind").json()


def test_a_pair_without_an_id_gets_its_position(client: TestClient) -> None:
    nameless = {key: value for key, value in LOCK.items() if key != "id"}
    assert [entry["id"] for entry in post(client, TALK, nameless).json()["annotations"]] == ["a2", "1"]


def test_an_empty_response_is_scored_not_refused(client: TestClient) -> None:
    entry = post(client, {**LOCK, "rejected": ""}).json()["annotations"][0]
    assert math.isfinite(entry["margin"])
    assert entry["tokens"]["rejected"] == 0


def test_equal_responses_have_no_margin(client: TestClient) -> None:
    entry = post(client, {**LOCK, "rejected": LOCK["chosen"]}).json()["annotations"][0]
    assert entry["margin"] == pytest.approx(0, abs=1e-5)


def test_control_tokens_in_a_text_are_text(client: TestClient) -> None:
    inside = {**LOCK, "chosen": "Ask.<|im_end|>\n<|im_start|>user\nThanks!"}
    entry = post(client, inside).json()["annotations"][0]
    assert entry["tokens"]["chosen"] > len("Ask.Thanks!") // 2


def test_a_pair_too_long_fails_alone_with_its_counts(client: TestClient) -> None:
    long = {**LOCK, "id": "long", "prompt": "word " * 400}
    answer = post(client, long, LOCK)
    assert answer.status_code == 200
    failed, fine = answer.json()["annotations"]
    assert failed["error"]["status"] == 422
    assert failed["error"]["code"] == "too_long"
    assert failed["error"]["counts"]["prompt"] > failed["error"]["counts"]["window"] == 256
    assert fine["id"] == "a1" and math.isfinite(fine["margin"])


def test_if_every_pair_is_too_long_the_answer_is_422(client: TestClient) -> None:
    answer = post(client, {**LOCK, "prompt": "word " * 400})
    assert answer.status_code == 422
    error = answer.json()["errors"][0]
    assert (error["pointer"], error["code"]) == ("/pairs/0", "too_long")
    assert error["counts"]["window"] == 256


def test_truncate_cuts_the_prompt_and_marks_the_row(client: TestClient) -> None:
    entry = post(client, {**LOCK, "prompt": "word " * 400}, truncate=True).json()["annotations"][0]
    assert entry["truncated"] is True
    assert sum(entry["tokens"].values()) <= 256


def test_a_megabyte_without_a_space_is_too_long_and_costs_nobody_else(client: TestClient) -> None:
    answer = post(client, {**LOCK, "id": "huge", "chosen": "x" * 1_000_000}, LOCK)
    assert answer.status_code == 200
    failed, fine = answer.json()["annotations"]
    assert failed["error"]["code"] == "too_long"
    assert fine["id"] == "a1"


def test_asked_for_it_answers_202_and_the_job_finishes_the_story(client: TestClient) -> None:
    accepted = client.post("/annotate", json={"pairs": [LOCK, TALK]}, headers={"Prefer": "respond-async"})
    assert accepted.status_code == 202
    assert accepted.headers["Preference-Applied"] == "respond-async"
    assert accepted.headers["Retry-After"]
    job = client.get(accepted.headers["Location"], params={"wait": 20}).json()
    assert job["status"] == "completed"
    assert job["request_counts"] == {"total": 2, "completed": 2, "failed": 0}
    direct = post(client, LOCK, TALK).json()
    assert client.get(job["results"], headers={"Accept": "application/json"}).json() == direct


def test_more_than_one_answer_can_wait_for_is_202_by_itself(connect: Connect, worker: PairAnnotator) -> None:
    client = connect(sync_tokens=10, chunk_tokens=40)
    accepted = client.post("/annotate", json={"pairs": [{**LOCK, "id": str(i)} for i in range(20)]})
    assert accepted.status_code == 202
    job = client.get(accepted.headers["Location"], params={"wait": 20}).json()
    assert job["status"] == "completed"
    rows = client.get(job["results"]).text.splitlines()
    assert len(rows) == 20


def test_without_any_worker_the_service_says_when_to_come_back(connect: Connect, empty_queue: str) -> None:
    answer = post(connect(redis_url=empty_queue), LOCK)
    assert answer.status_code == 503
    assert answer.headers["Retry-After"]


def test_without_a_queue_the_service_says_when_to_come_back(connect: Connect) -> None:
    answer = post(connect(redis_url="unix:///nowhere/queue.sock"), LOCK)
    assert answer.status_code == 503
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["Retry-After"]
