"""Reading the balance set: margins of the pairs that fit, and activations kept between fits."""

from pathlib import Path

import pytest
import torch

from tests.conftest import tiny_annotator
from tests.workers.directions.synthetic import gaussian
from workers.directions import balance_reading
from workers.directions.balance import balance
from workers.directions.balance_reading import balance_margins
from workers.directions.direction import PromptTerm, SafetyDirection, new_direction
from workers.engine.annotator import Annotator
from workers.engine.forward import read
from workers.engine.sites import Site

SITES = (Site(2, "mean"), Site(3, "end_of_turn"))


def direction(annotator: Annotator, *sites: Site, seed: int = 0, by_prompt: bool = False) -> SafetyDirection:
    sites, width = sites or SITES, annotator.width
    term = None
    if by_prompt:
        shapes = ((4, 1, width), (4,), (4, len(sites), width))
        term = PromptTerm((Site(1, "request"),), *(gaussian(*shape, seed=9) for shape in shapes))
    model = (annotator.name, annotator.revision, annotator.template.digest)
    vectors = gaussian(len(sites), width, seed=seed)
    return new_direction("mine", sites, vectors, model=model, recipe="pairs", settings={}, term=term)


@pytest.fixture
def kept(annotator: Annotator, tmp_path: Path) -> Path:
    """A folder in which activations at `SITES` are kept."""
    balance_margins(annotator, direction(annotator), tmp_path / "cache")
    return tmp_path / "cache"


@pytest.mark.parametrize("by_prompt", [False, True])
def test_margins_are_those_of_the_pairs_that_fit_the_window(annotator: Annotator, by_prompt: bool) -> None:
    held = direction(annotator, by_prompt=by_prompt)
    margins, places = balance_margins(annotator, held, None)
    assert 0 < len(margins) == len(places) < len(balance().pairs)
    for margin, place in zip(margins.tolist(), places.tolist(), strict=True):
        pair = balance().pairs[place]
        group = annotator.template.encode(pair.messages, [pair.chosen, pair.rejected])
        chosen, rejected = held.scores(read(annotator, [group], held.reads)).tolist()
        assert margin == pytest.approx(chosen - rejected, abs=1e-3)


def test_reading_can_be_followed_and_ended(annotator: Annotator, tmp_path: Path) -> None:
    told: list[int] = []
    _, places = balance_margins(annotator, direction(annotator), None, progress=told.append)
    assert told == sorted(told)
    assert told[-1] == len(places)

    def end(_done: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        balance_margins(annotator, direction(annotator), tmp_path, progress=end)
    assert list(tmp_path.iterdir()) == []


def test_what_is_kept_gives_the_same_margins_and_the_annotator_is_not_read_again(
    annotator: Annotator, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = direction(annotator, seed=1)
    fresh, places = balance_margins(annotator, other, None)
    monkeypatch.setattr(balance_reading, "read_all", lambda *_args: pytest.fail("read again"))
    margins, kept_places = balance_margins(annotator, other, kept)
    assert torch.equal(kept_places, places)
    torch.testing.assert_close(margins, fresh, rtol=1e-4, atol=1e-4)
    assert len(list(kept.iterdir())) == 1


def test_other_places_and_other_annotators_are_kept_apart(annotator: Annotator, kept: Path) -> None:
    balance_margins(annotator, direction(annotator, Site(1, "mean")), kept)
    balance_margins(annotator, direction(annotator, *SITES[::-1]), kept)
    balance_margins(annotator, direction(annotator, by_prompt=True), kept)
    assert len(list(kept.iterdir())) == 4
    half = tiny_annotator(dtype=torch.bfloat16)
    balance_margins(half, direction(half), kept)
    assert len(list(kept.iterdir())) == 5


@pytest.mark.parametrize("damage", ["cut short", "empty", "garbage", "another file"])
def test_a_damaged_file_is_read_anew_and_replaced(
    annotator: Annotator, kept: Path, damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, _ = balance_margins(annotator, direction(annotator), kept)
    (path,) = kept.iterdir()
    whole = path.read_bytes()
    content = {
        "cut short": whole[: len(whole) // 2],
        "empty": b"",
        "garbage": b"\xff" * 100,
        "another file": (8).to_bytes(8, "little") + b"{}      ",
    }
    path.write_bytes(content[damage])
    margins, _ = balance_margins(annotator, direction(annotator), kept)
    torch.testing.assert_close(margins, expected, rtol=1e-4, atol=1e-4)
    assert list(kept.iterdir()) == [path]
    monkeypatch.setattr(balance_reading, "read_all", lambda *_args: pytest.fail("read again"))
    balance_margins(annotator, direction(annotator), kept)


def test_an_annotator_whose_window_holds_no_pair_has_no_margins() -> None:
    narrow = tiny_annotator()
    narrow.template.window = 8
    margins, places = balance_margins(narrow, direction(narrow), None)
    assert (margins.shape, places.shape) == ((0,), (0,))
    assert balance().figures(margins, places) == {}


def test_a_direction_of_some_of_the_candidates_is_read_from_what_was_kept_of_all(
    annotator: Annotator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    candidates = [Site(1, "mean"), *SITES]
    balance_margins(annotator, direction(annotator, Site(1, "mean")), tmp_path, candidates)
    expected, _ = balance_margins(annotator, direction(annotator), None)
    monkeypatch.setattr(balance_reading, "read_all", lambda *_args: pytest.fail("read again"))
    margins, _ = balance_margins(annotator, direction(annotator), tmp_path, candidates)
    torch.testing.assert_close(margins, expected, rtol=1e-4, atol=1e-4)
