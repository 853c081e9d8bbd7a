"""The shared forward stage: everybody gets their own scores, whoever shares the batch."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from itertools import count
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from tests.conftest import encode, tiny_annotator
from workers.batcher import Batcher
from workers.directions.direction import SafetyDirection, new_direction
from workers.engine.errors import NotFinite, PairRefused, Unscorable
from workers.engine.forward import read
from workers.engine.memory import Budget
from workers.engine.packing import Branch, Group
from workers.engine.sites import Site
from workers.engine.variant import Variant
from workers.metrics import WorkerMetrics
from workers.pending import Scores

BUDGET = 100
PATIENCE = 10.0
BREAKING, OVERFLOWING = 666, 667
SHALLOW, DEEP = Site(1, "mean"), Site(3, "last")

Outcomes = list[Scores | PairRefused]


def group(*responses: int, prompt: int = 5) -> Group:
    """A group whose responses consist of one token each, after a prompt that no group of other responses has."""
    return Group(
        (responses[0], *(0,) * (prompt - 1)),
        tuple(Branch((token,), content=1) for token in responses),
        prompt=prompt,
        request=(0, 1),
    )


def direction(*sites: Site, weight: float = 1.0) -> SafetyDirection:
    vectors = weight * torch.tensor([[1.0, 0.0]] * len(sites))
    return new_direction("d", sites, vectors, model=("fake", "r", "t"), recipe="by hand", settings={})


class FakeForward:
    """A forward pass whose activation at layer l is (l + 1) × token; two tokens are poisonous."""

    def __init__(self) -> None:
        self.batches: list[list[Group]] = []
        self.sites: list[list[Site]] = []
        self.revisions: list[str | None] = []
        self.error: Exception = RuntimeError("poisoned")

    def __call__(self, groups: Sequence[Group], sites: Sequence[Site], variant: Variant | None = None) -> Tensor:
        self.batches.append(list(groups))
        self.sites.append(list(sites))
        self.revisions.append(variant.revision if variant else None)
        tokens = [branch.tokens[0] for g in groups for branch in g.branches]
        if BREAKING in tokens:
            raise self.error
        first = torch.tensor([[(site.layer + 1.0) * token for site in sites] for token in tokens])
        first[torch.tensor(tokens) == OVERFLOWING] = float("nan")
        return torch.stack([first, torch.ones_like(first)], dim=2)


@pytest.fixture
def forward() -> FakeForward:
    return FakeForward()


@pytest.fixture
def metrics() -> WorkerMetrics:
    return WorkerMetrics()


@pytest.fixture
def idle(forward: FakeForward, metrics: WorkerMetrics) -> Batcher:
    """A batcher that does not run, so that a test decides what is pending when it begins."""
    return Batcher(forward, Budget(BUDGET), metrics)


@pytest.fixture
def batcher(idle: Batcher) -> Iterator[Batcher]:
    """A batcher that runs on a thread."""
    thread = threading.Thread(target=idle.run, daemon=True)
    thread.start()
    yield idle
    idle.close()
    thread.join(PATIENCE)
    assert not thread.is_alive()


def later(call: Callable[[], Outcomes]) -> "Future[Outcomes]":
    """The call on a thread of its own."""
    future: Future[Outcomes] = Future()

    def run() -> None:
        try:
            future.set_result(call())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


def await_pending(batcher: Batcher, groups: int) -> None:
    """Return once that many groups are pending in a batcher that does not run."""
    with batcher._wake:
        assert batcher._wake.wait_for(lambda: len(batcher._pending) == groups, PATIENCE)


def finish(batcher: Batcher) -> None:
    batcher.close()
    batcher.run()


def scored(batcher: Batcher, groups: Sequence[Group], directions: Sequence[SafetyDirection]) -> Outcomes:
    return later(lambda: batcher.score(groups, directions)).result(PATIENCE)


def values(outcomes: Outcomes) -> list[list[float] | str]:
    return [outcome[0].tolist() if isinstance(outcome, tuple) else outcome.code for outcome in outcomes]


def test_each_group_gets_the_scores_of_its_responses_in_order(batcher: Batcher) -> None:
    outcomes = scored(batcher, [group(1, 2), group(3), group(4, 5, 6, prompt=50)], [direction(SHALLOW)])
    assert values(outcomes) == [[2.0, 4.0], [6.0], [8.0, 10.0, 12.0]]


def test_no_groups_have_no_scores(idle: Batcher) -> None:
    assert idle.score([], [direction(SHALLOW)]) == []


def test_submissions_from_many_threads_share_batches_and_get_their_own_scores(
    idle: Batcher, forward: FakeForward
) -> None:
    submissions = [[group(10 * n + i, 10 * n + i + 1) for i in range(1 + n % 3)] for n in range(8)]
    futures = [later(lambda s=s: idle.score(s, [direction(SHALLOW)])) for s in submissions]  # type: ignore[misc]
    await_pending(idle, sum(map(len, submissions)))
    finish(idle)
    for submission, future in zip(submissions, futures, strict=True):
        expected = [[2.0 * branch.tokens[0] for branch in g.branches] for g in submission]
        assert values(future.result(PATIENCE)) == expected
    assert len(forward.batches) == 2
    assert sum(map(len, forward.batches)) == 15
    assert all(sum(g.size for g in batch) <= BUDGET for batch in forward.batches)


def test_submissions_for_different_directions_share_a_pass_and_get_their_own_scores(
    idle: Batcher, forward: FakeForward
) -> None:
    both, deep = direction(DEEP, SHALLOW, weight=10.0), direction(DEEP)
    futures = [later(lambda d=d: idle.score([group(1, 2)], [d])) for d in (both, deep)]  # type: ignore[misc]
    await_pending(idle, 2)
    finish(idle)
    assert [values(future.result(PATIENCE)) for future in futures] == [[[60.0, 120.0]], [[4.0, 8.0]]]
    assert [len(batch) for batch in forward.batches] == [1]  # the same group, which is computed once
    assert [sorted(sites) for sites in forward.sites] == [[SHALLOW, DEEP]]


def test_a_group_that_breaks_the_forward_pass_fails_alone(batcher: Batcher) -> None:
    groups = [group(1), group(2, BREAKING), group(3), group(4), group(5)]
    outcomes = scored(batcher, groups, [direction(SHALLOW)])
    assert values(outcomes) == [[2.0], "forward_failed", [6.0], [8.0], [10.0]]
    failure = outcomes[1]
    assert isinstance(failure, Unscorable)
    assert failure.detail == "the annotator fails on this pair (RuntimeError)"
    assert values(scored(batcher, [group(6)], [direction(SHALLOW)])) == [[12.0]]


def test_several_poisoned_groups_all_fail_and_all_others_are_scored(batcher: Batcher) -> None:
    tokens = [1, BREAKING, BREAKING, 4, 5, BREAKING]
    outcomes = scored(batcher, [group(token) for token in tokens], [direction(SHALLOW)])
    assert values(outcomes) == ["forward_failed" if token == BREAKING else [2.0 * token] for token in tokens]


def test_activations_that_are_not_finite_refuse_only_their_group(batcher: Batcher) -> None:
    outcomes = scored(batcher, [group(1), group(2, OVERFLOWING), group(3)], [direction(SHALLOW)])
    assert values(outcomes) == [[2.0], "not_finite", [6.0]]
    assert isinstance(outcomes[1], NotFinite)


@pytest.mark.parametrize("place", [0, 2, 4])
def test_a_token_whose_embedding_is_not_finite_refuses_only_the_pair_that_uses_it(place: int) -> None:
    annotator = tiny_annotator()
    (poisonous,) = annotator.tokenizer.encode("Q", add_special_tokens=False)
    texts = ["Slowly, with care.", "No idea!", "Ask a friend.", "Do it yourself."]
    texts.insert(place, "Quickly!")
    groups = [encode(annotator, f"How do I sharpen knife {i}?", text, "no") for i, text in enumerate(texts)]
    sites = (Site(2, "mean"), Site(1, "end_of_turn"))
    made = new_direction("d", sites, torch.ones(2, annotator.width), model=("t", "r", "t"), recipe="r", settings={})
    healthy = [made.scores(read(annotator, [group], sites)) for group in groups]
    annotator.decoder.embed_tokens.weight[poisonous] = float("nan")
    batcher = Batcher(
        lambda groups, sites, _variant=None: read(annotator, groups, sites), annotator.budget, WorkerMetrics()
    )
    future = later(lambda: batcher.score(groups, [made]))
    await_pending(batcher, len(groups))
    finish(batcher)
    outcomes = future.result(PATIENCE)
    assert isinstance(outcomes[place], NotFinite)
    for index, (outcome, expected) in enumerate(zip(outcomes, healthy, strict=True)):
        if index != place:
            torch.testing.assert_close(outcome, (expected,), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("error", [TypeError("x"), KeyError("x"), AssertionError("x")], ids=lambda e: type(e).__name__)
def test_whatever_the_forward_pass_raises_fails_one_group_and_the_thread_goes_on(
    batcher: Batcher, forward: FakeForward, error: Exception
) -> None:
    forward.error = error
    outcomes = scored(batcher, [group(1), group(2, BREAKING), group(3)], [direction(SHALLOW)])
    assert values(outcomes) == [[2.0], "forward_failed", [6.0]]
    assert isinstance(outcomes[1], Unscorable)
    assert outcomes[1].detail == f"the annotator fails on this pair ({type(error).__name__})"
    assert values(scored(batcher, [group(6)], [direction(SHALLOW)])) == [[12.0]]


def test_groups_of_similar_length_share_a_batch_and_the_oldest_is_never_left_behind(
    idle: Batcher, forward: FakeForward
) -> None:
    lengths = [60, 5, 58, 6, 7]
    future = later(lambda: idle.score([group(n, prompt=n) for n in lengths], [direction(SHALLOW)]))
    await_pending(idle, 5)
    finish(idle)
    assert values(future.result(PATIENCE)) == [[2.0 * n] for n in lengths]
    sizes = [sorted(g.prompt for g in batch) for batch in forward.batches]
    assert 60 in sizes[0]
    assert sorted(n for batch in sizes for n in batch) == sorted(lengths)
    assert [5, 6, 7] in [[n for n in batch if n < 10] for batch in sizes]


def test_a_group_larger_than_the_budget_is_scored_by_itself(batcher: Batcher, forward: FakeForward) -> None:
    outcomes = scored(batcher, [group(1), group(2, prompt=500), group(3)], [direction(SHALLOW)])
    assert values(outcomes) == [[2.0], [4.0], [6.0]]
    assert [500] in [[g.prompt for g in batch] for batch in forward.batches]


def test_closing_finishes_what_is_pending(idle: Batcher, forward: FakeForward) -> None:
    future = later(lambda: idle.score([group(n, prompt=90) for n in range(5)], [direction(SHALLOW)]))
    await_pending(idle, 5)
    finish(idle)
    assert values(future.result(PATIENCE)) == [[2.0 * n] for n in range(5)]
    assert len(forward.batches) == 5


def test_closing_wakes_every_thread_that_waits_for_work(idle: Batcher) -> None:
    threads = [threading.Thread(target=idle.run, daemon=True) for _ in range(3)]
    for thread in threads:
        thread.start()
    idle.close()
    for thread in threads:
        thread.join(PATIENCE)
    assert not any(thread.is_alive() for thread in threads)


def test_nothing_is_taken_after_closing(idle: Batcher) -> None:
    finish(idle)
    with pytest.raises(RuntimeError, match="the forward stage is closed"):
        later(lambda: idle.score([group(1)], [direction(SHALLOW)])).result(PATIENCE)


def test_several_threads_run_batches_of_one_submission_side_by_side(forward: FakeForward) -> None:
    side_by_side = threading.Barrier(3)

    def meeting(groups: Sequence[Group], sites: Sequence[Site], _variant: Variant | None = None) -> Tensor:
        side_by_side.wait(PATIENCE)
        return forward(groups, sites)

    batcher = Batcher(meeting, Budget(BUDGET), WorkerMetrics())
    future = later(lambda: batcher.score([group(n, prompt=90) for n in range(6)], [direction(SHALLOW)]))
    await_pending(batcher, 6)
    batcher.close()
    threads = [threading.Thread(target=batcher.run, daemon=True) for _ in range(3)]
    for thread in threads:
        thread.start()
    assert values(future.result(PATIENCE)) == [[2.0 * n] for n in range(6)]
    for thread in threads:
        thread.join(PATIENCE)


def test_passes_that_are_free_share_what_waits(forward: FakeForward) -> None:
    batcher = Batcher(forward, Budget(BUDGET), WorkerMetrics(), passes=2)
    future = later(lambda: batcher.score([group(n, prompt=20) for n in range(4)], [direction(SHALLOW)]))
    await_pending(batcher, 4)
    finish(batcher)
    assert values(future.result(PATIENCE)) == [[2.0 * n] for n in range(4)]
    assert [len(batch) for batch in forward.batches] == [2, 1, 1]


def test_a_batch_is_timed_while_it_runs(metrics: WorkerMetrics, monkeypatch: pytest.MonkeyPatch) -> None:
    running: list[float] = []

    def forward(groups: Sequence[Group], _sites: Sequence[Site], _variant: Variant | None = None) -> Tensor:
        running.append(timed.batch_seconds())
        return torch.zeros(sum(len(g.branches) for g in groups), 1, 2)

    monkeypatch.setattr("workers.batcher.time", SimpleNamespace(monotonic=count(100.0, 7.0).__next__, sleep=time.sleep))
    timed = Batcher(forward, Budget(BUDGET), metrics)
    assert timed.batch_seconds() == 0
    later(lambda: timed.score([group(1)], [direction(SHALLOW)]))
    await_pending(timed, 1)
    finish(timed)
    assert running == [7.0]
    assert timed.batch_seconds() == 0


def test_tokens_and_batches_are_counted(idle: Batcher, metrics: WorkerMetrics) -> None:
    later(lambda: idle.score([group(1, 2), group(3, prompt=50)], [direction(SHALLOW)]))
    await_pending(idle, 2)
    finish(idle)
    assert metrics.registry.get_sample_value("safemargin_forward_tokens_total") == 7 + 51
    assert metrics.registry.get_sample_value("safemargin_forward_seconds_count") == 1
    assert metrics.registry.get_sample_value("safemargin_batch_fill_ratio_sum") == pytest.approx(0.58)


def test_what_is_computed_once_for_several_is_counted_once(idle: Batcher, metrics: WorkerMetrics) -> None:
    for _ in range(3):
        later(lambda: idle.score([group(1, 2)], [direction(SHALLOW)]))
    await_pending(idle, 3)
    finish(idle)
    assert metrics.registry.get_sample_value("safemargin_forward_tokens_total") == 7
    assert metrics.registry.get_sample_value("safemargin_batch_fill_ratio_sum") == pytest.approx(0.07)


def answering(prompt: int, *responses: int) -> Group:
    """A group of a prompt that is the number's own."""
    return Group((prompt, 0, 0), tuple(Branch((token,), content=1) for token in responses), prompt=3, request=(0, 1))


def computed(forward: FakeForward) -> list[tuple[int, tuple[int, ...]]]:
    """Prompt and responses of every group that went through the forward pass."""
    return [
        (one.prefix[0], tuple(branch.tokens[0] for branch in one.branches))
        for batch in forward.batches
        for one in batch
    ]


def test_pairs_of_one_prompt_compute_it_and_their_common_responses_once(batcher: Batcher, forward: FakeForward) -> None:
    pairs = [answering(7, 1, 2), answering(8, 1, 2), answering(7, 2, 3), answering(7, 3, 1), answering(7, 4, 4)]
    outcomes = scored(batcher, pairs, [direction(SHALLOW)])
    assert values(outcomes) == [[2.0, 4.0], [2.0, 4.0], [4.0, 6.0], [6.0, 2.0], [8.0, 8.0]]
    assert sorted(computed(forward)) == [(7, (1, 2, 3, 4)), (8, (1, 2))]


def test_what_another_pair_of_its_prompt_brings_along_refuses_no_pair(batcher: Batcher) -> None:
    pairs = [answering(7, 1, 2), answering(7, 1, OVERFLOWING), answering(7, 2, 3), answering(8, 1, 2)]
    outcomes = scored(batcher, pairs, [direction(SHALLOW)])
    assert values(outcomes) == [[2.0, 4.0], "not_finite", [4.0, 6.0], [2.0, 4.0]]


def test_the_same_pair_in_many_requests_that_wait_together_is_computed_once(
    idle: Batcher, forward: FakeForward
) -> None:
    futures = [later(lambda: idle.score([group(1, 2)], [direction(SHALLOW)])) for _ in range(5)]
    await_pending(idle, 5)
    finish(idle)
    assert [values(future.result(PATIENCE)) for future in futures] == [[[2.0, 4.0]]] * 5
    assert computed(forward) == [(1, (1, 2))]


def test_time_without_work_is_told_from_time_with_it(metrics: WorkerMetrics, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = count(100.0, 1.0)
    forward = FakeForward()
    watched = Batcher(forward, Budget(BUDGET), metrics)
    monkeypatch.setattr("workers.batcher.time", SimpleNamespace(monotonic=clock.__next__, sleep=time.sleep))
    later(lambda: watched.score([group(1), group(2, prompt=BUDGET)], [direction(SHALLOW)]))
    await_pending(watched, 2)
    finish(watched)  # looks at the clock before and after each wait and each batch; the last wait is for the end
    assert metrics.registry.get_sample_value("safemargin_forward_seconds_sum") == 2.0
    assert metrics.registry.get_sample_value("safemargin_forward_idle_seconds_total") == 3.0
