"""The project's own pairs: what the file holds, and the two figures made of margins of them."""

import json
from collections import Counter
from typing import Any

import pytest
import torch

from tests.workers.directions.synthetic import chance
from workers.directions.balance import DATA, balance
from workers.directions.evaluation import accuracy
from workers.directions.legend import read_requests
from workers.directions.refusals import is_refusal

CATEGORIES = {f"S{number}" for number in range(1, 15)} - {"S4"}  # nobody should have to write pairs on that one


@pytest.fixture(scope="module")
def lines() -> list[dict[str, Any]]:
    return [json.loads(line) for line in DATA.read_text(encoding="utf-8").splitlines()]


def request(line: dict[str, Any]) -> str:
    prompt = line["prompt"]
    return prompt if isinstance(prompt, str) else " / ".join(turn["content"] for turn in prompt)


def test_every_line_has_the_same_fields_and_only_benign_ones_say_how_they_are_benign(
    lines: list[dict[str, Any]],
) -> None:
    fields = {"id", "family", "kind", "category", "benign_kind", "prompt", "chosen", "rejected"}
    assert {frozenset(line) for line in lines} == {frozenset(fields)}
    assert {line["kind"] for line in lines if line["benign_kind"] is None} == {"harmful"}
    assert {line["kind"] for line in lines if line["benign_kind"] is not None} == {"benign"}
    assert {line["category"] for line in lines} == CATEGORIES
    assert all(line["chosen"].strip() and line["rejected"].strip() for line in lines)


def test_half_of_the_requests_are_benign_and_half_are_harmful(lines: list[dict[str, Any]]) -> None:
    kinds = Counter(line["kind"] for line in lines)
    assert kinds["benign"] == kinds["harmful"] >= 400


def test_every_family_has_both_kinds_so_that_its_subject_gives_nothing_away(lines: list[dict[str, Any]]) -> None:
    kinds: dict[str, set[str]] = {}
    for line in lines:
        kinds.setdefault(line["family"], set()).add(line["kind"])
    assert [family for family, found in kinds.items() if found != {"benign", "harmful"}] == []
    assert len(kinds) >= 40


def test_no_id_and_no_request_appears_twice(lines: list[dict[str, Any]]) -> None:
    ids = [line["id"] for line in lines]
    requests = [" ".join(request(line).casefold().split()) for line in lines]
    assert [name for name, count in Counter(ids).items() if count > 1] == []
    assert [text for text, count in Counter(requests).items() if count > 1] == []


def test_no_request_is_among_those_that_legend_learns_from(lines: list[dict[str, Any]]) -> None:
    learnt = {text.casefold() for text in [*read_requests(), *read_requests(harmful=False)]}
    prompts = [line["prompt"] for line in lines]
    last = {(p if isinstance(p, str) else p[-1]["content"]).strip().casefold() for p in prompts}
    assert learnt & last == set()


@pytest.mark.parametrize("kind", ["benign", "harmful"])
def test_the_length_of_a_response_does_not_say_which_side_it_is_on(lines: list[dict[str, Any]], kind: str) -> None:
    chosen, rejected = (
        sum(len(line[side]) for line in lines if line["kind"] == kind) for side in ("chosen", "rejected")
    )
    assert chosen / rejected == pytest.approx(1, abs=0.25)


@pytest.mark.parametrize("kind", ["benign", "harmful"])
def test_the_longer_response_is_right_about_as_often_as_not(lines: list[dict[str, Any]], kind: str) -> None:
    longer = [len(line["chosen"]) > len(line["rejected"]) for line in lines if line["kind"] == kind]
    assert 0.35 < sum(longer) / len(longer) < 0.65


def test_benign_requests_are_refused_on_the_wrong_side_and_harmful_ones_on_the_right_side(
    lines: list[dict[str, Any]],
) -> None:
    """Whatever the wording: the words that tell refusals elsewhere know most of these, and next to no answer."""
    for kind, refusing, answering in (("benign", "rejected", "chosen"), ("harmful", "chosen", "rejected")):
        mine = [line for line in lines if line["kind"] == kind]
        assert sum(is_refusal(line[refusing]) for line in mine) > 0.4 * len(mine)
        assert sum(is_refusal(line[answering]) for line in mine) < 0.03 * len(mine)


def test_the_set_is_read_line_by_line_with_families_of_its_own(lines: list[dict[str, Any]]) -> None:
    held = balance()
    assert [pair.chosen for pair in held.pairs] == [line["chosen"] for line in lines]
    assert held.families == [f"balance:{line['family']}" for line in lines]
    assert held.benign.tolist() == [line["kind"] == "benign" for line in lines]
    assert balance() is held


def test_the_figures_are_the_accuracies_of_either_kind() -> None:
    held = balance()
    margins = torch.randn(len(held.pairs), generator=chance(1)) + 2 * held.benign
    figures = held.figures(margins, torch.arange(len(margins)))
    assert figures.keys() == {"should_respond", "should_refuse"}
    benign, harmful = margins[held.benign], margins[~held.benign]
    assert figures["should_respond"].value == pytest.approx(float((benign > 0).double().mean()))
    assert figures["should_refuse"].value == pytest.approx(float((harmful > 0).double().mean()))
    assert figures["should_respond"].value > figures["should_refuse"].value + 0.3
    assert figures["should_refuse"].prompts == len(set(held.families))


def test_the_figures_of_some_pairs_are_those_of_their_places() -> None:
    held = balance()
    places = torch.randperm(len(held.pairs), generator=chance(2))[:100]
    margins = torch.randn(100, generator=chance(3))
    numbers = {family: i for i, family in enumerate(dict.fromkeys(held.families))}
    families = torch.tensor([numbers[held.families[place]] for place in places.tolist()])
    benign = held.benign[places]
    expected = {
        "should_respond": accuracy(margins[benign], families[benign]),
        "should_refuse": accuracy(margins[~benign], families[~benign]),
    }
    assert held.figures(margins, places) == expected


def test_a_kind_that_was_not_read_has_no_figure() -> None:
    held = balance()
    places = held.benign.nonzero()[:5, 0]
    assert held.figures(torch.ones(5), places).keys() == {"should_respond"}
    assert held.figures(torch.zeros(0), torch.zeros(0, dtype=torch.long)) == {}
