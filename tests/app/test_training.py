"""POST /training: a rule adapter made by a running worker, from an uploaded file; test_alignments has RAHF."""

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from redis import Redis
from starlette.testclient import TestClient
from torch import Tensor

from app.artifacts import Artifacts
from app.auth.keys import Keys
from app.jobs import keys
from app.jobs.store import JobStore
from app.ruleadapters import RuleAdapters
from app.rulebanks import RuleBanks
from app.rulepools import RulePools
from app.schemas.names import Ref
from app.schemas.pairs import Pair
from app.schemas.training import AdapterTask
from tests.app.conftest import Connect, Station
from tests.app.jobs.conftest import PLENTY, submission
from tests.workers.rules.adapting.conftest import telling_pairs
from tests.workers.rules.adapting.test_teach import options
from tests.workers.rules.test_bank import POOL, made
from workers.engine.annotator import Annotator
from workers.rules.adapting.classifier import Classifier
from workers.rules.bank import RuleBank, to_files

COUNT = 48
SECRET = "xyzzy-secret"


@pytest.fixture(scope="module")
def bank(annotator: Annotator) -> RuleBank:
    return made(annotator)


@pytest.fixture(autouse=True)
def store(station: Station, bank: RuleBank) -> Iterator[Artifacts]:
    """The worker's store with the pool `tiny` and its bank `mine`; what is added is gone afterwards."""
    artifacts = station.registry.artifacts
    RulePools(artifacts).add("tiny", POOL)
    RuleBanks(artifacts).publish("mine", bank.digest, to_files(bank))
    station.look_at_store()
    yield artifacts
    for shelf in (RulePools(artifacts), RuleBanks(artifacts), RuleAdapters(artifacts)):
        for name in shelf.current().keys() & {"tiny", "others", "mine", "new"}:
            shelf.delete(name)
    station.look_at_store()


def upload(client: TestClient, count: int = COUNT) -> str:
    lines = [pair.model_dump_json(exclude_none=True) for pair in telling_pairs(count)]
    return str(client.post("/files", content="\n".join(lines)).json()["id"])


def body(client: TestClient, kind: str = "head", **more: Any) -> dict[str, Any]:
    given = {
        "method": "rule-adapter",
        "kind": kind,
        "id": "new",
        "data": upload(client),
        "pool": "tiny",
        "bank": "mine",
    }
    return given | {"k": 1} | more


def post(client: TestClient, kind: str = "head", **more: Any) -> Any:
    return client.post("/training", json=body(client, kind, **more))


def finished(client: TestClient, answer: Any) -> Any:
    """The job that an answer announced, once it is over."""
    assert answer.status_code == 202, answer.text
    return client.get(answer.headers["Location"], params={"wait": 60}).json()


def fault(answer: Any) -> tuple[int, str, str]:
    """Status, and pointer and code of the first field that an answer complains of."""
    assert answer.headers["content-type"] == "application/problem+json"
    error = answer.json()["errors"][0]
    return answer.status_code, error["pointer"], error["code"]


@pytest.mark.parametrize(("kind", "more"), [("head", {}), ("lora", {"epochs": 1, "rank": 2})])
def test_training_is_a_job_that_ends_with_id_digest_and_measures(
    client: TestClient, kind: str, more: dict[str, Any]
) -> None:
    accepted = post(client, kind, **more)
    job = finished(client, accepted)
    assert (job["kind"], job["status"], job["error"]) == ("training", "completed", None)
    answer = client.get(job["results"]).json()
    card = client.get("/rule-adapters/new").json()
    assert answer == {"id": "new", "digest": card["digest"], "measures": card["measures"]}
    assert (card["kind"], card["pool_digest"], card["k"]) == (kind, POOL.digest, 1)
    assert {reading["chooser"] for reading in card["measures"]["choosers"]} == {
        "adapter",
        "frequent",
        "critical",
        "all",
    }
    assert client.get("/rule-adapters").json() == {"adapters": [card]}


@pytest.mark.parametrize(("kind", "more"), [("head", {}), ("lora", {"epochs": 1, "rank": 2})])
def test_a_new_adapter_chooses_the_rules_of_a_pair_whichever_side_is_which(
    client: TestClient, kind: str, more: dict[str, Any]
) -> None:
    finished(client, post(client, kind, **more))
    pair = telling_pairs(1)[0].model_dump(exclude_none=True)
    swapped = pair | {"chosen": pair["rejected"], "rejected": pair["chosen"]}
    rules = {"pool": "tiny", "bank": "mine", "policy": "adapter", "adapter": "new", "k": 1}
    answer = client.post("/annotate", json={"method": "rules", "rules": rules, "pairs": [pair, swapped]})
    assert answer.status_code == 200, answer.text
    one, other = (entry["rules"]["critical"] for entry in answer.json()["annotations"])
    assert [rule["rule"] for rule in one] == [rule["rule"] for rule in other]
    assert len(one) == 1
    made_by = answer.json()["provenance"]["rules"]
    assert (made_by["adapter"], made_by["policy"]) == ("new", "adapter")
    card = client.get("/rule-adapters/new").json()
    assert made_by["adapter_digest"] == card["digest"]
    assert made_by["calibrated"] is (card["reading"] is not None)
    if card["reading"]:
        margins = [entry["raw"]["margin"] * card["reading"]["slope"] for entry in answer.json()["annotations"]]
        assert [entry["margin"] for entry in answer.json()["annotations"]] == pytest.approx(margins)
    other = client.post("/annotate", json={"method": "rules", "rules": rules | {"k": 2}, "pairs": [pair]}).json()
    assert other["provenance"]["rules"]["calibrated"] is False


@pytest.mark.parametrize(("fault", "code"), [(None, "forward_failed"), (float("nan"), "not_finite")])
def test_a_pair_on_which_a_classifier_fails_fails_alone(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, fault: float | None, code: str
) -> None:
    finished(client, post(client, "lora", epochs=1, rank=2))
    fine, guilty, other = (pair.model_dump(exclude_none=True) for pair in telling_pairs(3))
    likely = Classifier.likely

    def failing(classifier: Classifier, pairs: Sequence[Pair]) -> Tensor:
        found = likely(classifier, pairs)
        if any(pair.chosen == guilty["chosen"] for pair in pairs):
            if fault is None:
                raise RuntimeError("out of memory")
            found[:, 0] = fault
        return found

    monkeypatch.setattr(Classifier, "likely", failing)
    rules = {"pool": "tiny", "bank": "mine", "policy": "adapter", "adapter": "new", "k": 1}
    body = {"method": "rules", "rules": rules, "pairs": [fine, guilty, other]}
    first, second, third = client.post("/annotate", json=body, headers={"Prefer": "wait=30"}).json()["annotations"]
    assert second["error"]["code"] == code
    assert len(first["rules"]["critical"]) == len(third["rules"]["critical"]) == 1


def test_an_adapter_made_for_other_rules_or_for_none_is_refused(client: TestClient) -> None:
    finished(client, post(client))
    rules = {"pool": "tiny-rules", "policy": "adapter", "adapter": "new"}
    pairs = [telling_pairs(1)[0].model_dump(exclude_none=True)]
    for given, complaint in (
        (rules, (422, "/rules/adapter", "other_pool")),
        (rules | {"adapter": "never"}, (404, "/rules/adapter", "unknown_adapter")),
    ):
        assert fault(client.post("/annotate", json={"method": "rules", "rules": given, "pairs": pairs})) == complaint


def test_an_adapter_can_be_deleted(client: TestClient) -> None:
    finished(client, post(client))
    assert client.delete("/rule-adapters/new").status_code == 204
    assert fault(client.get("/rule-adapters/new")) == (404, "path/adapter_id", "unknown_adapter")
    assert fault(client.delete("/rule-adapters/new")) == (404, "path/adapter_id", "unknown_adapter")
    assert client.get("/rule-adapters").json() == {"adapters": []}


def test_a_taken_id_is_409_unless_it_may_be_replaced(client: TestClient) -> None:
    finished(client, post(client))
    assert fault(post(client)) == (409, "/id", "adapter_exists")
    assert finished(client, post(client, replace=True, seed=1))["status"] == "completed"
    assert client.get("/rule-adapters/new").json()["settings"]["seed"] == 1


def test_an_id_that_is_taken_while_the_job_waits_fails_it(client: TestClient, redis_url: str, bank: RuleBank) -> None:
    finished(client, post(client))
    before = client.get("/rule-adapters/new").json()
    pool, probes = Ref(id="tiny", digest=POOL.digest), Ref(id="mine", digest=bank.card.digest)
    task = AdapterTask(options=options(id="new"), data=upload(client), pool=pool, bank=probes)
    with Redis.from_url(redis_url) as redis:
        work = submission(kind="training", queue=keys.TRAIN, work=[task.model_dump_json().encode()])
        job_id = JobStore(redis).submit(work, limit=PLENTY)
    job = client.get(f"/jobs/{job_id}", params={"wait": 60}).json()
    assert (job["status"], job["error"]) == ("failed", "another rule adapter called new has come into being meanwhile")
    assert client.get("/rule-adapters/new").json() == before


MISSING = {
    "file": ({"data": "file-" + "0" * 32}, (404, "/data", "unknown_file")),
    "pool": ({"pool": "nowhere"}, (404, "/pool", "unknown_pool")),
    "bank": ({"bank": "nobody"}, (404, "/bank", "unknown_bank")),
    "kind": ({"kind": "tail"}, (422, "/kind", "union_tag_invalid")),
    "method": ({"method": "magic"}, (422, "/method", "union_tag_invalid")),
    "no method": ({"method": None}, (422, "/method", "union_tag_invalid")),
    "field of another method": ({"preset": "small"}, (422, "/preset", "extra_forbidden")),
    "bank of logits": ({"rater": "logits"}, (422, "/bank", "contradiction")),
    "robust logits": ({"rater": "logits", "bank": None, "policy": "robust"}, (422, "/policy", "contradiction")),
    "rank of a head": ({"rank": 4}, (422, "/rank", "extra_forbidden")),
    "no rules": ({"k": 0}, (422, "/k", "greater_than_equal")),
    "no epochs": ({"epochs": 0}, (422, "/epochs", "greater_than_equal")),
    "file of another name": ({"data": SECRET}, (422, "/data", "string_pattern_mismatch")),
}


@pytest.mark.parametrize(("change", "expected"), MISSING.values(), ids=MISSING)
def test_what_is_missing_or_wrong_is_named(
    client: TestClient, change: dict[str, Any], expected: tuple[int, str, str]
) -> None:
    answer = post(client, **change)
    assert fault(answer) == expected
    assert SECRET not in answer.text


def test_a_bank_made_for_other_rules_is_refused(client: TestClient) -> None:
    client.post("/rules", json={"id": "others", "rules": [POOL.rules[0].model_dump()]})
    assert fault(post(client, pool="others")) == (422, "/bank", "other_pool")


def test_the_newest_bank_of_the_pool_teaches_where_none_is_named(client: TestClient) -> None:
    finished(client, post(client, bank=None))
    assert client.get("/rule-adapters/new").json()["bank"] == "mine"
    client.post("/rules", json={"id": "others", "rules": [POOL.rules[0].model_dump()]})
    assert fault(post(client, id="other", pool="others", bank=None)) == (404, "/pool", "no_bank")


def test_pairs_that_teach_nothing_fail_the_job_with_the_reason(client: TestClient) -> None:
    job = finished(client, post(client, data=upload(client, 10)))
    assert job["status"] == "failed"
    assert job["error"] == "10 pairs are too few to teach a rule adapter; at least 40 are needed"
    assert client.get("/rule-adapters").json() == {"adapters": []}


def test_a_repeated_request_is_one_job(client: TestClient) -> None:
    wanted, headers = body(client), {"Idempotency-Key": "once"}
    first = client.post("/training", json=wanted, headers=headers)
    finished(client, first)
    again = client.post("/training", json=wanted, headers=headers)
    assert again.headers["Location"] == first.headers["Location"]


def test_training_needs_the_scope_train(connect: Connect, station: Station) -> None:
    guarded = connect(auth=True)
    _, key = Keys(station.registry.artifacts).create("reader", "reader", ["annotate"])
    guarded.headers["Authorization"] = f"Bearer {key}"
    assert guarded.get("/rule-adapters").status_code == 200
    wanted = body(guarded)
    assert guarded.post("/training", json=wanted).status_code == 403
    assert guarded.delete("/rule-adapters/new").status_code == 403


def test_without_a_worker_nobody_would_ever_come_to_it(connect: Connect, client: TestClient, empty_queue: str) -> None:
    lonely = connect(redis_url=empty_queue)
    answer = lonely.post("/training", json=body(lonely))
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")


@pytest.mark.parametrize("kind", ["head", "lora"])
def test_a_file_of_too_many_pairs_is_refused(client: TestClient, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr("app.routes.training.MOST_PAIRS", {kind: COUNT - 1})
    answer = post(client, kind)
    assert fault(answer) == (422, "/data", "too_many_pairs")
    assert f"holds 48 pairs; a rule adapter of kind {kind} is taught with 47 at most" in answer.text
