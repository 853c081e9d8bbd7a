"""Sources that give no direction, and what a fit leaves behind."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from app.schemas.fit import PairsSource
from app.schemas.pairs import Pair
from tests.conftest import DEPTH, WINDOW, tiny_annotator
from tests.workers.directions.sources import METHODS, contrast, labelled, legend, pairs, request
from tests.workers.directions.synthetic import kind_or_cruel
from workers.directions import fit as fit_module
from workers.directions.errors import UnfitData
from workers.directions.fit import fit
from workers.engine.annotator import Annotator


@pytest.mark.parametrize("layer", [DEPTH + 1, 1000])
def test_a_layer_that_the_annotator_does_not_have_is_refused_before_anything_is_read(
    annotator: Annotator, layer: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fit_module, "plan", lambda *_args: pytest.fail("began"))
    for source in (pairs(), legend(12)):
        with pytest.raises(UnfitData, match=f"tiny has no layer {layer}; its layers are 0 to {DEPTH}"):
            fit(annotator, request(source, layers=[1, layer]))


def test_too_few_rows_are_refused_and_those_left_out_are_counted(annotator: Annotator) -> None:
    with pytest.raises(UnfitData, match=r"19 rows are too few to fit a direction; at least 20 are needed$"):
        fit(annotator, request(pairs(19)))
    long = [Pair(prompt="hi", chosen="~" * WINDOW, rejected="no")] * 5
    with pytest.raises(UnfitData, match=r"19 rows are too few .* \(5 are left out: too long or refusals themselves\)"):
        fit(annotator, request(PairsSource(recipe="pairs", pairs=[*long, *kind_or_cruel(19)])))


def test_labels_that_are_all_equal_are_refused(annotator: Annotator) -> None:
    source = labelled()
    for row in source["responses"]:
        row["label"] = 1
    with pytest.raises(UnfitData, match="all labels of a source are equal"):
        fit(annotator, request(source))


def test_sides_that_are_the_same_are_refused(annotator: Annotator) -> None:
    same = [Pair(prompt=f"Question {i}", chosen="same", rejected="same") for i in range(30)]
    with pytest.raises(UnfitData, match="chosen and rejected are the same in every pair of a source"):
        fit(annotator, request(PairsSource(recipe="pairs", pairs=same)))
    with pytest.raises(UnfitData, match="the good and the bad instruction are the same"):
        fit(annotator, request(contrast(bad="Be good.")))


@contextmanager
def broken(annotator: Annotator, factor: float) -> Iterator[None]:
    """An annotator whose last block but one gives out its activations times this factor."""
    block = annotator.model.model.layers[DEPTH - 2]
    hook = block.register_forward_hook(lambda _module, _inputs, output: output * factor)
    try:
        yield
    finally:
        hook.remove()


def test_responses_that_the_annotator_does_not_tell_apart_are_refused() -> None:
    annotator = tiny_annotator()
    with broken(annotator, 0.0), pytest.raises(UnfitData, match="the same activations everywhere"):
        fit(annotator, request(layers=[DEPTH - 1]))


@pytest.mark.parametrize("options", METHODS.values(), ids=METHODS)
def test_activations_that_are_not_finite_are_refused(options: dict[str, Any]) -> None:
    annotator = tiny_annotator()
    with broken(annotator, math.nan), pytest.raises(UnfitData, match="some activations are not finite"):
        fit(annotator, request(**options))


def test_a_first_source_of_which_nothing_can_be_read_is_refused(annotator: Annotator) -> None:
    """It is the one that says how well the direction reads."""
    long = PairsSource(recipe="pairs", pairs=[Pair(prompt="hi", chosen="~" * WINDOW, rejected="no")])
    with pytest.raises(UnfitData, match="first source"):
        fit(annotator, request(long, pairs()))


def test_three_pairs_say_nothing_of_how_well_a_large_second_source_reads(annotator: Annotator) -> None:
    with pytest.raises(UnfitData, match="3 rows of the first source are too few to calibrate on; at least 20"):
        fit(annotator, request(pairs(3), contrast(60)))


def test_rows_are_gone_when_a_fit_ends_or_fails(
    annotator: Annotator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    fit(annotator, request(pairs(24)))
    with pytest.raises(RuntimeError, match="stop"):
        fit(annotator, request(), progress=_stop)
    assert list(tmp_path.iterdir()) == []


def _stop(_done: int, _total: int) -> None:
    raise RuntimeError("stop")
