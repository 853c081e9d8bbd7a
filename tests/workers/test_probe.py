"""A worker proves itself: its packed reading must be what plain transformers reads."""

from collections.abc import Sequence
from typing import get_args

import pytest
from torch import Tensor

from tests.conftest import DEPTH, tiny_annotator
from workers import probe as probing
from workers.engine import attention
from workers.engine.annotator import Annotator
from workers.engine.errors import ModelNotLoaded
from workers.engine.forward import read
from workers.engine.packing import Group
from workers.engine.sites import Pooling, Site
from workers.probe import probe


def test_a_sound_annotator_is_left_as_it_was(annotator: Annotator) -> None:
    probe(annotator)
    assert annotator.model.config._attn_implementation == attention.NAME


def test_every_place_that_a_direction_could_read_is_compared(
    annotator: Annotator, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[Site] = []

    def watched(annotator: Annotator, groups: Sequence[Group], sites: Sequence[Site]) -> Tensor:
        compared.extend(sites)
        return read(annotator, groups, sites)

    monkeypatch.setattr(probing, "read", watched)
    probe(annotator)
    assert set(compared) == {Site(layer, pooling) for layer in range(DEPTH + 1) for pooling in get_args(Pooling)}


def test_an_annotator_without_a_known_final_norm_is_proven_up_to_its_last_block(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    annotator, compared = tiny_annotator(), set[int]()
    annotator.__dict__["final_norm"] = None

    def watched(annotator: Annotator, groups: Sequence[Group], sites: Sequence[Site]) -> Tensor:
        compared.update(site.layer for site in sites)
        return read(annotator, groups, sites)

    monkeypatch.setattr(probing, "read", watched)
    probe(annotator)
    assert compared == set(range(DEPTH))


def test_an_annotator_that_is_read_wrongly_where_a_pass_ends_is_refused(
    annotator: Annotator, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrongly(annotator: Annotator, groups: Sequence[Group], sites: Sequence[Site]) -> Tensor:
        ends = all(site.pooling != "request" for site in sites)
        return read(annotator, groups, sites) + ends

    monkeypatch.setattr(probing, "read", wrongly)
    with pytest.raises(ModelNotLoaded, match="packed and plain activations of tiny differ by"):
        probe(annotator)


@pytest.mark.parametrize("error", [1.0, float("nan")])
@pytest.mark.parametrize("site", [Site(3, "end_of_turn"), Site(0, "request"), Site(DEPTH, "last")])
def test_an_annotator_that_is_read_wrongly_at_one_site_is_refused(
    annotator: Annotator, monkeypatch: pytest.MonkeyPatch, error: float, site: Site
) -> None:
    def wrongly(annotator: Annotator, groups: Sequence[Group], sites: Sequence[Site]) -> Tensor:
        readings = read(annotator, groups, sites).clone()
        readings[1, list(sites).index(site)] += error
        return readings

    monkeypatch.setattr(probing, "read", wrongly)
    with pytest.raises(ModelNotLoaded, match="packed and plain activations of tiny differ by"):
        probe(annotator)
