"""Rule adapters at rest: they come back bit for bit, or are refused with the reason."""

import json
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load, save

from app.ruleadapters import CARD, TENSORS
from app.schemas.ruleadapters import AdapterCard
from app.schemas.rules import Rule, RulePool
from tests.workers.rules.adapting.conftest import telling_pairs
from tests.workers.rules.adapting.test_teach import options
from tests.workers.rules.test_bank import POOL, Files
from workers.engine.annotator import Annotator
from workers.rules.adapting.adapter import HeadAdapter, LoraAdapter, RuleAdapter, check_fits, from_files, to_files
from workers.rules.adapting.teach import teach
from workers.rules.bank import RuleBank
from workers.rules.errors import UnusableAdapter
from workers.sealed import digest

PAIRS = telling_pairs(44)
OTHER = RulePool(rules=[*POOL.rules[:2], Rule(id="coin", category="chance", text="Another text.")])


@pytest.fixture(scope="module", params=["head", "lora"])
def adapter(request: pytest.FixtureRequest, roomy: Annotator, bank: RuleBank) -> RuleAdapter:
    return teach(roomy, POOL, bank, PAIRS, options(request.param, epochs=1))


@pytest.fixture(scope="module")
def head(roomy: Annotator, bank: RuleBank) -> RuleAdapter:
    return teach(roomy, POOL, bank, PAIRS, options(epochs=1))


@pytest.fixture(scope="module")
def lora(roomy: Annotator, bank: RuleBank) -> LoraAdapter:
    made = teach(roomy, POOL, bank, PAIRS, options("lora", epochs=1, rank=2))
    assert isinstance(made, LoraAdapter)
    return made


def test_an_adapter_comes_back_bit_for_bit(adapter: RuleAdapter) -> None:
    after = from_files("mine", to_files(adapter))
    assert type(after) is type(adapter)
    assert after.card == adapter.card
    assert after.tensors.keys() == adapter.tensors.keys()
    assert all(torch.equal(after.tensors[name], part) for name, part in adapter.tensors.items())


def test_it_says_the_same_afterwards(roomy: Annotator, head: HeadAdapter, lora: LoraAdapter) -> None:
    again = from_files("mine", to_files(lora))
    assert isinstance(again, LoraAdapter)
    assert torch.equal(again.classifier(roomy).likely(PAIRS), lora.classifier(roomy).likely(PAIRS))
    read = from_files("mine", to_files(head))
    assert isinstance(read, HeadAdapter)
    activations = torch.randn(6, len(head.reads), roomy.width)
    assert torch.equal(read.scores(activations), head.scores(activations))


def test_it_fits_only_the_pool_and_the_annotator_that_it_was_made_for(roomy: Annotator, adapter: RuleAdapter) -> None:
    check_fits(adapter, roomy, POOL)
    with pytest.raises(UnusableAdapter, match="rule adapter mine was made for another pool"):
        check_fits(adapter, roomy, OTHER)
    with pytest.raises(UnusableAdapter, match="not for the weights of"):
        check_fits(adapter, replace(roomy, revision="sha256:others"), POOL)
    wrong = replace(adapter, card=adapter.card.model_copy(update={"template": "sha256:x"}))
    with pytest.raises(UnusableAdapter, match="another chat template"):
        check_fits(wrong, roomy, POOL)


def test_another_shape_is_refused(roomy: Annotator, head: HeadAdapter, lora: LoraAdapter) -> None:
    few = replace(head.head, weights=head.head.weights[:2], offsets=head.head.offsets[:2])
    with pytest.raises(UnusableAdapter, match="does not have the shape"):
        check_fits(replace(head, head=few), roomy, POOL)
    with pytest.raises(UnusableAdapter, match="does not have the shape"):
        check_fits(replace(lora, tensors={"prior": torch.zeros(2)}), roomy, POOL)
    with pytest.raises(UnusableAdapter, match="does not have the shape of tiny"):
        replace(lora, tensors={"prior": torch.zeros(3)}).classifier(roomy)


def with_card(files: Files, **fields: object) -> Files:
    return {**files, CARD: json.dumps(json.loads(files[CARD]) | fields).encode()}


def with_tensors(files: Files, **tensors: torch.Tensor) -> Files:
    return {**files, TENSORS: save(load(files[TENSORS]) | tensors)}


def signed(files: Files) -> Files:
    """The same with the digest that belongs to it, as somebody who means harm would write it."""
    return with_card(files, digest=digest(AdapterCard.model_validate_json(files[CARD]), load(files[TENSORS])))


MEDIAN = [{"layer": 1, "pooling": "median"}]
DAMAGED: dict[str, tuple[Callable[[Files], Files], str]] = {
    "another pool": (lambda f: with_card(f, pool_digest="sha256:0"), "does not match its digest"),
    "turned round": (lambda f: with_tensors(f, shift=-load(f[TENSORS])["shift"]), "does not match its digest"),
    "no card": (lambda f: {TENSORS: f[TENSORS]}, "unreadable"),
    "pickle": (lambda f: {**f, TENSORS: b"\x80\x04N."}, "unreadable"),
    "cut short": (lambda f: {**f, TENSORS: f[TENSORS][:-1]}, "unreadable"),
    "not finite": (lambda f: signed(with_tensors(f, offsets=torch.full((3,), float("nan")))), "finite"),
    "halves": (lambda f: signed(with_tensors(f, offsets=torch.ones(3, dtype=torch.half))), "32 bits"),
    "more": (lambda f: signed(with_tensors(f, more=torch.ones(3))), "belong together"),
    "flat": (lambda f: signed(with_tensors(f, projection=torch.tensor(1.0))), "belong together"),
    "no places": (lambda f: signed(with_card(f, sites=[], prompt_sites=[])), "belong together"),
    "median": (lambda f: signed(with_card(f, sites=MEDIAN)), "a pooling that this version does not know"),
    "another kind": (lambda f: signed(with_card(f, kind="lora")), "belong together"),
}


@pytest.mark.parametrize(("damage", "reason"), DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_adapter_is_refused(head: HeadAdapter, damage: Callable[[Files], Files], reason: str) -> None:
    with pytest.raises(UnusableAdapter, match=f"mine: .*{reason}"):
        from_files("mine", damage(to_files(head)))
