"""Presets, and what a user may change of them."""

from pathlib import Path
from typing import Any, get_args

import pytest

from app.rahf import FOLDER, PRESETS
from app.schemas.alignment import AlignmentMethod
from workers.alignment.errors import UnusableSettings
from workers.alignment.settings import load, target_blocks

METHODS: tuple[AlignmentMethod, ...] = get_args(AlignmentMethod)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("method", METHODS)
def test_every_preset_has_every_method(preset: str, method: AlignmentMethod) -> None:
    assert load(method, preset).collect.layers == [10, 12, 14, 16, 18, 20]


def test_the_figures_of_the_paper() -> None:
    scit, dual = load("rahf-scit", "paper"), load("rahf-dual", "paper")
    taught = (scit.instruct.learning_rate, scit.instruct.epochs, scit.instruct.batch, scit.query + scit.response)
    assert taught == (2e-5, 2, 64, 768)
    assert (dual.instruct.learning_rate, dual.instruct.epochs, dual.instruct.batch) == (2e-5, 3, 128)
    assert (dual.instruct.schedule, scit.instruct.weights, dual.instruct.weights) == ("cosine", "full", "full")
    assert (scit.align.learning_rate, scit.align.steps, scit.align.batch, scit.collect.response) == (3e-4, 450, 64, 512)
    assert (dual.align.learning_rate, dual.align.steps, dual.align.batch, dual.collect.response) == (9e-6, 2500, 8, 64)
    for align in (scit.align, dual.align):
        lora = align.lora
        assert (lora.rank, lora.alpha, lora.dropout, lora.targets) == (8, 16, 0.05, ["q_proj", "v_proj"])
        assert (align.alpha, align.schedule) == (5, "constant")


@pytest.mark.parametrize(
    ("depth", "blocks"),
    [(32, (9, 11, 13, 15, 17, 19)), (30, (8, 10, 12, 14, 16, 18)), (4, (0, 1, 2)), (1, (0,))],
)
def test_target_layers_are_scaled_to_the_depth(depth: int, blocks: tuple[int, ...]) -> None:
    assert target_blocks(load("rahf-scit", "paper").collect, depth) == blocks


def test_single_values_are_changed_by_their_path() -> None:
    changed = load("rahf-scit", "small", {"align.alpha": 10, "seed": 7, "align.lora.rank": 2})
    assert (changed.align.alpha, changed.seed, changed.align.lora.rank) == (10, 7, 2)
    assert changed.align.steps == load("rahf-scit", "small").align.steps


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"align.alpha": "much"}, "small: rahf-scit: /align/alpha: "),
        ({"align.lora.nose": 1}, "small: rahf-scit: /align/lora/nose: "),
        ({"nose.long": 1}, "small: rahf-scit: /nose: "),
        ({"share": 1}, "small: rahf-scit: /share: Input should be less than 1"),
        ({"collect.of": 12}, "small: rahf-scit: /collect/layers: are more than the layers that there are"),
        ({"instruct.weights": "full"}, "/instruct/lora: must be left out: every weight is trained"),
        ({"instruct.lora": None}, "/instruct/lora: is missing: the adapters are to be trained"),
        ({"instruct": 3}, "small: rahf-scit: /instruct: must have named fields"),
    ],
)
def test_a_value_that_will_not_do_is_named(change: dict[str, Any], fault: str) -> None:
    with pytest.raises(UnusableSettings) as refused:
        load("rahf-scit", "small", change)
    assert fault in str(refused.value)


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    text = (FOLDER / "small.yml").read_text()
    mine = tmp_path / "mine.yml"
    mine.write_text(text.replace("alpha: 5", "alpha: 2"))
    assert load("rahf-dual", mine).align.alpha == 2
    mine.write_text("rahf-scit:\n  share: 0.5\n")
    with pytest.raises(UnusableSettings, match=f"{mine}: has no section rahf-dual"):
        load("rahf-dual", mine)
    with pytest.raises(UnusableSettings, match="/instruct: Field required"):
        load("rahf-scit", mine)
    mine.write_text("a: [")
    with pytest.raises(UnusableSettings, match="is not YAML"):
        load("rahf-scit", mine)
    with pytest.raises(UnusableSettings, match="cannot be read: No such file"):
        load("rahf-scit", tmp_path / "none.yml")
