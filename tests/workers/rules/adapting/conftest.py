"""A bank that reads two rules, and pairs of which one or the other is critical."""

import pytest

from app.schemas.pairs import Pair
from tests.workers.rules.test_bank import SUBJECTS, made
from workers.engine.annotator import Annotator
from workers.rules.adapting.lessons import Lessons, gather
from workers.rules.bank import RuleBank

SHOUTING, NUMBERS = 2, 1
"""Places of the rules that the bank reads, by id."""


def telling_pairs(count: int = 60) -> list[Pair]:
    """By turns the rejected response shouts, or is full of numbers; every prompt comes twice."""
    found = []
    for number in range(count):
        subject = f"{SUBJECTS[number // 2 % 10]} and {SUBJECTS[number // 20 % 10]}"
        calm, loud = f"oh {subject} is great", f"OH {subject.upper()} IS GREAT!!!"
        few, many = f"some {subject} or other", f"some {subject} 77 90 13"
        chosen, rejected = (calm, loud) if number % 2 else (few, many)
        found.append(Pair(prompt=f"Say something of {subject}", chosen=chosen, rejected=rejected))
    return found


def turned(pair: Pair) -> Pair:
    """The pair with its sides exchanged."""
    return pair.model_copy(update={"chosen": pair.rejected, "rejected": pair.chosen})


@pytest.fixture(scope="session")
def bank(roomy: Annotator) -> RuleBank:
    return made(roomy)


@pytest.fixture(scope="session")
def lessons(roomy: Annotator, bank: RuleBank) -> Lessons:
    return gather(roomy, bank, telling_pairs(), bank.reads)
