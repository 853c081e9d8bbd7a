"""Turns: one at a time, urgent ones first."""

import threading

from workers.turns import Turns


def test_who_is_urgent_has_the_next_turn_whoever_waited_longer() -> None:
    turns, order, hold = Turns(), list[str](), threading.Event()
    begun = threading.Event()

    def wait(name: str, urgent: bool) -> None:
        with turns.turn(urgent=urgent):
            order.append(name)
            if name == "first":
                begun.set()
                hold.wait(10)

    first = threading.Thread(target=wait, args=("first", False))
    first.start()
    assert begun.wait(10)
    others = [threading.Thread(target=wait, args=(name, name == "urgent")) for name in ("bulk", "urgent")]
    for thread in others:
        thread.start()
    while not turns._urgent:
        pass
    hold.set()
    for thread in [first, *others]:
        thread.join(10)
    assert order == ["first", "urgent", "bulk"]


def test_a_turn_that_ends_with_an_error_is_over() -> None:
    turns = Turns()
    try:
        with turns.turn(urgent=True):
            raise RuntimeError
    except RuntimeError:
        pass
    with turns.turn(urgent=False):
        pass
