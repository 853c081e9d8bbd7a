"""Banks of rule probes over HTTP: listed, shown and deleted."""

from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from app.artifacts import Artifacts
from app.rulebanks import CARD, RuleBanks
from app.schemas.rulebanks import BankCard
from tests.app.conftest import Connect


def card(name: str) -> BankCard:
    return BankCard.model_validate(
        {
            "id": name,
            "digest": "sha256:" + "0" * 64,
            "pool": "mine",
            "pool_digest": "sha256:pool",
            "model": "tiny",
            "model_revision": "sha256:tiny",
            "template": "sha256:template",
            "sites": [{"layer": 2, "pooling": "mean"}],
            "rules": [{"rule": "calm", "keeps": None, "relevant": None, "noise": 0.1, "used": False}],
            "source": "rows",
            "protocol": "by hand",
            "created": "2026-01-01",
            "version": "0",
        }
    )


@pytest.fixture
def banks(tmp_path: Path) -> RuleBanks:
    """A store with two banks."""
    banks = RuleBanks(Artifacts(str(tmp_path)))
    for name in ("second", "first"):
        banks.publish(name, card(name).digest, {CARD: card(name).model_dump_json().encode()})
    return banks


@pytest.fixture
def client(connect: Connect, empty_queue: str, banks: RuleBanks, tmp_path: Path) -> TestClient:
    """An API on that store; no worker is needed."""
    return connect(redis_url=empty_queue, artifacts=str(tmp_path))


def problem(answer: Any) -> tuple[int, str, str]:
    """Status, and pointer and code of the one field that an answer complains of."""
    assert answer.headers["content-type"] == "application/problem+json"
    (error,) = answer.json()["errors"]
    return answer.status_code, error["pointer"], error["code"]


def test_banks_are_listed_by_id_and_shown(client: TestClient) -> None:
    assert client.get("/rule-banks").json() == {"banks": [card("first").model_dump(), card("second").model_dump()]}
    assert client.get("/rule-banks/second").json() == card("second").model_dump()


def test_a_deleted_bank_is_gone(client: TestClient, banks: RuleBanks) -> None:
    assert client.delete("/rule-banks/first").status_code == 204
    assert [found["id"] for found in client.get("/rule-banks").json()["banks"]] == ["second"]
    assert list(banks.current()) == ["second"]
    for answer in (client.get("/rule-banks/first"), client.delete("/rule-banks/first")):
        assert problem(answer) == (404, "path/bank_id", "unknown_bank")


def test_a_damaged_bank_hurts_no_other(client: TestClient, banks: RuleBanks) -> None:
    banks.publish("broken", card("first").digest, {CARD: b"nonsense"})
    assert [found["id"] for found in client.get("/rule-banks").json()["banks"]] == ["first", "second"]
    assert problem(client.get("/rule-banks/broken")) == (404, "path/bank_id", "unknown_bank")


def test_what_cannot_be_an_id_is_422(client: TestClient) -> None:
    assert problem(client.get("/rule-banks/.hidden"))[:2] == (422, "path/bank_id")
