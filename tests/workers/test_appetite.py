"""Bulk work is brought by one at a time, and only while little of it waits."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from workers.appetite import Appetite
from workers.engine.memory import Budget

BATCH = 100


@pytest.fixture
def appetite() -> Appetite:
    return Appetite(Budget(BATCH), passes=2)


def come_in(appetite: Appetite) -> threading.Event:
    """Somebody else who goes for work; the event says that their turn has begun."""
    begun = threading.Event()

    def bring() -> None:
        with appetite.turn():
            begun.set()

    threading.Thread(target=bring, daemon=True).start()
    return begun


def test_while_somebody_brings_work_nobody_else_goes_for_more(appetite: Appetite) -> None:
    with appetite.turn():
        begun = come_in(appetite)
        assert not begun.wait(0.05)
        appetite.brought(10)  # and now they wait for its scores
        assert begun.wait(5)


def test_who_found_no_work_ends_the_turn(appetite: Appetite) -> None:
    with appetite.turn():
        begun = come_in(appetite)
        assert not begun.wait(0.05)
    assert begun.wait(5)


def test_no_more_is_wanted_while_two_batches_of_every_pass_wait(appetite: Appetite) -> None:
    with appetite.turn():
        appetite.brought(4 * BATCH + 50)
    begun = come_in(appetite)
    assert not begun.wait(0.05)
    appetite.taken(50)
    assert not begun.wait(0.05)
    appetite.taken(BATCH)
    assert begun.wait(5)


def test_only_who_brings_ends_the_turn(appetite: Appetite) -> None:
    with appetite.turn():
        with ThreadPoolExecutor(1) as other:
            other.submit(appetite.brought, 10).result()
        assert not come_in(appetite).wait(0.05)
