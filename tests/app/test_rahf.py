"""Presets, and what a request changes of them."""

import pytest
from pydantic import ValidationError

from app.rahf import PRESETS, merged, resolved


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_is_what_it_is_where_nothing_is_changed(preset: str) -> None:
    for method in ("rahf-scit", "rahf-dual"):
        assert resolved(method, preset, {}).collect.of == 32  # type: ignore[arg-type]


def test_values_are_changed_where_they_are_nested() -> None:
    made = resolved("rahf-scit", "small", {"align": {"alpha": 10, "lora": {"rank": 2}}, "seed": 7})
    assert (made.align.alpha, made.align.lora.rank, made.align.lora.alpha, made.seed) == (10, 2, 16, 7)
    assert resolved("rahf-scit", "small", {}).align.alpha == 5


def test_what_is_no_mapping_takes_the_place_of_one() -> None:
    assert merged({"a": {"b": 1}, "c": 2}, {"a": None, "c": {"d": 3}}) == {"a": None, "c": {"d": 3}}


def test_a_change_that_will_not_do_is_named_by_its_place() -> None:
    with pytest.raises(ValidationError) as refused:
        resolved("rahf-dual", "paper", {"align": {"lora": {"rank": 0}}, "nose": 1})
    assert [error["loc"] for error in refused.value.errors()] == [("align", "lora", "rank"), ("nose",)]
