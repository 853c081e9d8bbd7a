"""Scores that were computed before, on the tiny annotator and a real queue."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from redis import Redis

from app.jobs.keys import PREFIX
from app.schemas.annotate import Annotation
from app.schemas.chunk import Chunk, ChunkAnswer
from app.schemas.pairs import Pair
from app.schemas.score import Candidates
from tests.conftest import WINDOW, random_direction, ref, serving, user
from workers.annotate import PairAnnotator
from workers.engine.annotator import Annotator
from workers.score_cache import Known, ScoreCache

PAIR = Pair(id="a", prompt="How do I sharpen a knife?", chosen="Slowly, with care.", rejected="No idea!")
ENTRIES = 100
KEY_BYTES = 16


@pytest.fixture
def worker(annotator: Annotator, tmp_path: Path, redis: Redis) -> Iterator[PairAnnotator]:
    """A worker that keeps scores, and holds two directions."""
    held = random_direction(annotator, "one", 1, slope=2.0), random_direction(annotator, "two", 2)
    with serving(annotator, tmp_path, *held) as pairs:
        yield replace(pairs, cache=ScoreCache(redis, annotator, ENTRIES))


def read(
    worker: PairAnnotator, *items: Pair | Candidates, directions: str = "one", truncate: bool = False
) -> ChunkAnswer:
    held = worker.holdings.directions.all()
    refs = [ref(held[name]) for name in directions.split()]
    lines = list(range(1, len(items) + 1))
    return worker.annotate(Chunk(directions=refs, truncate=truncate, items=list(items), lines=lines, tokens=0))


def forwarded(worker: PairAnnotator) -> float:
    """Tokens that went through the annotator so far."""
    return worker.metrics.registry.get_sample_value("safemargin_forward_tokens_total") or 0.0


def looked_up(worker: PairAnnotator) -> tuple[float, float]:
    """How many items were found, and how many not."""
    value = worker.metrics.registry.get_sample_value
    hit, miss = (value("safemargin_score_cache_total", {"outcome": outcome}) for outcome in ("hit", "miss"))
    return hit or 0.0, miss or 0.0


def test_what_was_read_before_is_answered_alike_without_a_forward_pass(worker: PairAnnotator) -> None:
    first = read(worker, PAIR, directions="one two")
    before = forwarded(worker)
    assert before > 0
    assert read(worker, PAIR, directions="one two") == first
    assert forwarded(worker) == before


def test_of_an_overlapping_chunk_only_what_is_new_is_read(worker: PairAnnotator) -> None:
    (known,) = read(worker, PAIR).entries
    before = forwarded(worker)
    new = PAIR.model_copy(update={"id": "b", "prompt": "hi"})
    alone = read(worker, new)
    cost = forwarded(worker) - before
    other = PAIR.model_copy(update={"id": "c", "prompt": "ho"})
    answer = read(worker, other, PAIR, new)
    assert [entry.id for entry in answer.entries] == ["c", "a", "b"]
    assert answer.entries[1:] == [known, *alone.entries]
    assert forwarded(worker) - before == 2 * cost


def test_ids_and_calibration_are_the_requests_own(worker: PairAnnotator) -> None:
    read(worker, PAIR)
    (entry,) = read(worker, PAIR.model_copy(update={"id": "other"})).entries
    assert isinstance(entry, Annotation)
    assert (entry.id, entry.margin) == ("other", 2 * entry.raw.margin)


def test_pairs_and_candidates_share_scores(worker: PairAnnotator) -> None:
    read(worker, Candidates(id="k", prompt=PAIR.prompt, responses=["Maybe.", PAIR.rejected, PAIR.chosen]))
    before = forwarded(worker)
    swapped = PAIR.model_copy(update={"chosen": PAIR.rejected, "rejected": PAIR.chosen})
    one, other = read(worker, PAIR, swapped).entries
    assert isinstance(one, Annotation) and isinstance(other, Annotation)
    assert one.margin == -other.margin
    assert (one.tokens.chosen, one.tokens.rejected) == (other.tokens.rejected, other.tokens.chosen)
    assert forwarded(worker) == before


@pytest.mark.parametrize(
    "other",
    [
        PAIR.model_copy(update={"prompt": "How do I sharpen a knife"}),
        PAIR.model_copy(update={"prompt": [*user("x"), *user(str(PAIR.prompt))]}),
        PAIR.model_copy(update={"chosen": PAIR.chosen + " "}),
        PAIR.model_copy(update={"prompt": f"{PAIR.prompt}{PAIR.chosen}", "chosen": ""}),
    ],
    ids=["prompt", "conversation", "response", "the same text cut elsewhere"],
)
def test_another_prompt_or_response_is_another_score(worker: PairAnnotator, other: Pair) -> None:
    read(worker, PAIR)
    before = forwarded(worker)
    read(worker, other)
    assert forwarded(worker) > before


def test_another_direction_is_another_score(worker: PairAnnotator) -> None:
    read(worker, PAIR)
    before = forwarded(worker)
    read(worker, PAIR, directions="one two")
    assert forwarded(worker) > before


def test_another_model_is_another_score(worker: PairAnnotator, redis: Redis, annotator: Annotator) -> None:
    direction = worker.holdings.directions.all()["one"]
    other = replace(direction, card=direction.card.model_copy(update={"model_revision": "sha256:taught"}))
    cache = ScoreCache(redis, annotator, ENTRIES)
    assert len({cache.keys(user("hi"), ["ho"], [read])[0] for read in (direction, other)}) == 2


def test_what_was_cut_is_not_kept(worker: PairAnnotator, redis: Redis) -> None:
    long = PAIR.model_copy(update={"prompt": "~" * 2 * WINDOW})
    for _ in range(2):
        (entry,) = read(worker, long, truncate=True).entries
        assert isinstance(entry, Annotation) and entry.truncated
    assert not list(redis.scan_iter(PREFIX + "scores:*"))


def test_a_pair_that_fails_is_not_kept(worker: PairAnnotator, redis: Redis) -> None:
    read(worker, PAIR.model_copy(update={"prompt": "~" * 2 * WINDOW}))
    assert not list(redis.scan_iter(PREFIX + "scores:*"))


def fill(cache: ScoreCache, *names: str) -> None:
    for name in names:
        cache.put([(name.encode() * KEY_BYTES, Known(raw=1.5, tokens=2, prompt_tokens=3))])


def held_of(cache: ScoreCache, *names: str) -> list[bool]:
    return [known is not None for known in cache.get([name.encode() * KEY_BYTES for name in names])]


def test_two_generations_are_kept_and_the_one_before_forgotten(annotator: Annotator, redis: Redis) -> None:
    cache = ScoreCache(redis, annotator, 2)
    fill(cache, "a", "b", "c")
    assert held_of(cache, "a", "b", "c") == [True, True, True]
    fill(cache, "d", "e")
    assert held_of(cache, "a", "b", "c", "d", "e") == [False, False, True, True, True]
    assert cache.get([b"e" * KEY_BYTES]) == [Known(raw=1.5, tokens=2, prompt_tokens=3)]
    assert sum(redis.hlen(name) for name in redis.scan_iter(PREFIX + "scores:*:*")) <= 4


def test_many_scores_are_kept_at_once(annotator: Annotator, redis: Redis) -> None:
    cache = ScoreCache(redis, annotator, 10_000)
    keys = [b"%016d" % number for number in range(2500)]
    cache.put([(key, Known(float(key), 1, 1)) for key in keys])
    assert [known and known.raw for known in cache.get(keys)] == [float(key) for key in keys]


def test_while_the_queue_is_away_everything_is_read_anew(worker: PairAnnotator, annotator: Annotator) -> None:
    with Redis.from_url("unix:///nowhere/queue.sock", retry=None) as away:
        lonely = replace(worker, cache=ScoreCache(away, annotator, ENTRIES))
        first, before = read(lonely, PAIR), forwarded(worker)
        assert read(lonely, PAIR).counts() == first.counts() == (1, 0)
        assert forwarded(worker) == 2 * before
