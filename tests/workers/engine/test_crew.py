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

from tests.conftest import encode, tiny_annotator
from tests.workers.alignment.shelf import random_adapter
from workers.engine.annotator import Annotator
from workers.engine.crew import Crew, reader
from workers.engine.errors import DeviceLost, PassFailed
from workers.engine.forward import read
from workers.engine.lora import LowRank, to_files
from workers.engine.packing import Branch, Group
from workers.engine.sites import Site
from workers.engine.variant import Variant

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


def test_base_and_taught_models_are_read_in_one_run(annotator: Annotator) -> None:
    variants = [None, *(Variant.of(annotator, random_adapter(annotator, seed)) for seed in range(3))]
    groups = groups_of(annotator)
    alone = [[read(v.annotator if v else annotator, [group], SITES) for group in groups] for v in variants]
    with reader(dataclasses.replace(annotator, passes=2)) as passes, ThreadPoolExecutor(4) as threads:
        asked = [(which % len(variants), which // 2 % 2) for which in range(48)]
        found = list(threads.map(lambda one: passes([groups[one[1]]], SITES, variants[one[0]]), asked))
    for (which, group), reading in zip(asked, found, strict=True):
        assert torch.equal(reading, alone[which][group])
    assert not torch.equal(alone[0][0], alone[1][0])


def test_an_adapter_is_sent_once_to_each_member_that_needs_it(
    crew: Crew, annotator: Annotator, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[str] = []

    def counted(adapter: LowRank, base: str) -> dict[str, bytes]:
        sent.append(adapter.digest)
        return to_files(adapter, base)

    monkeypatch.setattr("workers.engine.crew.to_files", counted)
    one, two, three = (random_adapter(annotator, seed) for seed in range(3))
    crew.idle.get()  # one member alone
    for adapter in (one, one, two, one, three, one, two):
        crew.read(groups_of(annotator), SITES, adapter)
    assert sent == [adapter.digest for adapter in (one, two, three, two)]


def test_a_pass_with_an_adapter_that_does_not_fit_fails_and_the_next_one_is_made(
    crew: Crew, annotator: Annotator
) -> None:
    odd = LowRank({"model.layers.9.self_attn.q_proj": (torch.ones(2, 3), torch.ones(3, 2))})
    with pytest.raises(PassFailed, match=r"^UnusableAdapter$"):
        crew.read(groups_of(annotator), SITES, odd)
    assert crew.read(groups_of(annotator), SITES).shape == (5, len(SITES), annotator.width)


def test_a_model_of_its_own_weights_is_read_here(annotator: Annotator) -> None:
    other, groups = tiny_annotator(seed=1), groups_of(annotator)
    with reader(dataclasses.replace(annotator, passes=2)) as passes:
        assert torch.equal(passes(groups, SITES, Variant(other, None)), read(other, groups, SITES))
        assert torch.equal(passes(groups, SITES), read(annotator, groups, SITES))


def test_a_member_that_ends_while_it_is_sent_an_adapter_is_no_pairs_fault(
    crew: Crew, annotator: Annotator, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_late(adapter: LowRank, base: str) -> dict[str, bytes]:
        for process, _ in crew.members:
            os.kill(process, signal.SIGKILL)
        return to_files(adapter, base)

    monkeypatch.setattr("workers.engine.crew.to_files", too_late)
    with pytest.raises(DeviceLost):
        crew.read(groups_of(annotator), SITES, random_adapter(annotator))


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
