"""What a finished run is published as; `tests.workers.orders.test_alignments` has it with a store."""

from pathlib import Path

import pytest
import torch

from app.alignments import CARD, CURVES, REPORT
from app.schemas.alignment import AlignmentMethod
from app.schemas.names import Ref
from tests.workers.alignment.conftest import pairs, settings
from workers.alignment import contrast
from workers.alignment.errors import UnfitData
from workers.alignment.publishing import Product, course, product_of
from workers.alignment.run import Run
from workers.directions.balance import balance
from workers.engine.annotator import Annotator


@pytest.fixture(autouse=True)
def read_balance(monkeypatch: pytest.MonkeyPatch) -> None:
    places = torch.arange(len(balance().pairs))
    monkeypatch.setattr(contrast, "balance_margins", lambda *_given: (torch.ones(len(places)).double(), places))


def made(annotator: Annotator, folder: Path, method: AlignmentMethod) -> Product:
    how = settings(method, instruct__epochs=1, align__steps=2)
    run = Run(method, annotator, *course(annotator, pairs(60), method, how), how, folder)
    run.all()
    return product_of(run, "mine", note={"job": "j"})


def test_parts_are_the_card_and_files_where_they_lie(pupil: Annotator, tmp_path: Path) -> None:
    product = made(pupil, tmp_path, "rahf-scit")
    assert product.parts.keys() == {CARD, *product.card.files}
    assert {REPORT, CURVES} <= product.parts.keys()
    assert all(isinstance(part, Path) and part.is_file() for name, part in product.parts.items() if name != CARD)
    assert not [name for name in product.parts if "pattern" in name]
    assert product.card.settings == {"pairs": 36, "skipped": 0, "job": "j"}


def test_the_direction_names_the_alignment_that_it_was_made_with(pupil: Annotator, tmp_path: Path) -> None:
    product = made(pupil, tmp_path, "rahf-dual")
    assert product.direction.card.alignment == Ref(id="mine", digest=product.card.digest)
    assert product.direction.card.model_revision == product.card.taught_revisions[0]
    assert "direction.json" in product.direction_parts


def test_pairs_that_do_not_fit_with_an_instruction_are_too_few_before_anything_is_taught(annotator: Annotator) -> None:
    """The instructions alone are longer than the window of this annotator."""
    taught_with, others = course(annotator, pairs(60), "rahf-dual", settings("rahf-dual"))
    assert (len(taught_with), len(others)) == (36, 24)
    with pytest.raises(UnfitData, match="0 pairs are too few to calibrate on"):
        course(annotator, pairs(60), "rahf-scit", settings("rahf-scit"))
