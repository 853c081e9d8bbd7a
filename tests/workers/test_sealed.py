"""A card and numbers that belong together by a digest."""

from collections.abc import Callable

import pytest
import torch
from pydantic import BaseModel
from torch import Tensor

from workers.sealed import Format, digest, with_digest


class Card(BaseModel):
    """What is known of a thing."""

    digest: str
    made_by: str


class Unusable(Exception):
    """What this test expects of a thing that cannot be used."""


FORMAT = Format("thing", Card, "thing.json", "thing.safetensors", Unusable)
NUMBERS = {"a": torch.arange(6.0).view(2, 3), "b": torch.ones(1)}
CARD = with_digest(Card(digest="", made_by="Zoë"), NUMBERS)


def test_what_was_written_is_read_and_found_whole() -> None:
    card, numbers = FORMAT.parsed("mine", FORMAT.files(CARD, NUMBERS))
    FORMAT.check("mine", card, numbers)
    assert card == CARD
    assert {name: part.tolist() for name, part in numbers.items()} == {n: p.tolist() for n, p in NUMBERS.items()}


def test_a_card_is_text_that_people_can_read() -> None:
    assert "Zoë" in FORMAT.files(CARD, NUMBERS)["thing.json"].decode()


@pytest.mark.parametrize("missing", ["thing.json", "thing.safetensors"])
def test_a_part_that_is_not_there_is_said_by_the_things_own_name(missing: str) -> None:
    files = {name: content for name, content in FORMAT.files(CARD, NUMBERS).items() if name != missing}
    with pytest.raises(Unusable, match=r"mine: unreadable thing \(KeyError\)"):
        FORMAT.parsed("mine", files)


CHANGED: dict[str, Callable[[], tuple[Card, dict[str, Tensor]]]] = {
    "card": lambda: (CARD.model_copy(update={"made_by": "another"}), NUMBERS),
    "number": lambda: (CARD, NUMBERS | {"b": torch.zeros(1)}),
    "name": lambda: (CARD, {"a": NUMBERS["a"], "c": NUMBERS["b"]}),
    "shape": lambda: (CARD, NUMBERS | {"a": NUMBERS["a"].view(3, 2)}),
}


@pytest.mark.parametrize("change", CHANGED.values(), ids=CHANGED)
def test_whatever_is_changed_does_not_match_the_digest(change: Callable[[], tuple[Card, dict[str, Tensor]]]) -> None:
    with pytest.raises(Unusable, match="mine: content does not match its digest"):
        FORMAT.check("mine", *change())


def test_a_digest_does_not_depend_on_itself_nor_on_the_order_of_numbers() -> None:
    assert digest(CARD, dict(reversed(NUMBERS.items()))) == CARD.digest
    assert with_digest(CARD, NUMBERS) == CARD
