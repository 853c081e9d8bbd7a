"""The things used last are kept, and only those."""

import threading
from concurrent.futures import ThreadPoolExecutor

from workers.engine.lastused import LastUsed


def test_those_asked_for_last_are_kept() -> None:
    kept, made = LastUsed[object](2), list[str]()

    def get(name: str) -> object:
        def make() -> object:
            made.append(name)
            return object()

        return kept.get(name, make)

    first = get("one")
    get("two")
    assert get("one") is first
    get("three")
    assert get("one") is first
    assert made == ["one", "two", "three"]
    assert kept.find("two") is None
    get("two")
    assert made[3:] == ["two"]
    assert kept.find("one") is first


def test_what_cannot_be_made_is_not_kept() -> None:
    kept = LastUsed[int](2)
    for _ in range(2):
        try:
            kept.get("one", lambda: int("none"))
        except ValueError:
            continue
        raise AssertionError
    assert kept.get("one", lambda: 1) == 1


def test_one_that_is_kept_can_be_had_while_another_is_made_once() -> None:
    kept, made = LastUsed[object](2), list[str]()
    gate, begun = threading.Event(), threading.Event()

    def slowly() -> object:
        made.append("slow")
        begun.set()
        assert gate.wait(10)
        return object()

    quick = kept.get("quick", object)
    with ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(kept.get, "slow", slowly) for _ in range(2)]
        assert begun.wait(10)
        assert kept.get("quick", object) is quick
        gate.set()
        assert waiting[0].result(10) is waiting[1].result(10)
    assert made == ["slow"]
