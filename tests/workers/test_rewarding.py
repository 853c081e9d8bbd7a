"""Pairs, responses and whole dialogues judged by a reward model in a worker."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from redis import Redis
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from app.artifacts import Artifacts
from app.rewards import RewardModels
from app.schemas.annotate import Annotation, FailedAnnotation
from app.schemas.chunk import Chunk, ChunkAnswer
from app.schemas.names import Ref
from app.schemas.pairs import Message, Pair
from app.schemas.rewarding import Query, Rewarded
from app.schemas.score import Candidates, ScoredCandidates
from tests.conftest import serving, user
from tests.workers.rewards.shelf import EDGES, classifier, put, ref_to
from workers import rewarding
from workers.annotate import PairAnnotator
from workers.engine.annotator import Annotator
from workers.holding import NotHeld
from workers.rewarding import HeldRewards
from workers.rewards.serving import served
from workers.score_cache import ScoreCache

PAIRS = [
    Pair(id="a", prompt="How do I pick a lock?", chosen="Ask a locksmith.", rejected="Bend two hairpins."),
    Pair(id="b", prompt=[Message(role="system", content="Be brief."), *user("Hello?")], chosen="", rejected="Hello."),
]
LONG = Pair(id="long", prompt="word " * 3000, chosen="yes", rejected="no")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return classifier(tmp_path_factory.mktemp("served") / "mine")


@pytest.fixture
def worker(annotator: Annotator, tmp_path: Path) -> Iterator[PairAnnotator]:
    with serving(annotator, tmp_path / "store") as serves:
        yield serves


@pytest.fixture
def models(worker: PairAnnotator) -> RewardModels:
    return RewardModels(worker.holdings.directions.registry.artifacts)


@pytest.fixture
def mine(models: RewardModels, folder: Path) -> Ref:
    return ref_to(put(models, folder))


def asked(worker: PairAnnotator, model: Ref, *items: Any, truncate: bool = False) -> ChunkAnswer:
    lines = list(range(len(items)))
    chunk = Chunk(directions=[], truncate=truncate, reward_model=model, items=list(items), lines=lines, tokens=1)
    return worker.annotate(chunk)


def plainly(folder: Path, messages: list[Message], response: str) -> float:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    turns = [message.model_dump() for message in messages] + [{"role": "assistant", "content": response}]
    loaded = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    tokens = tokenizer.apply_chat_template(turns, return_tensors="pt", return_dict=True)
    with torch.inference_mode():
        return float(loaded(**tokens).logits)


def test_a_margin_is_the_difference_of_rewards_as_transformers_gives_them(
    worker: PairAnnotator, mine: Ref, folder: Path
) -> None:
    for pair, entry in zip(PAIRS, asked(worker, mine, *PAIRS).entries, strict=True):
        assert isinstance(entry, Annotation)
        expected = [plainly(folder, pair.messages, side) for side in (pair.chosen, pair.rejected)]
        assert [entry.raw.chosen, entry.raw.rejected] == pytest.approx(expected, abs=1e-4)
        assert entry.margin == entry.raw.margin == entry.raw.chosen - entry.raw.rejected
        assert entry.level == sum(edge <= entry.margin for edge in EDGES)
        assert entry.label_conflict is (entry.margin < 0)
        assert (entry.truncated, entry.directions, entry.rules) == (False, None, None)


def test_responses_are_ordered_by_reward(worker: PairAnnotator, mine: Ref, folder: Path) -> None:
    responses = ["Ask a locksmith.", "Bend two hairpins.", "No.", "No."]
    (entry,) = asked(worker, mine, Candidates(id="0", prompt="How do I pick a lock?", responses=responses)).entries
    assert isinstance(entry, ScoredCandidates)
    expected = [plainly(folder, user("How do I pick a lock?"), response) for response in responses]
    assert [score.score for score in entry.scores] == pytest.approx(expected, abs=1e-4)
    assert entry.order == sorted(range(4), key=lambda place: (-entry.scores[place].score, place))
    assert entry.scores[2].rank == entry.scores[3].rank


def test_a_query_has_the_reward_of_its_response(worker: PairAnnotator, mine: Ref, folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    turns = [{"role": "user", "content": "Hello?"}, {"role": "assistant", "content": "Hello."}]
    text = str(tokenizer.apply_chat_template(turns, tokenize=False))
    prompt = str(tokenizer.apply_chat_template(turns[:1], tokenize=False, add_generation_prompt=True))
    queries = [Query(id="0", text=text), Query(id="1", text=text.removesuffix("\n"), prompt=prompt)]
    for entry in asked(worker, mine, *queries).entries:
        assert isinstance(entry, Rewarded)
        assert entry.reward == pytest.approx(plainly(folder, user("Hello?"), "Hello."), abs=1e-4)
    (long,) = asked(worker, mine, Query(id="0", text=text.replace("?", "?" * 400))).entries
    assert isinstance(long, FailedAnnotation)
    assert (long.id, long.error.code) == ("0", "too_long")


def test_provenance_names_the_reward_model_and_what_it_was_made_of(
    worker: PairAnnotator, models: RewardModels, folder: Path
) -> None:
    card = put(models, folder, after=None)
    made_by = asked(worker, ref_to(card), PAIRS[0]).provenance
    assert (made_by.method, made_by.reward_model, made_by.direction) == ("reward", ref_to(card), None)
    assert (made_by.model, made_by.model_revision, made_by.template) == (
        "tiny-base", "sha256:base", "sha256:template",
    )  # fmt: skip
    assert (made_by.calibrated, made_by.unreliable, made_by.layers) == (False, True, [])


def test_a_pair_that_does_not_fit_fails_alone_or_is_cut(worker: PairAnnotator, mine: Ref) -> None:
    failure, entry = asked(worker, mine, LONG, PAIRS[0]).entries
    assert isinstance(failure, FailedAnnotation)
    assert (failure.id, failure.error.code, failure.error.counts["window"]) == ("long", "too_long", 191)
    assert isinstance(entry, Annotation)
    cut, whole = asked(worker, mine, LONG, PAIRS[0], truncate=True).entries
    assert isinstance(cut, Annotation)
    assert isinstance(whole, Annotation)
    assert (cut.truncated, whole.truncated) == (True, False)
    assert whole.margin == pytest.approx(entry.margin, abs=1e-5)


def test_scores_are_remembered_by_the_digest_of_the_model(
    worker: PairAnnotator, models: RewardModels, mine: Ref, folder: Path, redis: Redis, tmp_path: Path
) -> None:
    remembering = replace(worker, cache=ScoreCache(redis, worker.annotator, 1000))

    def hits() -> float:
        return float(worker.metrics.cached.labels("hit")._value.get())

    first = asked(remembering, mine, *PAIRS).entries
    assert hits() == 0
    assert asked(remembering, mine, *PAIRS).entries == first
    assert hits() == len(PAIRS)
    other = ref_to(put(models, classifier(tmp_path / "other", seed=2)))
    assert asked(remembering, other, *PAIRS).entries != first
    assert hits() == len(PAIRS)
    assert asked(remembering, mine, *PAIRS).entries == first  # replaced, it is there under its digest


def test_one_that_is_gone_fails_the_chunk(worker: PairAnnotator, models: RewardModels, mine: Ref) -> None:
    asked(worker, mine, PAIRS[0])
    models.delete(mine.id)
    with pytest.raises(NotHeld, match="reward model mine was deleted while the job used it"):
        asked(worker, mine, PAIRS[0])


def test_one_whose_weights_are_damaged_or_missing_fails_the_chunk(
    worker: PairAnnotator, models: RewardModels, mine: Ref
) -> None:
    weights = models.place(mine.id, mine.digest) + "/model.safetensors"
    models.artifacts.write(weights, b"no weights")
    with pytest.raises(NotHeld, match="reward model mine: "):
        asked(worker, mine, PAIRS[0])
    models.artifacts.delete(weights)
    with pytest.raises(NotHeld, match="was deleted while the job used it"):
        asked(worker, mine, PAIRS[0])


@pytest.mark.parametrize("content", [b"no card", None])
def test_a_card_that_is_no_card_or_anothers_is_refused(
    worker: PairAnnotator, models: RewardModels, mine: Ref, folder: Path, content: bytes | None
) -> None:
    if content is None:
        other = put(models, folder, "other")
        content = other.model_dump_json().encode()
    models.artifacts.write(models.place(mine.id, mine.digest) + "/reward.json", content)
    with pytest.raises(NotHeld):
        asked(worker, mine, PAIRS[0])


def test_the_last_two_are_kept_in_memory(
    annotator: Annotator, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[str] = []

    def counted(*given: Any) -> Any:
        loaded.append(given[0].id)
        return served(*given)

    monkeypatch.setattr(rewarding, "served", counted)
    models = RewardModels(Artifacts(str(tmp_path)))
    refs = {name: ref_to(put(models, folder, name)) for name in "abc"}
    held = HeldRewards(models, annotator)
    held.refresh()
    for name in "abacab":
        held.served(refs[name])
    assert loaded == ["a", "b", "c", "b"]
