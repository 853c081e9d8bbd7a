"""Pairs judged by what a taught model says itself: `method: rahf` in a worker."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from app.alignments import Alignments
from app.schemas.annotate import Annotation, FailedAnnotation
from app.schemas.chunk import Chunk, ChunkAnswer, Contrasting
from app.schemas.names import Ref
from app.schemas.pairs import Message, Pair
from tests.conftest import serving, user
from tests.workers.alignment.shelf import put, random_adapter, ref_to
from tests.workers.rules.conftest import roomy_annotator
from workers.alignment.batches import Item
from workers.alignment.learner import Learner
from workers.alignment.margins import Contrast, Scored
from workers.annotate import PairAnnotator
from workers.engine.annotator import Annotator
from workers.engine.lora import adapted
from workers.engine.packing import Group
from workers.holding import NotHeld
from workers.turns import Manner

PAIRS = [
    Pair(id="a", prompt="How do I pick a lock?", chosen="Ask a locksmith.", rejected="Bend two hairpins."),
    Pair(id="b", prompt=[Message(role="system", content="Be brief."), *user("Hello?")], chosen="", rejected="Hello."),
    Pair(id="c", prompt="And then?", chosen="That is all.", rejected="No."),
]
LONG = Pair(id="long", prompt="word " * 3000, chosen="yes", rejected="no")


@pytest.fixture(scope="module")
def pupil() -> Annotator:
    """An annotator with room for instructions."""
    return roomy_annotator()


@pytest.fixture
def worker(pupil: Annotator, tmp_path: Path) -> Iterator[PairAnnotator]:
    with serving(pupil, tmp_path) as serves:
        yield serves


@pytest.fixture
def shelf(worker: PairAnnotator) -> Alignments:
    return Alignments(worker.holdings.directions.registry.artifacts)


def asked(
    worker: PairAnnotator, alignment: Ref, *pairs: Pair, manner: Manner | None = None, truncate: bool = False
) -> ChunkAnswer:
    chunk = Chunk(
        directions=[],
        truncate=truncate,
        contrasting=Contrasting(alignment=alignment),
        items=list(pairs),
        lines=list(range(len(pairs))),
        tokens=1,
    )
    return worker.annotate(chunk, manner or Manner())


def expected(contrast: Contrast, pair: Pair, *, truncate: bool = False) -> list[float]:
    (scored,) = contrast.scores([Item(pair.messages, (pair.chosen, pair.rejected))], truncate=truncate)
    assert isinstance(scored, Scored)
    return [float(score) for score in scored.scores]


def test_margins_are_differences_of_log_likelihood_ratios_in_log_odds(
    worker: PairAnnotator, shelf: Alignments, pupil: Annotator
) -> None:
    card = put(shelf, pupil)
    contrast = Contrast.of_scit(adapted(pupil, random_adapter(pupil)))
    answer = asked(worker, ref_to(card), *PAIRS)
    for pair, entry in zip(PAIRS, answer.entries, strict=True):
        assert isinstance(entry, Annotation)
        assert [entry.raw.chosen, entry.raw.rejected] == pytest.approx(expected(contrast, pair), abs=1e-3)
        assert entry.raw.margin == entry.raw.chosen - entry.raw.rejected
        assert card.slope is not None
        assert entry.margin == pytest.approx(card.slope * entry.raw.margin)
        assert entry.level == sum(edge <= entry.margin for edge in card.level_edges)
        assert entry.label_conflict is (entry.margin < 0)
        plain = pupil.template.encode(pair.messages, [pair.chosen, pair.rejected])
        assert entry.tokens.prompt == plain.prompt
        assert [entry.tokens.chosen, entry.tokens.rejected] == [branch.content for branch in plain.branches]
        assert (entry.truncated, entry.directions, entry.rules) == (False, None, None)


def test_of_dual_both_models_are_asked(worker: PairAnnotator, shelf: Alignments, pupil: Annotator) -> None:
    card = put(shelf, pupil, method="rahf-dual")
    contrast = Contrast.of_dual(*(adapted(pupil, random_adapter(pupil, seed)) for seed in (0, 1)))
    (entry,) = asked(worker, ref_to(card), PAIRS[0]).entries
    assert isinstance(entry, Annotation)
    assert [entry.raw.chosen, entry.raw.rejected] == pytest.approx(expected(contrast, PAIRS[0]), abs=1e-3)


def test_provenance_names_the_taught_model(worker: PairAnnotator, shelf: Alignments, pupil: Annotator) -> None:
    card = put(shelf, pupil, method="rahf-dual", unreliable=True)
    made_by = asked(worker, ref_to(card), PAIRS[0]).provenance
    assert (made_by.method, made_by.alignment, made_by.direction) == ("rahf", ref_to(card), None)
    assert (made_by.model, made_by.model_revision) == (pupil.name, card.taught_revisions[0])
    assert (made_by.calibrated, made_by.unreliable, made_by.layers) == (True, True, [])


def test_without_a_slope_margins_are_raw(worker: PairAnnotator, shelf: Alignments, pupil: Annotator) -> None:
    card = put(shelf, pupil, slope=None, level_edges=[])
    answer = asked(worker, ref_to(card), PAIRS[0])
    (entry,) = answer.entries
    assert isinstance(entry, Annotation)
    assert (entry.margin, entry.level, answer.provenance.calibrated) == (entry.raw.margin, None, False)


def test_a_pair_that_does_not_fit_fails_alone_or_is_cut(
    worker: PairAnnotator, shelf: Alignments, pupil: Annotator
) -> None:
    card = put(shelf, pupil)
    failure, entry = asked(worker, ref_to(card), LONG, PAIRS[0]).entries
    assert isinstance(failure, FailedAnnotation)
    assert (failure.id, failure.error.code) == ("long", "too_long")
    assert isinstance(entry, Annotation)
    cut, whole = asked(worker, ref_to(card), LONG, PAIRS[0], truncate=True).entries
    assert isinstance(cut, Annotation)
    assert isinstance(whole, Annotation)
    assert (cut.truncated, whole.truncated) == (True, False)
    assert cut.tokens.prompt < pupil.template.window
    assert whole.margin == pytest.approx(entry.margin, abs=1e-4)


def test_a_pair_on_which_the_model_fails_fails_alone(
    worker: PairAnnotator, shelf: Alignments, pupil: Annotator, monkeypatch: pytest.MonkeyPatch
) -> None:
    card, inner = put(shelf, pupil), Learner.log_likelihoods

    def failing(learner: Learner, groups: Sequence[Group]) -> Any:
        if any(branch.content == 0 for group in groups for branch in group.branches):
            raise RuntimeError("no memory")
        return inner(learner, groups)

    monkeypatch.setattr(Learner, "log_likelihoods", failing)
    entries = asked(worker, ref_to(card), *PAIRS).entries
    assert [type(entry) for entry in entries] == [Annotation, FailedAnnotation, Annotation]
    assert isinstance(entries[1], FailedAnnotation)
    assert entries[1].error.code == "forward_failed"


def test_the_work_can_be_ended_between_pairs(worker: PairAnnotator, shelf: Alignments, pupil: Annotator) -> None:
    class Enough(Exception):
        """Nobody wants it any more."""

    looks: list[int] = []

    def go_on() -> None:
        looks.append(1)
        if len(looks) == 2:
            raise Enough

    card = put(shelf, pupil)
    with pytest.raises(Enough):
        asked(worker, ref_to(card), *PAIRS, manner=Manner(urgent=False, go_on=go_on))
    assert len(looks) == 2


def test_an_alignment_that_is_gone_fails_the_chunk(worker: PairAnnotator, shelf: Alignments, pupil: Annotator) -> None:
    card = put(shelf, pupil)
    asked(worker, ref_to(card), PAIRS[0])
    shelf.delete(card.id)
    with pytest.raises(NotHeld, match="alignment kinder was deleted while the job used it"):
        asked(worker, ref_to(card), PAIRS[0])


def test_its_gradients_are_nobodys(worker: PairAnnotator, shelf: Alignments, pupil: Annotator) -> None:
    card = put(shelf, pupil)
    contrast = worker.holdings.alignments.contrast(ref_to(card))
    assert not any(weight.requires_grad for weight in contrast.sides[0].annotator.model.parameters())
    assert torch.is_grad_enabled()
