"""Taught models from the shelf: what their files make of the annotator, and how damage is told."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from app.alignments import AlignmentMissing, Alignments
from app.artifacts import Artifacts
from tests.conftest import encode, tiny_annotator
from tests.workers.alignment.shelf import put, random_adapter, random_alignment, sealed
from workers.alignment.errors import UnusableAlignment
from workers.alignment.shelved import ALIGNED, Shelved, shelved
from workers.engine.annotator import Annotator, assemble
from workers.engine.forward import read
from workers.engine.lora import adapted
from workers.engine.sites import Site
from workers.engine.weights import locate, store

SITES = (Site(1, "mean"), Site(3, "last"))


@pytest.fixture
def shelf(tmp_path: Path) -> Alignments:
    return Alignments(Artifacts(str(tmp_path / "store")))


def found(shelf: Alignments, annotator: Annotator, name: str = "kinder") -> Shelved:
    return shelved(shelf, name, shelf.digest(name), annotator)


def reading(annotator: Annotator) -> Tensor:
    return read(annotator, [encode(annotator, "How do I sharpen a knife?", "Slowly.", "no")], SITES)


def place_of(shelf: Alignments, name: str = "kinder") -> Path:
    digest = shelf.digest(name).removeprefix("sha256:")
    return Path(shelf.artifacts._root) / "alignments" / name / digest


def test_its_taught_model_is_the_annotator_with_the_adapter(shelf: Alignments, annotator: Annotator) -> None:
    card = put(shelf, annotator)
    made = found(shelf, annotator).taught(annotator, card.taught_revisions[0])
    assert made.revision == card.taught_revisions[0]
    assert torch.equal(reading(made.annotator), reading(adapted(annotator, random_adapter(annotator))))


def test_of_dual_there_are_two(shelf: Alignments, annotator: Annotator) -> None:
    card = put(shelf, annotator, method="rahf-dual")
    entry = found(shelf, annotator)
    preferred, dispreferred = (entry.taught(annotator, revision).annotator for revision in card.taught_revisions)
    assert torch.equal(reading(preferred), reading(adapted(annotator, random_adapter(annotator, 0))))
    assert torch.equal(reading(dispreferred), reading(adapted(annotator, random_adapter(annotator, 1))))


def test_the_aligned_model_is_another_adapter_of_the_annotator(shelf: Alignments, annotator: Annotator) -> None:
    put(shelf, annotator)
    made = found(shelf, annotator).aligned(annotator)
    assert torch.equal(reading(made.annotator), reading(adapted(annotator, random_adapter(annotator, 1))))


@pytest.fixture
def whole(shelf: Alignments, annotator: Annotator, tmp_path: Path) -> Annotator:
    """A taught model of its own weights, which the shelf has with an aligned adapter of it."""
    other, folder = tiny_annotator(seed=1), tmp_path / "taught"
    folder.mkdir()
    store(other.model, other.tokenizer, folder, torch.float32)
    card, parts = random_alignment(annotator)
    parts = {name: content for name, content in parts.items() if name.startswith(ALIGNED)}
    parts |= {f"taught/{path.name}": path.read_bytes() for path in folder.iterdir()}
    revision = locate(str(folder), tmp_path).revision
    card, parts = sealed(card.model_copy(update={"files": sorted(parts), "taught_revisions": [revision]}), parts)
    shelf.publish(card.id, card.digest, parts)
    return assemble(annotator.name, str(revision), other.model, other.tokenizer)


def test_a_model_of_its_own_weights_is_loaded_whole(shelf: Alignments, annotator: Annotator, whole: Annotator) -> None:
    made = found(shelf, annotator).taught(annotator, whole.revision)
    assert (made.revision, made.adapter, made.annotator.name) == (whole.revision, None, annotator.name)
    assert made.annotator.budget is annotator.budget
    assert torch.equal(reading(made.annotator), reading(whole))


def test_its_aligned_model_is_an_adapter_of_that(shelf: Alignments, annotator: Annotator, whole: Annotator) -> None:
    made = found(shelf, annotator).aligned(annotator)
    assert made.adapter is None
    assert torch.equal(reading(made.annotator), reading(adapted(whole, random_adapter(annotator, 1))))


@pytest.mark.parametrize(
    ("card", "said"),
    [
        ({"model_revision": "sha256:others"}, "was made for tiny, not for the weights of tiny"),
        ({"template": "sha256:others"}, "was made with another chat template than tiny has now"),
    ],
)
def test_one_made_for_something_else_is_refused(
    shelf: Alignments, annotator: Annotator, card: dict[str, Any], said: str
) -> None:
    put(shelf, annotator, **card)
    with pytest.raises(UnusableAlignment, match=f"^alignment kinder {said}$"):
        found(shelf, annotator)


def test_a_damaged_card_is_refused(shelf: Alignments, annotator: Annotator) -> None:
    put(shelf, annotator)
    (place_of(shelf) / "alignment.json").write_bytes(b"nonsense")
    with pytest.raises(UnusableAlignment, match=r"^kinder: unreadable alignment"):
        found(shelf, annotator)


def test_a_damaged_adapter_is_refused(shelf: Alignments, annotator: Annotator) -> None:
    card = put(shelf, annotator)
    (place_of(shelf) / "taught" / "adapter_model.safetensors").write_bytes(b"nonsense")
    with pytest.raises(UnusableAlignment, match=r"^alignment kinder: taught: unreadable adapter"):
        found(shelf, annotator).taught(annotator, card.taught_revisions[0])


def test_an_adapter_that_is_another_one_is_refused(shelf: Alignments, annotator: Annotator) -> None:
    card = put(shelf, annotator)
    names = ("taught", "aligned")
    one, other = (place_of(shelf) / name / "adapter_model.safetensors" for name in names)
    one.write_bytes(other.read_bytes())
    with pytest.raises(UnusableAlignment, match="its files are not those that its card was made for"):
        found(shelf, annotator).taught(annotator, card.taught_revisions[0])


def test_a_revision_that_it_does_not_have_is_refused(shelf: Alignments, annotator: Annotator) -> None:
    put(shelf, annotator)
    with pytest.raises(UnusableAlignment, match="has no taught model of this revision"):
        found(shelf, annotator).taught(annotator, "sha256:another")


def test_files_that_would_lie_elsewhere_are_not_its_own(shelf: Alignments, annotator: Annotator) -> None:
    card, parts = random_alignment(annotator)
    odd = ["taught/../../escaped", "../taught/x", "taught/..", "/taught/x", "taught"]
    card, parts = sealed(card.model_copy(update={"files": odd}), parts)
    shelf.publish(card.id, card.digest, parts)
    with pytest.raises(UnusableAlignment, match=r"^alignment kinder has no taught model$"):
        found(shelf, annotator).taught(annotator, card.taught_revisions[0])


def test_what_is_gone_is_missing(shelf: Alignments, annotator: Annotator) -> None:
    card = put(shelf, annotator)
    entry = found(shelf, annotator)
    shelf.delete("kinder")
    with pytest.raises(AlignmentMissing):
        entry.taught(annotator, card.taught_revisions[0])
