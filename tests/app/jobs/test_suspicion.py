"""Finding the rows that kill workers, by death after death."""

import pytest

from app.jobs.suspicion import Suspicion


def rows(parts: list[range]) -> list[int]:
    return [row for part in parts for row in part]


def hunted(count: int, *poison: int) -> Suspicion:
    """What is known once no worker dies any more of a chunk with these fatal rows; each death is in the fatal part."""
    known = Suspicion().after_death(None)
    while fatal := next((part for part in known.parts(count) if set(part) & set(poison)), None):
        known = known.after_death(fatal)
    return known


@pytest.mark.parametrize("count", [1, 2, 31, 32, 33, 1000])
def test_all_rows_of_a_suspected_chunk_are_tried_in_order(count: int) -> None:
    parts = Suspicion(deaths=1).parts(count)
    assert rows(parts) == list(range(count))
    assert len(parts) <= 32


@pytest.mark.parametrize(("count", "poison"), [(1, 0), (2, 1), (40, 0), (1000, 999), (1000, 500), (1024, 31)])
def test_one_guilty_row_is_found_among_many_in_few_deaths(count: int, poison: int) -> None:
    known = hunted(count, poison)
    assert known.guilty == (poison,)
    assert known.deaths <= 5
    assert rows(known.parts(count)) == [row for row in range(count) if row != poison]


def test_several_guilty_rows_are_found_one_after_the_other() -> None:
    known = hunted(100, 0, 17, 18, 99)
    assert sorted(known.guilty) == [0, 17, 18, 99]
    assert rows(known.parts(100)) == [row for row in range(100) if row not in (0, 17, 18, 99)]


def test_a_row_is_not_guilty_of_one_death() -> None:
    known = Suspicion().after_death(None).after_death(range(3, 4))
    assert known.guilty == ()
    assert known.after_death(range(5, 6)).guilty == ()
    assert known.after_death(range(3, 4)).guilty == (3,)


def test_what_waited_for_its_turn_had_no_part_in_a_death() -> None:
    known = Suspicion().after_death(None).after_death(range(3, 4))
    assert known.after_death(range(0)) == known
