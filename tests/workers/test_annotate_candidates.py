"""Responses to one prompt, ordered by a direction."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from app.schemas.annotate import Annotation, FailedAnnotation
from app.schemas.chunk import Chunk
from app.schemas.pairs import Pair
from app.schemas.score import Candidates, Ranking, ScoredCandidates
from tests.conftest import WINDOW, random_direction, ref, serving
from workers.annotate import PairAnnotator
from workers.batcher import Batcher
from workers.engine.annotator import Annotator
from workers.engine.errors import PairRefused
from workers.engine.packing import Group
from workers.engine.variant import Variant
from workers.pending import Scorer, Scores

RESPONSES = ["Slowly, with care.", "No idea!", "", "Go away.", "Ask a friend who knows about knives."]
KNIFE = Candidates(id="knife", prompt="How do I sharpen a knife?", responses=RESPONSES)


@pytest.fixture
def worker(annotator: Annotator, tmp_path: Path) -> Iterator[PairAnnotator]:
    sure, raw = random_direction(annotator, "sure", 0, slope=2.5), random_direction(annotator, "raw", 1)
    with serving(annotator, tmp_path, sure, raw) as pairs:
        yield pairs


def chunk(worker: PairAnnotator, *items: Pair | Candidates, directions: Sequence[str] = ("sure",)) -> Chunk:
    held = worker.holdings.directions.all()
    refs = [ref(held[name]) for name in directions]
    lines = list(range(1, len(items) + 1))
    return Chunk(directions=refs, truncate=False, items=list(items), lines=lines, tokens=0)


def ranked(worker: PairAnnotator, item: Candidates, *directions: str) -> ScoredCandidates:
    (entry,) = worker.annotate(chunk(worker, item, directions=directions or ("sure",))).entries
    assert isinstance(entry, ScoredCandidates)
    return entry


def assert_in_order(ranking: Ranking) -> None:
    scores = [entry.score for entry in ranking.scores]
    assert [scores[i] for i in ranking.order] == sorted(scores, reverse=True)
    assert [ranking.scores[i].rank for i in ranking.order] == list(range(1, len(scores) + 1))


def test_scores_stand_in_the_order_of_the_responses_and_the_order_names_the_safest_first(worker: PairAnnotator) -> None:
    found = ranked(worker, KNIFE)
    assert [entry.index for entry in found.scores] == [0, 1, 2, 3, 4]
    assert found.order != [0, 1, 2, 3, 4]
    assert_in_order(found)


def test_differences_of_scores_are_the_margins_of_pairs(worker: PairAnnotator) -> None:
    found = ranked(worker, KNIFE)
    pair = Pair(id="p", prompt=KNIFE.prompt, chosen=RESPONSES[0], rejected=RESPONSES[3])
    (margin,) = worker.annotate(chunk(worker, pair)).entries
    assert isinstance(margin, Annotation)
    assert found.scores[0].score - found.scores[3].score == pytest.approx(margin.margin, rel=1e-4)
    assert found.scores[0].score == 2.5 * found.scores[0].raw


class Fixed(Batcher):
    """A forward stage whose scores are given."""

    def __init__(self, *scores: float) -> None:
        self._scores_given = torch.tensor(scores, dtype=torch.double)

    def score(
        self,
        groups: Sequence[Group],
        scorers: Sequence[Scorer],
        *,
        variant: Variant | None = None,
        urgent: bool = True,
    ) -> list[Scores | PairRefused]:
        return [(self._scores_given,) for _ in groups]


def test_equal_scores_share_a_rank_and_keep_their_order(worker: PairAnnotator) -> None:
    found = ranked(replace(worker, batcher=Fixed(1, 3, 1, 3, 2)), KNIFE)
    assert [entry.rank for entry in found.scores] == [4, 1, 4, 1, 3]
    assert found.order == [1, 3, 4, 0, 2]


def test_one_response_alone_is_the_safest(worker: PairAnnotator) -> None:
    found = ranked(worker, Candidates(id="one", prompt="hi", responses=["hello"]))
    assert (found.order, found.scores[0].rank) == ([0], 1)


def test_tokens_count_each_response(worker: PairAnnotator) -> None:
    found = ranked(worker, Candidates(id="counted", prompt="hi", responses=["~~", "", "~~~~~"]))
    assert [entry.tokens for entry in found.scores] == [2, 0, 5]


def test_several_directions_order_the_responses_each_in_its_own_way(worker: PairAnnotator) -> None:
    found = ranked(worker, KNIFE, "raw", "sure")
    assert found.directions is not None
    assert list(found.directions) == ["raw", "sure"]
    assert found.order == found.directions["raw"].order != found.directions["sure"].order
    for ranking in found.directions.values():
        assert_in_order(ranking)
    assert ranked(worker, KNIFE).directions is None


def test_a_response_that_does_not_fit_fails_the_item_and_none_of_its_neighbours(worker: PairAnnotator) -> None:
    long = Candidates(id="long", prompt="hi", responses=["ok", "~" * WINDOW])
    pair = Pair(id="pair", prompt="hi", chosen="ok", rejected="no")
    answer = worker.annotate(chunk(worker, KNIFE, long, pair))
    assert [type(entry) for entry in answer.entries] == [ScoredCandidates, FailedAnnotation, Annotation]
    assert [entry.id for entry in answer.entries] == ["knife", "long", "pair"]
    assert answer.counts() == (2, 1)
