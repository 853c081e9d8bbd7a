"""Rules in a chunk: asked by probes or of the annotator itself."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from app.ruleadapters import RuleAdapters
from app.rulebanks import RuleBanks
from app.rulepools import RulePools
from app.schemas.annotate import Annotation
from app.schemas.chunk import Chunk, ChunkAnswer, Judging
from app.schemas.names import Ref
from app.schemas.pairs import Pair
from app.schemas.training import HeadOptions
from tests.conftest import RULES, random_bank, random_direction, ref, serving, tiny_annotator, user
from workers.annotate import PairAnnotator
from workers.engine.annotator import Annotator
from workers.engine.errors import PairRefused
from workers.engine.packing import Group
from workers.holding import NotHeld
from workers.rules.adapting.adapter import to_files as adapter_files
from workers.rules.adapting.teach import teach
from workers.rules.bank import sealed, to_files
from workers.rules.logits import LogitRater
from workers.rules.rating import Answered, Ratings

POOL = Ref(id="tiny-rules", digest=RULES.digest)
PAIR = Pair(id="a", prompt="How do I pick a lock?", chosen="Ask a locksmith.", rejected="Bend two hairpins.")
EMPTY = Pair(id="b", prompt="Hello?", chosen="", rejected="Hello.")


@pytest.fixture(scope="module")
def roomy() -> Annotator:
    """An annotator with room for a question about a rule."""
    return tiny_annotator(max_position_embeddings=1024)


@pytest.fixture
def worker(roomy: Annotator, tmp_path: Path) -> Iterator[PairAnnotator]:
    with serving(roomy, tmp_path) as serves:
        artifacts, bank = serves.holdings.directions.registry.artifacts, random_bank(roomy)
        RulePools(artifacts).add(POOL.id, RULES)
        RuleBanks(artifacts).publish(bank.id, bank.digest, to_files(bank))
        serves.holdings.refresh()
        yield serves


def bank_of(worker: PairAnnotator) -> Ref:
    return Ref(id="probes", digest=worker.holdings.banks.digests()["probes"])


def judged(worker: PairAnnotator, judging: Judging, *pairs: Pair) -> ChunkAnswer:
    chunk = Chunk(
        directions=[], truncate=False, judging=judging, items=list(pairs), lines=list(range(len(pairs))), tokens=1
    )
    return worker.annotate(chunk)


def probes(worker: PairAnnotator, bank: Ref | None = None, pool: Ref = POOL) -> Judging:
    return Judging(pool=pool, rater="probes", policy="published", k=2, band=0.0, bank=bank or bank_of(worker))


def by_logits(k: int) -> Judging:
    return Judging(pool=POOL, rater="logits", policy="published", k=k, band=0.0)


def test_probes_judge_every_pair_also_one_with_an_empty_response(worker: PairAnnotator) -> None:
    answer = judged(worker, probes(worker), PAIR, EMPTY)
    for entry in answer.entries:
        assert isinstance(entry, Annotation)
        assert entry.rules is not None
        assert len(entry.rules.critical) == 2


def test_logits_are_the_annotators_own_answers(worker: PairAnnotator, roomy: Annotator) -> None:
    (entry,) = judged(worker, by_logits(len(RULES.rules)), PAIR).entries
    assert isinstance(entry, Annotation)
    assert entry.rules is not None
    rater = LogitRater(roomy, [rule.text for rule in RULES.ordered])
    (ratings,) = rater.rate([Answered(user(str(PAIR.prompt)), [PAIR.chosen, PAIR.rejected])])
    assert isinstance(ratings, Ratings)
    places = {rule.id: place for place, rule in enumerate(RULES.ordered)}
    for rule in entry.rules.critical:
        place = places[rule.rule]
        assert (rule.chosen, rule.rejected) == pytest.approx(ratings.scores[:, place].tolist(), abs=1e-5)
        assert rule.relevance == pytest.approx(float(ratings.relevance[place]), abs=1e-5)


def test_an_adapter_says_which_rules_the_annotator_is_asked_about(
    worker: PairAnnotator, roomy: Annotator, monkeypatch: pytest.MonkeyPatch
) -> None:
    bank = random_bank(roomy)
    pairs = [Pair(prompt=f"What of {n}?", chosen=f"Take {n} slowly.", rejected=f"{n}!") for n in range(40)]
    how = HeadOptions(method="rule-adapter", kind="head", id="chooses", pool=POOL.id, k=1, epochs=2)
    adapter = teach(roomy, RULES, bank, pairs, how)
    adapters = RuleAdapters(worker.holdings.directions.registry.artifacts)
    adapters.publish(adapter.id, adapter.digest, adapter_files(adapter))
    asked: list[int] = []
    answers = LogitRater.answers

    def counted(rater: LogitRater, groups: Sequence[Group]) -> list[Tensor | PairRefused]:
        asked.extend(len(group.branches) for group in groups)
        return answers(rater, groups)

    monkeypatch.setattr(LogitRater, "answers", counted)
    judging = by_logits(1).model_copy(
        update={"policy": "adapter", "adapter": Ref(id=adapter.id, digest=adapter.digest)}
    )
    (entry,) = judged(worker, judging, PAIR).entries
    assert asked == [1, 1]
    assert isinstance(entry, Annotation)
    assert entry.rules is not None
    assert len(entry.rules.critical) == 1
    (whole,) = judged(worker, by_logits(len(RULES.rules)), PAIR).entries
    assert isinstance(whole, Annotation)
    assert whole.rules is not None
    (rule,) = entry.rules.critical
    same = next(other for other in whole.rules.critical if other.rule == rule.rule)
    assert (rule.chosen, rule.rejected) == pytest.approx((same.chosen, same.rejected), abs=1e-5)


def test_the_annotator_can_be_asked_beside_a_direction(roomy: Annotator, tmp_path: Path) -> None:
    direction = random_direction(roomy, "kind")
    with serving(roomy, tmp_path, direction) as serves:
        RulePools(serves.holdings.directions.registry.artifacts).add(POOL.id, RULES)
        judging = by_logits(2)
        chunk = Chunk(directions=[ref(direction)], truncate=False, items=[PAIR], lines=[1], tokens=1)
        (plain,) = serves.annotate(chunk).entries
        explained = serves.annotate(chunk.model_copy(update={"judging": judging}))
        (entry,) = explained.entries
        (alone,) = judged(serves, judging, PAIR).entries
    assert isinstance(plain, Annotation) and isinstance(entry, Annotation) and isinstance(alone, Annotation)
    assert entry.rules is not None and alone.rules is not None
    assert entry.margin == pytest.approx(plain.margin, abs=1e-5)
    assert entry.rules.margin == pytest.approx(alone.rules.margin, abs=1e-5)
    assert (explained.provenance.direction, explained.provenance.method) == ("kind", "margin")


def test_where_no_rule_is_relevant_the_pair_is_a_tie_and_says_so(worker: PairAnnotator, roomy: Annotator) -> None:
    bank = random_bank(roomy, "indifferent")
    never = replace(bank.relevant, slopes=torch.zeros(len(RULES.rules)), offsets=torch.full((len(RULES.rules),), -9.0))
    bank = sealed(replace(bank, relevant=never))
    RuleBanks(worker.holdings.directions.registry.artifacts).publish(bank.id, bank.digest, to_files(bank))
    (entry,) = judged(worker, probes(worker, Ref(id=bank.id, digest=bank.digest)), PAIR).entries
    assert isinstance(entry, Annotation)
    assert entry.rules is not None
    assert (entry.margin, entry.label_conflict, entry.raw.chosen) == (0.0, False, 0.0)
    assert (entry.rules.preferred, entry.rules.tie, entry.rules.critical) == ("tie", "no_relevant_rule", [])


def test_a_bank_an_adapter_or_a_pool_that_is_gone_fails_the_chunk(worker: PairAnnotator) -> None:
    gone = Ref(id="gone", digest="sha256:" + "0" * 64)
    with pytest.raises(NotHeld, match="rule bank gone was deleted while the job used it"):
        judged(worker, probes(worker, bank=gone), PAIR)
    with pytest.raises(NotHeld, match="rule adapter gone was deleted while the job used it"):
        judged(worker, probes(worker).model_copy(update={"policy": "adapter", "adapter": gone}), PAIR)
    with pytest.raises(NotHeld, match="rule pool gone was deleted while the job used it"):
        judged(worker, probes(worker, pool=gone), PAIR)


def test_a_bank_made_for_another_pool_is_not_held(worker: PairAnnotator, roomy: Annotator) -> None:
    other = random_bank(roomy, "other", pool_digest="sha256:" + "1" * 64)
    banks = RuleBanks(worker.holdings.directions.registry.artifacts)
    banks.publish(other.id, other.digest, to_files(other))
    worker.holdings.refresh()
    assert set(worker.holdings.banks.all()) == {"probes"}
