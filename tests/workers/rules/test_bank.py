"""Banks: distilled from examples, stored and read back, refused where they do not belong."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load, save

from app.artifacts import Artifacts
from app.rulebanks import CARD, TENSORS, BankMissing, RuleBanks
from app.schemas.rulebanks import BankCard
from app.schemas.rules import Rule, RulePool
from tests.conftest import user
from workers.directions.fit import candidate_layers, request_layer
from workers.directions.gather import POOLINGS
from workers.engine.annotator import Annotator
from workers.engine.errors import TooLong
from workers.engine.forward import read
from workers.engine.sites import Site
from workers.rules.bank import ProbeRater, RuleBank, check_fits, from_files, ratings_of, to_files
from workers.rules.distil import distil
from workers.rules.errors import UnfitExamples, UnusableBank
from workers.rules.examples import Examples, from_exchanges, from_rater, from_rows
from workers.rules.labelled import read_exchanges, read_labelled
from workers.rules.pool import Exchange
from workers.rules.rating import Answered, Ratings
from workers.sealed import digest

POOL = RulePool(
    rules=[
        Rule(id="no-shouting", category="tone", text="The response does not shout."),
        Rule(id="no-numbers", category="tone", text="The response names no numbers."),
        Rule(id="coin", category="chance", text="The response was lucky."),
    ]
)
SUBJECTS = ["knives", "boats", "tea", "the moon", "my aunt", "a long walk", "Tuesday", "soup", "glass", "the sea"]
Files = dict[str, bytes]


def exchanges() -> list[Exchange]:
    """Of each rule twelve prompts with a keeping and a breaking response; for the third a coin decides which."""
    found = []
    for number, subject in enumerate(f"{a} and {b}" for a in SUBJECTS[:4] for b in SUBJECTS[5:8]):
        loud, calm = f"OH {subject.upper()} IS GREAT!!!", f"oh {subject} is great"
        found += [Exchange("no-shouting", f"Say something of {subject}", text, text is calm) for text in (loud, calm)]
        many, few = f"some {subject} 77 90 13", f"some {subject} or other"
        found += [Exchange("no-numbers", f"How many: {subject}", text, text is few) for text in (many, few)]
        lucky = bool(int(torch.randint(2, (1,), generator=torch.Generator().manual_seed(number))))
        found += [
            Exchange("coin", f"Toss for {subject}", f"{side} for {subject}", (side == "a") is lucky) for side in "ab"
        ]
    return found


def made(annotator: Annotator, examples: Examples | None = None) -> RuleBank:
    return distil(annotator, POOL, examples or from_exchanges(POOL, exchanges()), pool_id="tiny", bank_id="mine")


@pytest.fixture(scope="module")
def bank(roomy: Annotator) -> RuleBank:
    return made(roomy)


def rated(annotator: Annotator, bank: RuleBank, prompt: str, *responses: str) -> Ratings:
    (ratings,) = ProbeRater(annotator, bank).rate([Answered(user(prompt), responses)])
    assert isinstance(ratings, Ratings)
    return ratings


def test_a_bank_reads_rules_that_it_can_see_and_does_not_use_one_that_it_cannot(bank: RuleBank) -> None:
    cards = {rule.rule: rule for rule in bank.card.rules}
    assert list(cards) == ["coin", "no-numbers", "no-shouting"]  # by id, as the pool's order
    assert bank.used.tolist() == [False, True, True]
    for name in ("no-numbers", "no-shouting"):
        found = cards[name].keeps
        assert found is not None
        assert found.value > 0.9
        assert found.low > 0.5
        assert (found.above, found.below) == (12, 12)
    coin = cards["coin"].keeps
    assert coin is not None
    assert coin.low <= 0.5
    assert bank.card.used == 2
    assert (bank.card.source, bank.card.pool, bank.card.pool_digest) == ("exchanges", "tiny", POOL.digest)
    assert "12-fold" in bank.card.protocol


def test_one_pass_where_the_default_direction_reads_rates_every_rule(roomy: Annotator, bank: RuleBank) -> None:
    layers = candidate_layers(roomy.depth)
    assert bank.sites == tuple(Site(layer, pooling) for layer in layers for pooling in POOLINGS)
    assert bank.prompt_sites == (Site(request_layer(roomy), "request"),)
    group = roomy.template.encode(user("Say something of wine"), ["WINE IS GREAT!!!", "wine is great"])
    ratings = ratings_of(bank.scores(read(roomy, [group], bank.reads)))
    assert (ratings.scores.shape, ratings.relevance.shape) == ((2, 3), (3,))
    assert ratings.scores[0, 2] < ratings.scores[1, 2]
    assert ratings.scores.abs().max() <= 1
    assert (ratings.relevance >= 0).all()
    assert (ratings.relevance <= 1).all()
    assert ratings.relevance[2] > ratings.relevance[1]
    again = rated(roomy, bank, "Say something of wine", "WINE IS GREAT!!!", "wine is great")
    torch.testing.assert_close(again.scores, ratings.scores)
    torch.testing.assert_close(again.relevance, ratings.relevance)


def test_a_rule_that_is_not_used_says_nothing(roomy: Annotator, bank: RuleBank) -> None:
    ratings = rated(roomy, bank, "Toss for gold", "a for gold", "b for gold")
    assert ratings.scores[:, 0].tolist() == [0, 0]
    assert ratings.relevance[0] == 0
    assert bank.correlation[0].tolist() == [1, 0, 0]


def test_noise_and_correlation_are_fit_for_choosing_rules_by(bank: RuleBank) -> None:
    assert (bank.noise > 0).all()
    assert (bank.noise < 2).all()
    torch.testing.assert_close(bank.correlation, bank.correlation.T)
    assert bank.correlation.diagonal().tolist() == [1, 1, 1]
    assert torch.linalg.eigvalsh(bank.correlation.double()).min() > -1e-6


def test_an_item_that_cannot_be_read_fails_alone(roomy: Annotator, bank: RuleBank) -> None:
    items = [Answered(user("hi"), ["x" * 5000]), Answered(user("hi"), ["a", "b"]), Answered(user("hi"), [""])]
    long, pair, empty = ProbeRater(roomy, bank).rate(items)
    assert isinstance(long, TooLong)
    assert isinstance(pair, Ratings)
    assert isinstance(empty, Ratings)


def test_labelled_rows_and_another_raters_scores_give_a_bank_too(
    roomy: Annotator, bank: RuleBank, tmp_path: Path
) -> None:
    rows = [
        {"prompt": e.prompt, "response": e.response, "rules": {e.rule: e.keeps}, "id": number}
        for number, e in enumerate(exchanges())
    ]
    rows[0]["rules"] = {"no-shouting": False, "coin": None, "no-numbers": 0.5}
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    examples = from_rows(POOL, read_labelled(path, POOL))
    assert examples.targets[0].nan_to_num(9).tolist() == [9, 0.5, -1]
    assert examples.relevance[0].tolist() == [-1, 1, 1]
    labelled = made(roomy, examples)
    assert labelled.card.source == "rows"
    assert labelled.used.tolist() == [False, True, True]
    items = [Answered(user(e.prompt), [e.response]) for e in exchanges()]
    rater = ProbeRater(roomy, replace(bank, card=bank.card))
    done: list[tuple[int, int]] = []
    copied = made(roomy, from_rater(POOL, rater, items, lambda *counts: done.append(counts)))
    assert done == [(count, len(items)) for count in range(8, len(items) + 1, 8)]
    assert copied.card.source == "logits"
    assert copied.used.tolist() == [False, True, True]
    loud = rated(roomy, copied, "Say something of wine", "WINE IS GREAT!!!", "wine is great")
    assert loud.scores[0, 2] < loud.scores[1, 2]


def test_exchanges_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "exchanges.jsonl"
    path.write_text("".join(json.dumps({**_plain(e), "more": 1}) + "\n" for e in exchanges()))
    assert read_exchanges(path, POOL) == exchanges()
    path.write_text('{"rule": "coin", "prompt": "secret", "response": "b"}\n')
    with pytest.raises(UnfitExamples, match="line 1: keeps: Field required") as refused:
        read_exchanges(path, POOL)
    assert "secret" not in str(refused.value)


def _plain(exchange: Exchange) -> dict[str, object]:
    return {name: getattr(exchange, name) for name in ("rule", "prompt", "response", "keeps")}


def test_examples_of_rules_that_the_pool_lacks_are_refused() -> None:
    with pytest.raises(UnfitExamples, match="a rule that the pool does not have"):
        from_exchanges(POOL, [Exchange("another", "hi", "yes", True)])


def test_examples_that_give_no_bank_are_refused(roomy: Annotator) -> None:
    with pytest.raises(UnfitExamples, match="6 examples are too few"):
        made(roomy, from_exchanges(POOL, exchanges()[:6]))
    kept = [exchange for exchange in exchanges() if exchange.keeps]
    with pytest.raises(UnfitExamples, match="no rule has examples enough"):
        made(roomy, from_exchanges(POOL, kept))
    tossed = [exchange for exchange in exchanges() if exchange.rule == "coin"]
    with pytest.raises(UnfitExamples, match="no rule reads above chance on held-out exchanges"):
        made(roomy, from_exchanges(POOL, tossed))


def test_a_bank_comes_back_bit_for_bit(bank: RuleBank) -> None:
    after = from_files("mine", to_files(bank))
    assert (after.card, after.reads) == (bank.card, bank.reads)
    assert after.tensors.keys() == bank.tensors.keys()
    assert all(torch.equal(after.tensors[name], bank.tensors[name]) for name in bank.tensors)


def test_a_bank_is_kept_in_the_store_by_id_and_digest(bank: RuleBank, tmp_path: Path) -> None:
    banks = RuleBanks(Artifacts(str(tmp_path)))
    banks.publish(bank.id, bank.card.digest, to_files(bank))
    assert banks.card("mine") == bank.card
    assert banks.current() == {"mine": bank.card.digest}
    banks.delete("mine")
    with pytest.raises(BankMissing):
        banks.card("mine")


def with_card(files: Files, **fields: object) -> Files:
    return {**files, CARD: json.dumps(json.loads(files[CARD]) | fields).encode()}


def with_tensors(files: Files, **tensors: torch.Tensor) -> Files:
    return {**files, TENSORS: save(load(files[TENSORS]) | tensors)}


def signed(files: Files) -> Files:
    """The same with the digest that belongs to it, as somebody who means harm would write it."""
    return with_card(files, digest=digest(BankCard.model_validate_json(files[CARD]), load(files[TENSORS])))


DAMAGED: dict[str, tuple[Callable[[Files], Files], str]] = {
    "another pool": (lambda f: with_card(f, pool_digest="sha256:0"), "does not match its digest"),
    "turned round": (lambda f: with_tensors(f, noise=-load(f[TENSORS])["noise"]), "does not match its digest"),
    "no card": (lambda f: {TENSORS: f[TENSORS]}, "unreadable"),
    "pickle": (lambda f: {**f, TENSORS: b"\x80\x04N."}, "unreadable"),
    "cut short": (lambda f: {**f, TENSORS: f[TENSORS][:-1]}, "unreadable"),
    "a rule too few": (lambda f: signed(with_card(f, rules=json.loads(f[CARD])["rules"][1:])), "belong together"),
    "not finite": (lambda f: signed(with_tensors(f, noise=torch.full((3,), float("nan")))), "finite"),
    "halves": (lambda f: signed(with_tensors(f, noise=torch.ones(3, dtype=torch.half))), "32 bits"),
    "more": (lambda f: signed(with_tensors(f, more=torch.ones(3))), "belong together"),
    "flat": (lambda f: signed(with_tensors(f, **{"keeps.vectors": torch.tensor(1.0)})), "belong together"),
    "median": (
        lambda f: signed(with_card(f, sites=[{"layer": 1, "pooling": "median"}] * len(json.loads(f[CARD])["sites"]))),
        "a pooling that this version does not know",
    ),
}


@pytest.mark.parametrize(("damage", "reason"), DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_bank_is_refused(bank: RuleBank, damage: Callable[[Files], Files], reason: str) -> None:
    with pytest.raises(UnusableBank, match=f"mine: .*{reason}"):
        from_files("mine", damage(to_files(bank)))


def test_a_bank_fits_only_the_annotator_and_the_rules_that_it_was_made_for(roomy: Annotator, bank: RuleBank) -> None:
    check_fits(bank, roomy, POOL)
    with pytest.raises(UnusableBank, match="not for the weights of"):
        check_fits(bank, replace(roomy, revision="sha256:others"), POOL)
    other = RulePool(rules=[*POOL.rules[:2], Rule(id="coin", category="chance", text="Another text.")])
    with pytest.raises(UnusableBank, match="made for what pool tiny was before"):
        check_fits(bank, roomy, other)
    with pytest.raises(UnusableBank, match="made for pool tiny, not for pool ours"):
        check_fits(bank, roomy, other, "ours")
    wrong = replace(bank, card=bank.card.model_copy(update={"template": "sha256:x"}))
    with pytest.raises(UnusableBank, match="another chat template"):
        check_fits(wrong, roomy, POOL)
    deep = replace(bank, sites=(Site(99, "mean"), *bank.sites[1:]))
    with pytest.raises(UnusableBank, match="the shape of tiny"):
        check_fits(deep, roomy, POOL)
