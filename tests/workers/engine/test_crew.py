"""Forward passes in processes of their own: the same numbers, and what becomes of failures and deaths."""

import dataclasses
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psutil
import pytest
import torch

from tests.conftest import encode
from workers.engine.annotator import Annotator
from workers.engine.crew import Crew, reader
from workers.engine.errors import DeviceLost, PassFailed
from workers.engine.forward import read
from workers.engine.packing import Branch, Group
from workers.engine.sites import Site

SITES = [Site(1, "mean"), Site(2, "end_of_turn"), Site(2, "request")]


@pytest.fixture
def crew(annotator: Annotator) -> Iterator[Crew]:
    made = Crew.of(dataclasses.replace(annotator, passes=2))
    yield made
    made.close()


def groups_of(annotator: Annotator) -> list[Group]:
    return [encode(annotator, "How do I sharpen a knife?", "Slowly.", "No."), encode(annotator, "hi", "", "ho", "he")]


def test_a_member_reads_what_this_process_reads(crew: Crew, annotator: Annotator) -> None:
    groups = groups_of(annotator)
    assert torch.equal(crew.read(groups, SITES), read(annotator, groups, SITES))


def test_while_one_member_is_busy_another_reads(crew: Crew, annotator: Annotator) -> None:
    busy = crew.idle.get()
    assert crew.read(groups_of(annotator), SITES).shape == (5, len(SITES), annotator.width)
    crew.idle.put(busy)


def test_passes_asked_for_at_once_are_all_made(crew: Crew, annotator: Annotator) -> None:
    groups = groups_of(annotator)
    alone = [read(annotator, [group], SITES) for group in groups]
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda i: crew.read([groups[i % 2]], SITES), range(40)))
    assert all(torch.equal(reading, alone[i % 2]) for i, reading in enumerate(found))
    assert crew.idle.qsize() == 2


def test_a_pass_that_fails_says_by_what_and_the_next_one_is_made(crew: Crew, annotator: Annotator) -> None:
    outside = Group((10**6,), (Branch((1,), 1),), 1, (0, 1))
    with pytest.raises(PassFailed, match=r"^IndexError$"):
        crew.read([outside], SITES)
    assert crew.read(groups_of(annotator), SITES).shape == (5, len(SITES), annotator.width)


def test_where_a_member_has_ended_no_pair_is_blamed(crew: Crew, annotator: Annotator) -> None:
    for process, _ in crew.members:
        os.kill(process, signal.SIGKILL)
    with pytest.raises(DeviceLost):
        crew.read(groups_of(annotator), SITES)
    assert not issubclass(DeviceLost, Exception)


def test_members_end_when_they_are_told_to(annotator: Annotator) -> None:
    before = set(psutil.Process().children())
    with reader(dataclasses.replace(annotator, passes=2)) as passes:
        passes(groups_of(annotator), SITES)
        members = set(psutil.Process().children()) - before
        assert len(members) == 2
    assert not any(member.is_running() for member in members)


def test_one_pass_at_a_time_needs_no_other_process(annotator: Annotator) -> None:
    before = set(psutil.Process().children())
    with reader(annotator) as passes:
        groups: Any = groups_of(annotator)
        assert torch.equal(passes(groups, SITES), read(annotator, groups, SITES))
        assert set(psutil.Process().children()) == before
