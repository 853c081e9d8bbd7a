"""POST /annotate by rules: a margin, a side or a tie, and the rules that were critical for it."""

import json
import math
from typing import Any

import pytest
from redis import Redis
from starlette.testclient import TestClient

from app.jobs import keys
from tests.app.conftest import LEVEL_EDGES, READING, Connect, Station
from tests.conftest import RULES

PAIR = {"id": "a", "prompt": "How do I pick a lock?", "chosen": "Ask a locksmith.", "rejected": "Bend two hairpins."}
SWAPPED = PAIR | {"chosen": PAIR["rejected"], "rejected": PAIR["chosen"]}
OTHER = {"id": "b", "prompt": "Hello?", "chosen": "Hello.", "rejected": "Go away."}
TOO_LONG = PAIR | {"id": "long", "prompt": "word " * 400}
K, READ = READING.k, len(RULES.rules) - 1
ROBUST: dict[str, Any] = {"pool": "tiny-rules", "k": K}
POLICIES = ("all", "random", "relevance", "discrepancy", "published", "robust")
"""Those that need nothing but k."""


def post(client: TestClient, *pairs: dict[str, Any], rules: dict[str, Any] | None = None, **options: Any) -> Any:
    body = {"method": "rules", "pairs": list(pairs) or [PAIR], "rules": rules if rules is not None else ROBUST}
    return client.post("/annotate", json=body | options)


def said(client: TestClient, *pairs: dict[str, Any], rules: dict[str, Any] | None = None, **options: Any) -> Any:
    answer = post(client, *pairs, rules=rules, **options)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_the_answer_names_the_critical_rules_and_their_parts_add_up(client: TestClient) -> None:
    (entry,) = said(client)["annotations"]
    verdict = entry["rules"]
    texts = {rule.id: (rule.category, rule.text) for rule in RULES.rules}
    assert 1 <= len(verdict["critical"]) <= 2
    for rule in verdict["critical"]:
        assert (rule["category"], rule["text"]) == texts[rule["rule"]]
        assert -1 <= rule["chosen"] <= 1 and -1 <= rule["rejected"] <= 1 and 0 <= rule["relevance"] <= 1
    parts = [rule["contribution"] for rule in verdict["critical"]]
    assert sorted(parts, key=abs, reverse=True) == parts
    assert sum(parts) == pytest.approx(verdict["margin"])
    assert verdict["preferred"] == ("chosen" if verdict["margin"] > 0 else "rejected")
    assert verdict["tie"] is None


def test_the_margin_of_the_pair_is_that_of_the_rules_in_log_odds(client: TestClient) -> None:
    answer = said(client)
    (entry,) = answer["annotations"]
    assert entry["margin"] == entry["rules"]["margin"]
    assert entry["margin"] == pytest.approx(READING.slope * entry["raw"]["margin"])
    assert entry["raw"]["margin"] == entry["raw"]["chosen"] - entry["raw"]["rejected"]
    assert entry["probability"] == pytest.approx(1 / (1 + math.exp(-entry["margin"])))
    assert entry["level"] == sum(edge <= entry["margin"] for edge in LEVEL_EDGES)
    assert entry["label_conflict"] is (entry["margin"] < 0)
    assert answer["provenance"]["calibrated"] is True


@pytest.mark.parametrize("policy", POLICIES)
def test_exchanging_the_responses_changes_the_sign_and_nothing_else(client: TestClient, policy: str) -> None:
    asked = ROBUST | {"policy": policy}
    (one,) = said(client, PAIR, rules=asked)["annotations"]
    (other,) = said(client, SWAPPED, rules=asked)["annotations"]
    assert other["margin"] == pytest.approx(-one["margin"], rel=1e-4)
    assert [rule["rule"] for rule in other["rules"]["critical"]] == [rule["rule"] for rule in one["rules"]["critical"]]
    assert [rule["chosen"] for rule in other["rules"]["critical"]] == pytest.approx(
        [rule["rejected"] for rule in one["rules"]["critical"]], abs=1e-5
    )


def test_provenance_says_which_rules_and_no_direction(client: TestClient, station: Station) -> None:
    provenance = said(client)["provenance"]
    bank = station.pairs.holdings.banks.all()["probes"]
    assert (provenance["method"], provenance["direction"], provenance["direction_digest"]) == ("rules", None, None)
    assert (provenance["layers"], provenance["unreliable"]) == ([1, 2], False)
    assert provenance["rules"] == {
        "pool": "tiny-rules",
        "pool_digest": RULES.digest,
        "rater": "probes",
        "bank": "probes",
        "bank_digest": bank.digest,
        "policy": "robust",
        "k": 2,
        "band": 0.0,
        "adapter": None,
        "adapter_digest": None,
        "calibrated": True,
        "rules": 3,
    }


def test_a_policy_that_nobody_calibrated_answers_raw_margins_and_says_so(client: TestClient) -> None:
    answer = said(client, rules=ROBUST | {"policy": "published"})
    (entry,) = answer["annotations"]
    assert entry["margin"] == pytest.approx(entry["raw"]["margin"])
    assert entry["level"] is None
    assert answer["provenance"]["calibrated"] is False
    assert answer["provenance"]["rules"]["calibrated"] is False
    assert answer["provenance"]["unreliable"] is True


@pytest.mark.parametrize("policy", POLICIES)
def test_every_policy_can_be_asked_for(client: TestClient, policy: str) -> None:
    (entry,) = said(client, rules=ROBUST | {"policy": policy})["annotations"]
    count = len(entry["rules"]["critical"])
    assert count == READ if policy == "all" else count <= K
    assert "unread" not in {rule["rule"] for rule in entry["rules"]["critical"]}


def test_fixed_rules_are_the_ones_named(client: TestClient) -> None:
    (entry,) = said(client, rules=ROBUST | {"policy": "fixed", "fixed": ["kind", "calm"]})["annotations"]
    assert {rule["rule"] for rule in entry["rules"]["critical"]} == {"kind", "calm"}


def test_a_margin_inside_the_band_is_a_tie_and_no_conflict(client: TestClient) -> None:
    (entry,) = said(client, rules=ROBUST | {"band": 1000.0})["annotations"]
    assert (entry["rules"]["preferred"], entry["rules"]["tie"]) == ("tie", "within_band")
    assert entry["label_conflict"] is False
    assert entry["rules"]["critical"]


def test_explain_adds_the_rules_to_the_margin_of_the_direction_in_one_pass(
    client: TestClient, station: Station
) -> None:
    before = len(station.passes)
    plain = client.post("/annotate", json={"pairs": [PAIR]}).json()
    (cost,) = station.passes[before:]
    before = len(station.passes)
    explained = said(client, method="margin", explain=True)
    assert station.passes[before:] == [cost]
    (own,), (entry,) = plain["annotations"], explained["annotations"]
    assert own["rules"] is None
    assert entry["margin"] == pytest.approx(own["margin"], rel=1e-4)
    (judged,) = said(client)["annotations"]
    assert entry["rules"]["margin"] == pytest.approx(judged["margin"], rel=1e-4)
    assert explained["provenance"]["direction"] == "kind"
    assert explained["provenance"]["rules"]["policy"] == "robust"


def test_several_directions_are_explained_as_one_is(client: TestClient) -> None:
    (entry,) = said(client, method="margin", explain=True, direction=["kind", "raw"])["annotations"]
    (plain,) = client.post("/annotate", json={"pairs": [PAIR], "direction": ["kind", "raw"]}).json()["annotations"]
    (judged,) = said(client)["annotations"]
    assert list(entry["directions"]) == ["kind", "raw"]
    for name, margin in plain["directions"].items():
        assert entry["directions"][name]["margin"] == pytest.approx(margin["margin"], rel=1e-4)
    assert entry["rules"]["margin"] == pytest.approx(judged["rules"]["margin"], rel=1e-4)


def test_a_question_that_the_window_cannot_hold_is_refused_with_its_size(client: TestClient) -> None:
    answer = post(client, OTHER, rules={"pool": "tiny-rules", "rater": "logits", "policy": "published"})
    assert answer.status_code == 422
    (error,) = answer.json()["errors"]
    assert (error["pointer"], error["code"]) == ("/pairs/0", "too_long")
    assert error["counts"]["conversation"] + error["counts"]["question"] > error["counts"]["window"]


def test_a_pair_that_does_not_fit_fails_alone(client: TestClient) -> None:
    fine, long = said(client, PAIR, TOO_LONG)["annotations"]
    assert fine["rules"]["critical"]
    assert long["error"]["code"] == "too_long"


def test_a_large_request_and_a_file_are_judged_like_a_small_one(connect: Connect) -> None:
    client = connect(sync_tokens=1)
    small = said(connect(), PAIR, OTHER)
    large = post(client, PAIR, OTHER)
    lines = "".join(json.dumps(pair) + "\n" for pair in (PAIR, OTHER))
    file = client.post("/files", content=lines, headers={"Content-Type": "application/x-ndjson"}).json()["id"]
    job = client.post("/jobs", json={"file": file, "method": "rules", "rules": ROBUST})
    for accepted in (large, job):
        assert accepted.status_code == 202, accepted.text
        done = client.get(accepted.headers["Location"], params={"wait": 60}).json()
        rows = [json.loads(line) for line in client.get(done["results"]).text.splitlines()]
        assert [row["provenance"] for row in rows] == [small["provenance"]] * 2
        for row, entry in zip(rows, small["annotations"], strict=True):
            assert row["annotation"]["rules"]["margin"] == pytest.approx(entry["rules"]["margin"], rel=1e-4)


BAD: list[tuple[str, dict[str, Any], int, str]] = [
    ("unknown pool", {"pool": "none"}, 404, "/rules/pool"),
    ("unknown bank", ROBUST | {"bank": "none"}, 404, "/rules/bank"),
    ("pool without a bank", {"pool": "safety-100"}, 404, "/rules/pool"),
    ("unknown rule", ROBUST | {"policy": "fixed", "fixed": ["calm", "none"]}, 422, "/rules/fixed/1"),
    ("fixed without rules", ROBUST | {"policy": "fixed"}, 422, "/rules/fixed"),
    ("rules without fixed", ROBUST | {"fixed": ["calm"]}, 422, "/rules/fixed"),
    ("a rule twice", ROBUST | {"policy": "fixed", "fixed": ["calm", "calm"]}, 422, "/rules/fixed"),
    ("the policy without its adapter", ROBUST | {"policy": "adapter"}, 422, "/rules/adapter"),
    ("adapter without its policy", ROBUST | {"adapter": "a"}, 422, "/rules/adapter"),
    ("robust by logits", ROBUST | {"rater": "logits"}, 422, "/rules/policy"),
    ("bank for logits", ROBUST | {"rater": "logits", "policy": "all", "bank": "probes"}, 422, "/rules/bank"),
    ("unknown policy", ROBUST | {"policy": "best"}, 422, "/rules/policy"),
    ("no rules", ROBUST | {"k": 0}, 422, "/rules/k"),
    ("negative band", ROBUST | {"band": -1}, 422, "/rules/band"),
    ("unknown option", ROBUST | {"kay": 2}, 422, "/rules/kay"),
]


def test_rules_that_nobody_asks_are_no_silent_option(client: TestClient) -> None:
    answer = post(client, method="margin")
    assert answer.status_code == 422
    assert [error["pointer"] for error in answer.json()["errors"]] == ["/rules"]


def test_asking_the_annotator_waits_behind_small_requests_and_costs_what_it_costs(
    connect: Connect, redis_url: str
) -> None:
    client = connect(sync_wait_seconds=0.0)
    rules = {"pool": "tiny-rules", "rater": "logits", "policy": "published"}
    job = client.get(post(client, OTHER, rules=rules).headers["Location"], params={"wait": 60}).json()
    with Redis.from_url(redis_url) as redis:
        queue = redis.hget(keys.job(job["id"]), "queue")
    assert queue == keys.BULK.encode()


@pytest.mark.parametrize(("rules", "status", "pointer"), [case[1:] for case in BAD], ids=[case[0] for case in BAD])
def test_a_bad_option_is_named(client: TestClient, rules: dict[str, Any], status: int, pointer: str) -> None:
    answer = post(client, rules=rules)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert [error["pointer"] for error in answer.json()["errors"]] == [pointer]
