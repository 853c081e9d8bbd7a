"""Labelled pairs through a rater whose answers are known."""

from collections.abc import Sequence

import pytest
import torch

from app.schemas.pairs import Message, Pair
from tests.conftest import RULES
from workers.directions.balance import balance
from workers.engine.annotator import Annotator
from workers.engine.errors import PairRefused, TooLong
from workers.rules.errors import UnfitPairs
from workers.rules.judge import seed_of
from workers.rules.measuring import Raters, balance_sample, rate_pairs
from workers.rules.rating import Answered, Ratings


class Counting:
    """Scores a response by its length, of two rules the second relevant; cannot read what is longer than nine."""

    def rate(self, items: Sequence[Answered], *, truncate: bool = False) -> list[Ratings | PairRefused]:
        return [self._rate(item) for item in items]

    def _rate(self, item: Answered) -> Ratings | PairRefused:
        lengths = [len(response) for response in item.responses]
        if max(lengths) > 9:
            return TooLong("longer than nine")
        scores = torch.tensor([[length / 10, 0.0] for length in lengths])
        return Ratings(scores, torch.tensor([0.0, 1.0]))


def pair(prompt: str, chosen: str, rejected: str) -> Pair:
    return Pair(prompt=prompt, chosen=chosen, rejected=rejected)


def test_pairs_that_cannot_be_read_are_left_out_and_the_others_keep_their_places() -> None:
    pairs = [pair(f"prompt {i // 2}", "x" * (i % 10), "x" * (12 if i % 4 == 0 else 1)) for i in range(150)]
    told: list[tuple[int, int]] = []
    rated, places = rate_pairs(Counting(), pairs, lambda done, total: told.append((done, total)))
    assert places.tolist() == [i for i in range(150) if i % 4]
    assert rated.scores[:, 0, 0].tolist() == pytest.approx([i % 10 / 10 for i in range(150) if i % 4])
    assert rated.relevance.tolist() == [[0.0, 1.0]] * len(places)
    assert rated.seeds.tolist() == [seed_of(pairs[i]) for i in places.tolist()]
    assert told[-1] == (150, 150)


def test_pairs_of_one_first_user_turn_are_a_family() -> None:
    longer = [
        Message(role="user", content="a"),
        Message(role="assistant", content="b"),
        Message(role="user", content="c"),
    ]
    pairs = [pair("a", "x", "y"), pair("b", "x", "y"), Pair(prompt=longer, chosen="x", rejected="y")]
    rated, _ = rate_pairs(Counting(), pairs, lambda _done, _total: None)
    assert rated.families.tolist() == [0, 1, 0]


def test_without_a_pair_that_can_be_read_there_is_nothing_to_measure() -> None:
    with pytest.raises(UnfitPairs, match="none of 1 pairs can be read"):
        rate_pairs(Counting(), [pair("a", "x" * 20, "y")], lambda _done, _total: None)


def test_a_seed_is_of_the_content_and_does_not_know_the_sides() -> None:
    assert seed_of(pair("a", "x", "y")) == seed_of(pair("a", "y", "x"))
    assert len({seed_of(pair(*texts)) for texts in (("a", "x", "y"), ("b", "x", "y"), ("a", "x", "z"))}) == 3


def test_a_sample_of_the_balance_set_has_both_kinds_and_is_always_the_same() -> None:
    assert balance_sample(None) == list(range(len(balance().pairs)))
    sample = balance_sample(40)
    assert sample == balance_sample(40)
    assert (len(sample), len(set(sample))) == (40, 40)
    assert 10 < int(balance().benign[sample].sum()) < 30


def test_probes_without_a_bank_are_not_silently_the_other_rater(annotator: Annotator) -> None:
    with pytest.raises(ValueError, match="the rater `probes` needs a bank"):
        Raters(annotator, "tiny-rules", RULES, bank=None).rater("probes")
