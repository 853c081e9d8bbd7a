"""Directions that read taught models, and taught models themselves, as a worker holds them."""

import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from app.alignments import CARD, Alignments
from app.artifacts import Artifacts
from app.registry import Registry
from app.schemas.annotate import Annotation
from app.schemas.chunk import Chunk, ChunkAnswer
from app.schemas.names import Ref
from app.schemas.pairs import Pair
from tests.conftest import encode, publish, random_direction, ref, serving
from tests.workers.alignment.shelf import put, random_adapter, random_alignment, ref_to, sealed, taught_direction
from workers.annotate import PairAnnotator
from workers.directions.direction import known
from workers.engine.annotator import Annotator
from workers.engine.forward import read
from workers.engine.lora import adapted
from workers.holding import NotHeld
from workers.registry import Holdings

PAIR = Pair(id="a", prompt="How do I pick a lock?", chosen="Ask a locksmith.", rejected="Bend two hairpins.")
EMPTY = Pair(id="b", prompt="Hello?", chosen="", rejected="Hello.")


@pytest.fixture
def artifacts(tmp_path: Path) -> Artifacts:
    return Artifacts(str(tmp_path / "store"))


@pytest.fixture
def shelf(artifacts: Artifacts) -> Alignments:
    return Alignments(artifacts)


@pytest.fixture
def holdings(artifacts: Artifacts, annotator: Annotator) -> Holdings:
    return Holdings.of(artifacts, annotator)


@pytest.fixture
def worker(artifacts: Artifacts, annotator: Annotator, tmp_path: Path) -> Iterator[PairAnnotator]:
    with serving(replace(annotator, passes=2), tmp_path / "store", random_direction(annotator, "plain")) as pairs:
        yield pairs


def add(holdings: Holdings, shelf: Alignments, annotator: Annotator, name: str = "kinder", seed: int = 0) -> Ref:
    """An alignment and a direction that reads it, held."""
    card = put(shelf, annotator, name, seed=seed)
    direction = taught_direction(annotator, card, f"{name}-direction", seed=seed)
    publish(Registry(shelf.artifacts), direction)
    holdings.refresh()
    return ref(direction)


def annotated(worker: PairAnnotator, *directions: Ref, pairs: tuple[Pair, ...] = (PAIR, EMPTY)) -> ChunkAnswer:
    lines = list(range(1, len(pairs) + 1))
    return worker.annotate(Chunk(directions=list(directions), truncate=False, items=list(pairs), lines=lines, tokens=1))


def place_of(artifacts: Artifacts, found: Ref, kind: str = "alignments") -> Path:
    return Path(artifacts._root) / kind / found.id / found.digest.removeprefix("sha256:")


def test_a_direction_of_a_taught_model_is_held_with_it(
    holdings: Holdings, shelf: Alignments, annotator: Annotator
) -> None:
    add(holdings, shelf, annotator)
    direction = holdings.directions.all()["kinder-direction"]
    variant = holdings.directions.variant(direction)
    assert variant is not None
    assert (
        variant.revision == f"{annotator.revision}+{random_adapter(annotator).digest}" == direction.card.model_revision
    )
    assert holdings.directions.variant(direction) is variant
    assert holdings.directions.variant(random_direction(annotator, "plain")) is None


def test_it_is_no_control_for_fits_on_the_annotator(
    holdings: Holdings, shelf: Alignments, annotator: Annotator
) -> None:
    add(holdings, shelf, annotator)
    assert holdings.directions.made_by("contrast") == []


def test_its_margins_are_those_of_the_taught_model(
    worker: PairAnnotator, shelf: Alignments, annotator: Annotator
) -> None:
    asked = add(worker.holdings, shelf, annotator)
    direction = worker.holdings.directions.get(asked)
    answer = annotated(worker, asked)
    for pair, entry in zip((PAIR, EMPTY), answer.entries, strict=True):
        assert isinstance(entry, Annotation)
        group = encode(annotator, str(pair.prompt), pair.chosen, pair.rejected)
        scores = direction.scores(read(adapted(annotator, random_adapter(annotator)), [group], direction.reads))
        assert [entry.raw.chosen, entry.raw.rejected] == pytest.approx(scores.tolist(), abs=1e-4)
    made_by = answer.provenance
    assert (made_by.model, made_by.model_revision) == ("tiny", direction.card.model_revision)
    assert (made_by.direction, made_by.method) == ("kinder-direction", "margin")
    assert made_by.alignment == direction.card.alignment


def test_several_directions_of_several_models_are_read_once_by_each(
    worker: PairAnnotator, shelf: Alignments, annotator: Annotator
) -> None:
    plain = ref(worker.holdings.directions.all()["plain"])
    kinder, calmer = add(worker.holdings, shelf, annotator), add(worker.holdings, shelf, annotator, "calmer", seed=5)
    alone = {one.id: annotated(worker, one) for one in (kinder, plain, calmer)}
    together = annotated(worker, kinder, plain, calmer)
    for place, entry in enumerate(together.entries):
        assert isinstance(entry, Annotation)
        assert entry.directions is not None
        for name, answer in alone.items():
            single = answer.entries[place]
            assert isinstance(single, Annotation)
            assert entry.directions[name].margin == pytest.approx(single.margin, abs=1e-5)
    others = together.provenance.others or []
    revisions = [made_by.model_revision for made_by in (together.provenance, *others)]
    assert len(set(revisions)) == 3
    assert [made_by.alignment and made_by.alignment.id for made_by in others] == [None, "calmer"]


def test_a_direction_goes_with_its_alignment_and_comes_back_with_it(
    holdings: Holdings, shelf: Alignments, annotator: Annotator
) -> None:
    add(holdings, shelf, annotator)
    shelf.delete("kinder")
    assert [changed.partition(":")[0] for changed in holdings.refresh()] == ["alignments", "directions"]
    assert holdings.directions.all() == {}
    assert holdings.refresh() == []
    put(shelf, annotator)
    holdings.refresh()
    assert set(holdings.directions.all()) == {"kinder-direction"}


def test_a_direction_goes_on_reading_its_own_digest_of_an_alignment_that_was_replaced(
    holdings: Holdings, shelf: Alignments, annotator: Annotator
) -> None:
    asked = add(holdings, shelf, annotator)
    put(shelf, annotator, seed=7)
    holdings.refresh()
    variant = holdings.directions.variant(holdings.directions.get(asked))
    assert variant is not None
    assert variant.revision.endswith(random_adapter(annotator).digest)


def test_a_direction_of_another_taught_model_is_not_held(
    holdings: Holdings, shelf: Alignments, annotator: Annotator, caplog: pytest.LogCaptureFixture
) -> None:
    card = put(shelf, annotator)
    odd = known(taught_direction(annotator, card, "odd"), model_revision=f"{annotator.revision}+sha256:another")
    publish(Registry(shelf.artifacts), odd)
    with caplog.at_level(logging.WARNING):
        holdings.refresh()
    assert holdings.directions.all() == {}
    assert "direction odd was made for tiny, not for the weights of tiny" in caplog.text


def test_an_alignment_deleted_under_a_chunk_says_so(
    worker: PairAnnotator, shelf: Alignments, annotator: Annotator
) -> None:
    asked = add(worker.holdings, shelf, annotator)
    shelf.delete("kinder")
    worker.holdings.alignments.refresh()
    with pytest.raises(NotHeld, match="alignment kinder was deleted while the job used it"):
        annotated(worker, asked)


def test_a_damaged_adapter_says_so(worker: PairAnnotator, shelf: Alignments, annotator: Annotator) -> None:
    asked = add(worker.holdings, shelf, annotator)
    card = shelf.card("kinder")
    (place_of(shelf.artifacts, ref_to(card)) / "taught" / "adapter_model.safetensors").write_bytes(b"nonsense")
    with pytest.raises(NotHeld, match="alignment kinder: taught: unreadable adapter"):
        annotated(worker, asked)
    with pytest.raises(NotHeld, match="alignment kinder: taught: unreadable adapter"):
        worker.holdings.alignments.contrast(ref_to(card))


def test_alignments_of_another_annotator_or_damaged_ones_are_not_held(
    holdings: Holdings, shelf: Alignments, annotator: Annotator, caplog: pytest.LogCaptureFixture
) -> None:
    put(shelf, annotator)
    put(shelf, annotator, "foreign", model_revision="sha256:others")
    damaged = put(shelf, annotator, "damaged")
    (place_of(shelf.artifacts, ref_to(damaged)) / CARD).write_bytes(b"nonsense")
    with caplog.at_level(logging.WARNING):
        holdings.refresh()
        holdings.refresh()
    assert set(holdings.alignments.all()) == {"kinder"}
    assert caplog.text.count("not loaded: ") == 2


def test_a_few_models_are_kept_and_loaded_once(holdings: Holdings, shelf: Alignments, annotator: Annotator) -> None:
    cards = [put(shelf, annotator, f"number-{seed}", seed=10 * seed) for seed in range(4)]
    first, *others = [(ref_to(card), card.taught_revisions[0]) for card in cards]
    model = holdings.alignments.model(*first)
    for other in others[:2]:
        holdings.alignments.model(*other)
    assert holdings.alignments.model(*first) is model
    for other in others:
        holdings.alignments.model(*other)
    assert holdings.alignments.model(*first) is not model


def test_adapters_share_the_weights_of_the_annotator(
    holdings: Holdings, shelf: Alignments, annotator: Annotator
) -> None:
    card = put(shelf, annotator)
    model = holdings.alignments.model(ref_to(card), card.taught_revisions[0]).annotator.model
    own = {weight.data_ptr() for name, weight in model.named_parameters() if "lora_" not in name}
    assert own == {weight.data_ptr() for weight in annotator.model.parameters()}


def test_a_contrast_is_made_once(holdings: Holdings, shelf: Alignments, annotator: Annotator) -> None:
    card = put(shelf, annotator, method="rahf-dual")
    contrast = holdings.alignments.contrast(ref_to(card))
    assert holdings.alignments.contrast(ref_to(card)) is contrast
    assert [side.annotator.revision for side in contrast.sides] == card.taught_revisions


def test_a_card_without_its_models_is_not_held_for_a_contrast(
    holdings: Holdings, shelf: Alignments, annotator: Annotator
) -> None:
    card, parts = random_alignment(annotator)
    card, parts = sealed(card.model_copy(update={"taught_revisions": [f"{annotator.revision}+x"]}), parts)
    shelf.publish(card.id, card.digest, parts)
    with pytest.raises(NotHeld, match="its files are not those that its card was made for"):
        holdings.alignments.contrast(ref_to(card))
