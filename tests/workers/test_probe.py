"""A worker proves itself: its packed reading must be what plain transformers reads."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from workers import probe as probing
from workers.directions.direction import SafetyDirection, new_direction
from workers.engine import attention
from workers.engine.annotator import Annotator
from workers.engine.errors import ModelNotLoaded
from workers.engine.forward import read
from workers.engine.packing import Group
from workers.engine.sites import Site
from workers.probe import probe


def direction(direction_id: str, *sites: Site) -> SafetyDirection:
    made_for = ("tiny", "sha256:tiny", "sha256:template")
    vectors = torch.ones(len(sites), 32)
    return new_direction(direction_id, sites, vectors, model=made_for, recipe="by hand", settings={})


SHALLOW, DEEP = direction("shallow", Site(1, "mean")), direction("deep", Site(4, "last"), Site(3, "end_of_turn"))
DIRECTIONS = {"shallow": SHALLOW, "deep": DEEP}


def test_a_sound_annotator_proves_every_direction_by_its_digest(annotator: Annotator) -> None:
    assert probe(annotator, DIRECTIONS) == {"shallow": SHALLOW.card.digest, "deep": DEEP.card.digest}
    assert annotator.model.config._attn_implementation == attention.NAME


def test_without_directions_there_is_nothing_to_prove(annotator: Annotator) -> None:
    assert probe(annotator, {}) == {}


@pytest.mark.parametrize("error", [1.0, float("nan")])
def test_an_annotator_that_is_read_wrongly_at_one_site_is_refused(
    annotator: Annotator, monkeypatch: pytest.MonkeyPatch, error: float
) -> None:
    def wrongly(annotator: Annotator, groups: Sequence[Group], sites: Sequence[Site]) -> Tensor:
        readings = read(annotator, groups, sites).clone()
        readings[1, sites.index(Site(3, "end_of_turn"))] += error
        return readings

    monkeypatch.setattr(probing, "read", wrongly)
    with pytest.raises(ModelNotLoaded, match="packed and plain activations of tiny differ by"):
        probe(annotator, DIRECTIONS)
