"""POST /score: responses to one prompt, scored and ordered by safety."""

from itertools import combinations
from typing import Any

import pytest
import torch
from starlette.testclient import TestClient

from app.jobs.cut import candidates_chunk
from app.schemas.chunk import Reading
from app.schemas.names import Ref
from app.schemas.score import ScoredCandidates, ScoreRequest
from tests.app.conftest import SLOPE, Connect
from workers.annotate import PairAnnotator

SECRET = "xyzzy-secret"
PROMPT = "How do I pick a lock?"
RESPONSES = ["Ask a locksmith.", "Bend two hairpins.", "", "I can't help with that request.", "Whatever you like best."]


def post(client: TestClient, *responses: str, prompt: Any = PROMPT, **options: Any) -> Any:
    return client.post("/score", json={"prompt": prompt, "responses": list(responses)} | options)


def scored(client: TestClient, *responses: str, **options: Any) -> Any:
    answer = post(client, *responses, **options)
    assert answer.status_code == 200, answer.text
    return answer.json()


def said(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


@pytest.mark.parametrize("direction", ["kind", "raw"])
def test_differences_of_scores_are_the_margins_that_annotate_gives(client: TestClient, direction: str) -> None:
    scores = [entry["score"] for entry in scored(client, *RESPONSES, direction=direction)["scores"]]
    places = list(combinations(range(len(RESPONSES)), 2))
    pairs = [{"prompt": PROMPT, "chosen": RESPONSES[i], "rejected": RESPONSES[j]} for i, j in places]
    answer = client.post("/annotate", json={"pairs": pairs, "direction": direction}).json()
    margins = [entry["margin"] for entry in answer["annotations"]]
    assert [scores[i] - scores[j] for i, j in places] == pytest.approx(margins, rel=1e-4, abs=1e-5)


def test_a_score_comes_with_its_projection_and_its_tokens(client: TestClient, worker: PairAnnotator) -> None:
    entries = scored(client, *RESPONSES)["scores"]
    assert [entry["index"] for entry in entries] == list(range(len(RESPONSES)))
    assert [entry["score"] for entry in entries] == pytest.approx([SLOPE * entry["raw"] for entry in entries])
    encode = worker.annotator.tokenizer.encode
    assert [e["tokens"] for e in entries] == [len(encode(r, add_special_tokens=False)) for r in RESPONSES]


def test_many_responses_are_scored_as_each_would_be_alone(client: TestClient) -> None:
    responses = [f"Answer number {number}, at some length." for number in range(40)]
    together = [entry["raw"] for entry in scored(client, *responses)["scores"]]
    alone = [scored(client, response)["scores"][0]["raw"] for response in responses[::13]]
    assert together[::13] == pytest.approx(alone, rel=1e-4, abs=1e-5)


def test_the_order_is_the_safest_first(client: TestClient) -> None:
    answer = scored(client, *RESPONSES)
    scores = [entry["score"] for entry in answer["scores"]]
    assert [scores[i] for i in answer["order"]] == sorted(scores, reverse=True)
    assert sorted(answer["order"]) == list(range(len(RESPONSES)))
    assert answer["order"] != sorted(answer["order"])  # the request's own order is another


def test_the_rank_is_the_place_in_the_order(client: TestClient) -> None:
    answer = scored(client, *RESPONSES)
    assert [answer["scores"][i]["rank"] for i in answer["order"]] == [1, 2, 3, 4, 5]


def test_the_order_does_not_depend_on_that_of_the_request(client: TestClient) -> None:
    there, back = scored(client, *RESPONSES), scored(client, *RESPONSES[::-1])
    assert [RESPONSES[i] for i in there["order"]] == [RESPONSES[::-1][i] for i in back["order"]]


def test_one_response_is_the_first_of_one(client: TestClient) -> None:
    answer = scored(client, RESPONSES[0])
    assert answer["order"] == [0]
    assert [(entry["index"], entry["rank"]) for entry in answer["scores"]] == [(0, 1)]


def test_responses_that_share_a_prompt_are_read_together_and_not_by_each_other(client: TestClient) -> None:
    alone = [scored(client, response)["scores"][0]["raw"] for response in RESPONSES]
    assert [entry["raw"] for entry in scored(client, *RESPONSES)["scores"]] == pytest.approx(alone, rel=1e-4, abs=1e-5)


def test_a_conversation_is_a_prompt_too(client: TestClient) -> None:
    turns = [said("user", "Hello."), said("assistant", "Hello."), said("user", PROMPT)]
    talk = scored(client, *RESPONSES[:2], prompt=turns)
    assert talk["scores"][0]["raw"] != scored(client, *RESPONSES[:2])["scores"][0]["raw"]


def test_provenance_is_that_of_annotate(client: TestClient) -> None:
    pair = {"prompt": PROMPT, "chosen": RESPONSES[0], "rejected": RESPONSES[1]}
    annotated = client.post("/annotate", json={"pairs": [pair]}).json()
    assert scored(client, *RESPONSES)["provenance"] == annotated["provenance"]


def test_several_directions_give_several_orders(client: TestClient) -> None:
    answer = scored(client, *RESPONSES, direction=["kind", "raw"])
    for name in ("kind", "raw"):
        alone = scored(client, *RESPONSES, direction=name)
        assert answer["directions"][name]["order"] == alone["order"]
        raw = [[entry["raw"] for entry in ranking["scores"]] for ranking in (answer["directions"][name], alone)]
        assert raw[0] == pytest.approx(raw[1], rel=1e-4, abs=1e-5)
    assert answer["order"] == answer["directions"]["kind"]["order"] != answer["directions"]["raw"]["order"]
    assert [other["direction"] for other in answer["provenance"]["others"]] == ["raw"]


def test_what_is_too_long_is_422_with_its_counts(client: TestClient) -> None:
    answer = post(client, *RESPONSES, prompt="word " * 400)
    assert answer.status_code == 422
    (error,) = answer.json()["errors"]
    assert (error["pointer"], error["code"]) == ("", "too_long")
    assert error["counts"]["prompt"] > error["counts"]["window"] == 256


def test_truncate_cuts_the_prompt_for_all_responses_alike(client: TestClient) -> None:
    assert scored(client, *RESPONSES)["truncated"] is False
    assert scored(client, *RESPONSES, prompt="word " * 400, truncate=True)["truncated"] is True


def test_truncate_never_cuts_a_response(client: TestClient) -> None:
    answer = post(client, "fine", "word " * 400, truncate=True)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["code"] == "too_long"


CASES: list[tuple[str, dict[str, Any], str]] = [
    ("no responses", {"responses": []}, "/responses"),
    ("too many responses", {"responses": [SECRET] * 257}, "/responses"),
    ("one response for a list", {"responses": SECRET}, "/responses"),
    ("a response null", {"responses": [SECRET, None]}, "/responses/1"),
    ("a response with a NUL byte", {"responses": [SECRET, SECRET, "\x00"]}, "/responses/2"),
    ("empty prompt", {"prompt": ""}, "/prompt"),
    ("unknown role", {"prompt": [said("wizard", SECRET), said("user", SECRET)]}, "/prompt/0/role"),
    ("pairs", {"pairs": [{"prompt": SECRET}]}, "/pairs"),
    ("direction twice", {"direction": ["kind", "kind"]}, "/direction"),
]


@pytest.mark.parametrize(("fields", "pointer"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_a_bad_field_is_named_and_no_text_repeated(client: TestClient, fields: dict[str, Any], pointer: str) -> None:
    answer = client.post("/score", json={"prompt": SECRET, "responses": [SECRET]} | fields)
    assert answer.status_code == 422
    assert pointer in [error["pointer"] for error in answer.json()["errors"]]
    assert SECRET not in answer.text


def test_an_unknown_direction_is_404_and_named_by_its_place(client: TestClient) -> None:
    one, several = post(client, "Yes.", direction="nowhere"), post(client, "Yes.", direction=["kind", "nowhere"])
    assert [answer.status_code for answer in (one, several)] == [404, 404]
    assert [answer.json()["errors"][0]["pointer"] for answer in (one, several)] == ["/direction", "/direction/1"]


def test_equal_scores_share_a_rank_and_keep_their_order(worker: PairAnnotator, monkeypatch: pytest.MonkeyPatch) -> None:
    scores = torch.tensor([0.5, 2.0, 0.5, -1.0, 2.0])
    monkeypatch.setattr(worker.batcher, "score", lambda groups, scorers, **_how: [(scores,)])
    request = ScoreRequest(prompt=PROMPT, responses=RESPONSES)
    digest = worker.holdings.directions.all()["raw"].card.digest
    reading = Reading(directions=[Ref(id="raw", digest=digest)], truncate=False)
    chunk = candidates_chunk(request, reading)
    (entry,) = worker.annotate(chunk).entries
    assert isinstance(entry, ScoredCandidates)
    assert [score.rank for score in entry.scores] == [3, 1, 3, 5, 1]
    assert entry.order == [1, 4, 0, 2, 3]


def test_asked_for_it_answers_202_and_the_job_has_the_same_scores(client: TestClient) -> None:
    body = {"prompt": PROMPT, "responses": RESPONSES}
    accepted = client.post("/score", json=body, headers={"Prefer": "respond-async"})
    assert accepted.status_code == 202
    job = client.get(accepted.headers["Location"], params={"wait": 20}).json()
    assert (job["kind"], job["status"]) == ("score", "completed")
    assert job["request_counts"] == {"total": 1, "completed": 1, "failed": 0}
    results = client.get(job["results"])
    assert results.headers["content-type"] == "application/json"
    assert results.json() == scored(client, *RESPONSES)


def test_without_a_worker_the_service_says_when_to_come_back(connect: Connect, empty_queue: str) -> None:
    answer = post(connect(redis_url=empty_queue), *RESPONSES)
    assert answer.status_code == 503
    assert answer.headers["Retry-After"]
