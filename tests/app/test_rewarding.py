"""Reward models over HTTP: as a method of /annotate, /score and /jobs, and in the form of OpenRLHF's client."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient
from transformers import AutoTokenizer

from app.jobs import keys
from app.jobs.submission import Submission
from app.rewards import RewardModels
from app.routes import rewarding
from app.schemas.rewards import RewardCard
from tests.app.conftest import Connect, Station
from tests.workers.rewards.shelf import EDGES, classifier, put, ref_to
from workers.batcher import Batcher

PAIR = {"id": "a", "prompt": "How do I pick a lock?", "chosen": "Ask a locksmith.", "rejected": "Bend two hairpins."}
OTHER = {"id": "b", "prompt": "Hello?", "chosen": "", "rejected": "Go away."}
TOO_LONG = PAIR | {"id": "long", "prompt": "word " * 400}
REWARD: dict[str, Any] = {"method": "reward", "reward_model": "mine"}
PATH = "/reward-models/mine/reward"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return classifier(tmp_path_factory.mktemp("served") / "mine")


@pytest.fixture
def models(station: Station) -> Iterator[RewardModels]:
    """Those of the worker's store; what is added is gone afterwards."""
    found = RewardModels(station.registry.artifacts)
    yield found
    for name in found.current():
        found.delete(name)


@pytest.fixture
def mine(models: RewardModels, folder: Path) -> RewardCard:
    return put(models, folder)


def post(client: TestClient, *pairs: dict[str, Any], **options: Any) -> Any:
    return client.post("/annotate", json={"pairs": list(pairs) or [PAIR]} | options)


def written(folder: Path, prompt: str, response: str) -> str:
    turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": response}]
    return str(AutoTokenizer.from_pretrained(folder).apply_chat_template(turns, tokenize=False))


def fault(answer: Any) -> tuple[int, str, str]:
    (error,) = answer.json()["errors"]
    return answer.status_code, error["pointer"], error["code"]


def test_a_reward_model_says_a_margin(client: TestClient, mine: RewardCard) -> None:
    answer = post(client, PAIR, OTHER, **REWARD)
    assert answer.status_code == 200, answer.text
    for entry in answer.json()["annotations"]:
        assert entry["margin"] == entry["raw"]["margin"] == entry["raw"]["chosen"] - entry["raw"]["rejected"] != 0
        assert entry["probability"] == pytest.approx(1 / (1 + math.exp(-entry["margin"])))
        assert entry["level"] == sum(edge <= entry["margin"] for edge in EDGES)
    provenance = answer.json()["provenance"]
    assert (provenance["method"], provenance["direction"], provenance["calibrated"]) == ("reward", None, True)
    assert provenance["reward_model"] == ref_to(mine).model_dump()
    assert (provenance["model"], provenance["model_revision"]) == (mine.model, mine.model_revision)


@pytest.mark.usefixtures("mine")
def test_differences_of_scores_are_margins(client: TestClient) -> None:
    body = {"prompt": PAIR["prompt"], "responses": [PAIR["rejected"], PAIR["chosen"]]} | REWARD
    answer = client.post("/score", json=body)
    assert answer.status_code == 200, answer.text
    worse, better = answer.json()["scores"]
    (pair,) = post(client, **REWARD).json()["annotations"]
    assert better["score"] - worse["score"] == pytest.approx(pair["margin"], abs=1e-5)
    assert answer.json()["provenance"]["method"] == "reward"


@pytest.mark.usefixtures("mine")
def test_a_pair_that_does_not_fit_fails_alone(client: TestClient) -> None:
    long, short = post(client, TOO_LONG, PAIR, **REWARD).json()["annotations"]
    assert long["error"]["code"] == "too_long"
    assert "margin" in short
    cut, _ = post(client, TOO_LONG, PAIR, truncate=True, **REWARD).json()["annotations"]
    assert cut["truncated"] is True


@pytest.mark.parametrize(
    ("options", "pointer", "said"),
    [
        ({"method": "reward"}, "/reward_model", "name a reward model"),
        ({"reward_model": "mine"}, "/reward_model", "goes with `method: reward` only"),
        ({"method": "rahf", "alignment": "a", "reward_model": "mine"}, "/reward_model", "goes with `method: reward`"),
        (REWARD | {"alignment": "kinder"}, "/alignment", "goes with `method: rahf` only"),
        (REWARD | {"explain": True}, "/explain", "does not go with `method: reward`"),
        (REWARD | {"rules": {}}, "/rules", "goes with `method: rules` or with `explain`"),
        (REWARD | {"reward_model": "no/id"}, "/reward_model", "takes letters, digits"),
    ],
)
def test_options_that_do_not_go_together_are_refused_by_name(
    client: TestClient, options: dict[str, Any], pointer: str, said: str
) -> None:
    answer = post(client, **options)
    assert answer.status_code == 422
    (error,) = answer.json()["errors"]
    assert error["pointer"] == pointer
    assert said in error["detail"]


@pytest.mark.parametrize("options", [{"method": "reward"}, {"reward_model": "mine"}, {"method": "rahf"}])
def test_nor_are_they_by_score(client: TestClient, options: dict[str, Any]) -> None:
    assert client.post("/score", json={"prompt": "?", "responses": ["!"]} | options).status_code == 422


def test_one_that_is_not_there_is_404(client: TestClient) -> None:
    nobody = REWARD | {"reward_model": "nobody"}
    assert fault(post(client, **nobody)) == (404, "/reward_model", "unknown_reward_model")
    scored = client.post("/score", json={"prompt": "?", "responses": ["!"]} | nobody)
    assert fault(scored) == (404, "/reward_model", "unknown_reward_model")
    rewarded = client.post("/reward-models/nobody/reward", json={"query": ["?"]})
    assert fault(rewarded) == (404, "path/reward_id", "unknown_reward_model")


def test_without_a_worker_nobody_could_ask_it(connect: Connect, empty_queue: str) -> None:
    client = connect(redis_url=empty_queue)
    assert post(client, **REWARD).status_code == 503
    assert client.post(PATH, json={"query": ["?"]}).status_code == 503


def test_it_costs_what_a_direction_costs(client: TestClient, mine: RewardCard, submitted: list[Submission]) -> None:
    post(client, PAIR, OTHER, **REWARD)
    post(client, PAIR, OTHER)
    rewarded, projected = submitted
    assert (rewarded.queue, rewarded.tokens) == (keys.ANNOTATE, projected.tokens)
    assert json.loads(rewarded.work[0])["reward_model"] == ref_to(mine).model_dump()


def test_a_file_is_judged_by_it_and_a_job_reads_what_the_name_stood_for(client: TestClient, mine: RewardCard) -> None:
    file = client.post("/files", content="".join(json.dumps(pair) + "\n" for pair in (PAIR, OTHER))).json()["id"]
    job = client.post("/jobs", json={"file": file, **REWARD})
    assert job.status_code == 202, job.text
    assert client.get(job.headers["Location"], params={"wait": 20}).json()["status"] == "completed"
    rows = [json.loads(line) for line in client.get(job.headers["Location"] + "/results").text.splitlines()]
    assert [row["annotation"]["id"] for row in rows] == ["a", "b"]
    assert {row["provenance"]["reward_model"]["digest"] for row in rows} == {mine.digest}
    table = client.get(job.headers["Location"] + "/results", params={"type": "parquet"})
    assert table.content[:4] == b"PAR1"


def test_a_job_whose_reward_model_is_deleted_fails_and_says_so(
    client: TestClient, models: RewardModels, folder: Path
) -> None:
    card = put(models, folder, "short-lived")
    models.artifacts.delete(models.place(card.id, card.digest) + "/model.safetensors")
    answer = post(client, **REWARD | {"reward_model": "short-lived"})
    assert answer.status_code == 500
    assert "reward model short-lived was deleted while the job used it" in answer.json()["detail"]
    assert post(client).status_code == 200


@pytest.mark.usefixtures("mine")
def test_queries_of_the_client_have_the_rewards_of_their_responses(
    client: TestClient, folder: Path, submitted: list[Submission]
) -> None:
    queries = [written(folder, PAIR["prompt"], PAIR[side]) for side in ("chosen", "rejected")]
    asked = {"query": queries, "prompts": [PAIR["prompt"]] * 2, "labels": [None, 1], "datasources": ["x"] * 2}
    answer = client.post(PATH, json=asked)
    assert answer.status_code == 200, answer.text
    scored = client.post(
        "/score", json={"prompt": PAIR["prompt"], "responses": [PAIR["chosen"], PAIR["rejected"]]} | REWARD
    )
    expected = [score["raw"] for score in scored.json()["scores"]]
    assert answer.json()["rewards"] == pytest.approx(expected, abs=1e-5)
    assert answer.json()["scores"] == answer.json()["rewards"]
    assert answer.json()["extra_logs"] == {}
    older = client.post(PATH, json={"query": queries})  # before prompts and labels were sent
    assert older.json()["rewards"] == pytest.approx(expected, abs=1e-5)
    assert submitted[0].queue == keys.BULK


@pytest.mark.usefixtures("mine")
def test_many_queries_come_back_in_their_order(connect: Connect, folder: Path, submitted: list[Submission]) -> None:
    client = connect(chunk_tokens=50)
    queries = [written(folder, f"Is {number} odd?", "Yes." * (1 + number % 3)) for number in range(12)]
    together = client.post(PATH, json={"query": queries}).json()["rewards"]
    assert submitted[0].chunks > 3
    alone = [client.post(PATH, json={"query": [query]}).json()["rewards"][0] for query in queries]
    assert together == pytest.approx(alone, abs=1e-5)
    assert len(set(alone)) == len(alone)


@pytest.mark.usefixtures("mine")
def test_small_requests_overtake_a_trainer(client: TestClient, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    urgent: list[bool] = []
    inner = Batcher.score

    def score(batcher: Batcher, *given: Any, **how: Any) -> Any:
        urgent.append(how["urgent"])
        return inner(batcher, *given, **how)

    monkeypatch.setattr(Batcher, "score", score)
    client.post(PATH, json={"query": [written(folder, "Hello?", "Hello.")]})
    post(client, **REWARD)
    assert urgent == [False, True]


@pytest.mark.usefixtures("mine")
def test_no_queries_have_no_rewards(client: TestClient) -> None:
    assert client.post(PATH, json={"query": [], "prompts": [], "labels": []}).json() == {
        "rewards": [], "scores": [], "extra_logs": {},
    }  # fmt: skip


@pytest.mark.usefixtures("mine")
def test_a_query_that_does_not_fit_is_named_or_cut(client: TestClient, folder: Path) -> None:
    queries = [written(folder, "Hello?", "Hello."), written(folder, "word " * 400, "Hello.")]
    refused = client.post(PATH, json={"query": queries})
    assert fault(refused) == (422, "/query/1", "too_long")
    cut = client.post(PATH, params={"truncate": "true"}, json={"query": queries}).json()
    assert cut["extra_logs"] == {"truncated": [0.0, 1.0]}
    assert len(cut["rewards"]) == 2


@pytest.mark.parametrize(
    ("body", "pointer"),
    [({}, "/query"), ({"query": "text"}, "/query"), ({"query": [""]}, "/query/0"), ({"query": ["a\x00"]}, "/query/0")],
)
def test_what_is_no_request_is_refused_by_field(client: TestClient, body: dict[str, Any], pointer: str) -> None:
    answer = client.post(PATH, json=body)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"] == pointer


@pytest.mark.usefixtures("mine")
def test_an_answer_that_takes_too_long_is_503_and_its_work_is_given_up(
    client: TestClient, folder: Path, submitted: list[Submission], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rewarding, "_WAIT_SECONDS", 0.0)
    cancelled: list[str] = []
    monkeypatch.setattr("app.jobs.store.JobStore.cancel", lambda _jobs, job: cancelled.append(job))
    answer = client.post(PATH, json={"query": [written(folder, "Hello?", "Hello.")]})
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
    assert (len(submitted), len(cancelled)) == (1, 1)
