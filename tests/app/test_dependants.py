"""What needs a rule pool, or a taught model."""

import json
from pathlib import Path

import pytest

from app.artifacts import Artifacts
from app.dependants import dependants, directions_of
from app.registry import CARD as DIRECTION_CARD
from app.registry import Registry
from app.ruleadapters import CARD as ADAPTER_CARD
from app.ruleadapters import RuleAdapters
from app.rulebanks import CARD, RuleBanks
from app.schemas.ruleadapters import AdapterCard, AdapterMeasures
from tests.app.test_registry import CARD_JSON
from tests.app.test_rulebanks import card

DIGEST = "sha256:" + "0" * 64


def bank(store: Artifacts, name: str, **made: str) -> None:
    content = card(name).model_copy(update=made).model_dump_json().encode()
    RuleBanks(store).publish(name, DIGEST, {CARD: content})


def adapter(store: Artifacts, name: str) -> None:
    measures = AdapterMeasures(pairs=1, prompts=1, chance=0.1, choosers=[], swapped_alike=1.0, protocol="by hand")
    shared = card(name).model_dump(include={"pool", "pool_digest", "model", "model_revision", "template", "created"})
    made = AdapterCard.model_validate(
        shared
        | {"id": name, "digest": DIGEST, "kind": "head", "rater": "logits", "bank": None, "bank_digest": None}
        | {"policy": "published", "k": 5, "measures": measures, "settings": {}, "version": "0"}
    )
    RuleAdapters(store).publish(name, DIGEST, {ADAPTER_CARD: made.model_dump_json().encode()})


def direction(store: Artifacts, name: str, alignment: str | None) -> None:
    made = CARD_JSON | {"id": name} | ({"alignment": {"id": alignment, "digest": DIGEST}} if alignment else {})
    Registry(store).publish(name, DIGEST, {DIRECTION_CARD: json.dumps(made).encode()})


@pytest.fixture
def store(tmp_path: Path) -> Artifacts:
    return Artifacts(str(tmp_path))


def test_banks_and_adapters_of_a_pool_are_counted_and_named(store: Artifacts) -> None:
    bank(store, "a")
    bank(store, "b", pool_digest="sha256:former")
    bank(store, "elsewhere", pool="other")
    adapter(store, "c")
    assert dependants(store, "mine", {"sha256:pool"}) == "1 rule bank (a) and 1 rule adapter (c)"
    assert dependants(store, "mine", {"sha256:pool", "sha256:former"}).startswith("2 rule banks (a, b) and")
    assert dependants(store, "mine", {"sha256:another"}) == ""


def test_directions_of_an_alignment_are_counted_and_named(store: Artifacts) -> None:
    for name, alignment in (("a", "mine"), ("b", "mine"), ("c", "other"), ("d", None)):
        direction(store, name, alignment)
    assert directions_of(store, "mine") == "2 directions (a, b)"
    assert directions_of(store, "nobody's") == ""


def test_of_many_ten_are_named(store: Artifacts) -> None:
    for number in range(12):
        bank(store, f"b{number:02}")
    assert dependants(store, "mine", {"sha256:pool"}).endswith("b09, …)")
