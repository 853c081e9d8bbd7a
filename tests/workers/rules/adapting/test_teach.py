"""Making rule adapters of either kind from pairs."""

from typing import Any

import pytest
import torch
from pydantic import TypeAdapter

from app.schemas.training import MOST_PAIRS, RuleAdapterOptions
from tests.workers.rules.adapting.conftest import telling_pairs
from tests.workers.rules.test_bank import POOL
from workers.engine.annotator import Annotator
from workers.rules.adapting.adapter import HeadAdapter, LoraAdapter
from workers.rules.adapting.lessons import Lessons
from workers.rules.adapting.teach import WIDTH, Split, teach
from workers.rules.bank import RuleBank
from workers.rules.errors import CannotClassify, UnfitExamples
from workers.rules.logits import LogitRater

PAIRS = telling_pairs()


def options(kind: str = "head", **more: Any) -> RuleAdapterOptions:
    fields = {"method": "rule-adapter", "kind": kind, "id": "mine", "pool": "tiny", "bank": "mine", "k": 1} | more
    checked: TypeAdapter[RuleAdapterOptions] = TypeAdapter(RuleAdapterOptions)
    return checked.validate_python(fields)


def test_a_head_reads_where_the_bank_reads_and_is_measured_on_prompts_that_it_did_not_see(
    roomy: Annotator, bank: RuleBank
) -> None:
    made = teach(roomy, POOL, bank, PAIRS, options(), note={"job": "j"})
    assert isinstance(made, HeadAdapter)
    card, measures = made.card, made.card.measures
    assert made.reads == bank.reads
    assert (card.kind, card.pool, card.pool_digest) == ("head", "tiny", POOL.digest)
    assert (card.rater, card.bank, card.bank_digest) == ("probes", "mine", bank.card.digest)
    assert (card.policy, card.k, card.settings["job"]) == ("published", 1, "j")
    assert card.digest.startswith("sha256:")
    assert measures.swapped_alike == 1
    assert f"{measures.pairs} held out" in measures.protocol
    adapter = measures.of("adapter")
    assert adapter.precision is not None
    assert adapter.precision.value > measures.chance
    assert card.reading is not None
    assert (card.reading.policy, card.reading.k) == ("adapter", 1)
    assert card.reading.accuracy.pairs > measures.pairs  # those that chose the epoch as well
    z = made.scores(torch.zeros(4, len(made.reads), roomy.width))
    assert z.shape == (4, WIDTH)
    assert made.likely(z.view(2, 2, -1)).shape == (2, 3)


def test_lora_trains_a_classifier_and_keeps_its_settings(roomy: Annotator, bank: RuleBank) -> None:
    told: list[tuple[int, int]] = []
    made = teach(roomy, POOL, bank, PAIRS, options("lora", epochs=1, rank=2), progress=lambda *step: told.append(step))
    assert isinstance(made, LoraAdapter)
    card = made.card
    assert (card.kind, card.sites, card.prompt_sites) == ("lora", [], [])
    assert card.settings | {"epochs": 1, "rank": 2, "batch": 8, "seed": 0} == card.settings
    assert card.measures.swapped_alike == 1
    assert told[-1][0] == told[-1][1]
    assert made.classifier(roomy).likely(PAIRS[:2]).shape == (2, 3)


def test_the_annotator_itself_can_be_the_teacher(roomy: Annotator) -> None:
    rater = LogitRater(roomy, [rule.text for rule in POOL.ordered])
    made = teach(roomy, POOL, rater, PAIRS[:40], options(rater="logits", bank=None, policy="discrepancy"))
    assert (made.card.rater, made.card.bank, made.card.bank_digest) == ("logits", None, None)
    assert {site.pooling for site in made.card.sites} == {"mean", "end_of_turn"}
    assert [site.pooling for site in made.card.prompt_sites] == ["request"]


def test_the_same_seed_gives_the_same_adapter_but_for_its_date(roomy: Annotator, bank: RuleBank) -> None:
    first, second = (teach(roomy, POOL, bank, PAIRS, options(epochs=3)) for _ in range(2))
    assert all(torch.equal(first.tensors[name], part) for name, part in second.tensors.items())
    assert first.card.measures == second.card.measures


def test_no_prompt_is_on_two_sides_of_a_split(lessons: Lessons) -> None:
    split = Split.of(lessons, seed=0)
    parts = [split.fit, split.validation, split.held_out]
    prompts = [{str(pair.prompt) for pair in part.pairs} for part in parts]
    assert sum(map(len, prompts)) == len(set().union(*prompts))
    assert sum(map(len, parts)) == len(lessons)
    assert [pair.prompt for pair in Split.of(lessons, seed=1).held_out.pairs] != [p.prompt for p in parts[2].pairs]


def test_pairs_that_teach_nothing_are_refused(
    roomy: Annotator, bank: RuleBank, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UnfitExamples, match="20 pairs are too few"):
        teach(roomy, POOL, bank, PAIRS[:20], options())
    monkeypatch.setitem(MOST_PAIRS, "head", 59)
    with pytest.raises(UnfitExamples, match="60 pairs are too many to teach a rule adapter; head takes 59"):
        teach(roomy, POOL, bank, PAIRS, options())
    with pytest.raises(UnfitExamples, match="too few different prompts"):
        teach(roomy, POOL, bank, [PAIRS[0]] * 40, options())


def test_progress_may_end_it(roomy: Annotator, bank: RuleBank) -> None:
    def end(_done: int, _total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        teach(roomy, POOL, bank, PAIRS, options(), progress=end)


def test_an_annotator_that_cannot_classify_is_refused_before_anything_is_rated(
    roomy: Annotator, bank: RuleBank, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(*_arguments: object, **_options: object) -> None:
        raise ValueError("Unrecognized configuration class")

    monkeypatch.setattr("transformers.AutoModelForSequenceClassification.from_config", unknown)
    with pytest.raises(CannotClassify):
        teach(roomy, POOL, bank, PAIRS, options("lora"), progress=lambda *_step: pytest.fail("something was rated"))
