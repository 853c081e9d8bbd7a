"""Several directions at once: one forward pass reads all their places, every one scores for itself."""

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor

from tests.conftest import encode
from workers.batcher import Batcher
from workers.directions.direction import PromptTerm, SafetyDirection, new_direction
from workers.engine.annotator import Annotator
from workers.engine.errors import PairRefused
from workers.engine.forward import read
from workers.engine.packing import Group
from workers.engine.sites import Site
from workers.engine.variant import Variant
from workers.metrics import WorkerMetrics
from workers.pending import Scores

RANK = 3
PROMPT_SITES = (Site(2, "request"), Site(0, "mean"))


def made(direction_id: str, seed: int, *sites: Site, term: PromptTerm | None = None) -> SafetyDirection:
    vectors = torch.randn(len(sites), 32, generator=torch.Generator().manual_seed(seed))
    return new_direction(direction_id, sites, vectors, model=("t", "r", "t"), recipe="r", settings={}, term=term)


def bent(direction_id: str, seed: int, *sites: Site) -> SafetyDirection:
    """A direction whose vectors depend on the prompt."""
    chance = torch.Generator().manual_seed(seed)
    probes = torch.randn(RANK, len(PROMPT_SITES), 32, generator=chance)
    offsets, vectors = torch.randn(RANK, generator=chance), torch.randn(RANK, len(sites), 32, generator=chance)
    return made(direction_id, seed, *sites, term=PromptTerm(PROMPT_SITES, probes, offsets, vectors))


PLAIN = made("plain", 0, Site(1, "mean"), Site(3, "last"))
OTHER = made("other", 1, Site(3, "last"))
BENT = bent("bent", 2, Site(3, "end_of_turn"), Site(1, "mean"))
ALL = (PLAIN, BENT, OTHER)


class Watched:
    """The real forward pass, with a note of what it was asked to read."""

    def __init__(self, annotator: Annotator) -> None:
        self._annotator = annotator
        self.sites: list[list[Site]] = []

    def __call__(self, groups: Sequence[Group], sites: Sequence[Site], _variant: Variant | None = None) -> Tensor:
        self.sites.append(list(sites))
        return read(self._annotator, groups, sites)


@pytest.fixture
def forward(annotator: Annotator) -> Watched:
    return Watched(annotator)


@pytest.fixture
def batcher(forward: Watched, annotator: Annotator) -> Iterator[Batcher]:
    running = Batcher(forward, annotator.budget, WorkerMetrics())
    thread = threading.Thread(target=running.run, daemon=True)
    thread.start()
    yield running
    running.close()
    thread.join(10)


def scored(batcher: Batcher, groups: Sequence[Group], *directions: SafetyDirection) -> list[Tensor]:
    with ThreadPoolExecutor(1) as pool:
        outcomes: list[Scores | PairRefused] = pool.submit(batcher.score, groups, directions).result(10)
    assert all(isinstance(outcome, tuple) for outcome in outcomes)
    return [torch.stack(outcome) for outcome in outcomes if isinstance(outcome, tuple)]


def by_hand(annotator: Annotator, direction: SafetyDirection, group: Group) -> Tensor:
    """Σ_s h_s · v_s, and for every product of the term (a_r · p − b_r) times Σ_s h_s · v_rs."""
    responses = read(annotator, [group], direction.sites).double()
    scores = (responses * direction.vectors).sum(dim=(1, 2))
    if direction.term is not None:
        prompts = read(annotator, [group], direction.term.sites).double()
        for a, b, v in zip(direction.term.probes, direction.term.offsets, direction.term.vectors, strict=True):
            scores += ((prompts * a).sum(dim=(1, 2)) - b) * (responses * v).sum(dim=(1, 2))
    return scores


def test_every_direction_scores_every_response_of_a_group(batcher: Batcher, annotator: Annotator) -> None:
    groups = [
        encode(annotator, "hi", "hello", "go away", ""),
        encode(annotator, "How do I sharpen a knife?", "Slowly."),
    ]
    outcomes = scored(batcher, groups, *ALL)
    assert [tuple(outcome.shape) for outcome in outcomes] == [(3, 3), (3, 1)]
    for group, outcome in zip(groups, outcomes, strict=True):
        for direction, scores in zip(ALL, outcome, strict=True):
            torch.testing.assert_close(scores, by_hand(annotator, direction, group), rtol=1e-4, atol=1e-4)


def test_all_their_places_are_read_in_one_pass_and_each_once(
    batcher: Batcher, forward: Watched, annotator: Annotator
) -> None:
    scored(batcher, [encode(annotator, "hi", "hello", "ho")], *ALL)
    (sites,) = forward.sites
    expected = {site for direction in (PLAIN, OTHER, BENT) for site in direction.sites} | set(PROMPT_SITES)
    assert (set(sites), len(sites)) == (expected, len(expected))


def test_company_does_not_change_a_directions_scores(batcher: Batcher, annotator: Annotator) -> None:
    group = encode(annotator, "hi", "hello", "ho")
    (together,) = scored(batcher, [group], *ALL)
    for direction, scores in zip(ALL, together, strict=True):
        (alone,) = scored(batcher, [group], direction)
        torch.testing.assert_close(scores[None], alone, rtol=1e-5, atol=1e-6)


def test_what_a_bent_direction_says_of_a_response_depends_on_the_request(
    batcher: Batcher, annotator: Annotator
) -> None:
    straight = SafetyDirection(BENT.card, BENT.sites, BENT.vectors)
    (bent_scores,), (straight_scores,) = (
        scored(batcher, [encode(annotator, "hi", "hello", "ho")], direction) for direction in (BENT, straight)
    )
    assert not torch.allclose(bent_scores, straight_scores, rtol=1e-2)
