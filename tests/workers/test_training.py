"""Making a direction inside a running worker: progress, interruption, and from when on others see it."""

import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from app.artifacts import Artifacts
from app.registry import CARD, PAGE, REPORT, TENSORS
from app.schemas.fit import FitAnswer, FitRequest
from tests.conftest import NO_BASE, publish, random_direction
from workers import training
from workers.directions.balance import Balance
from workers.directions.direction import known
from workers.directions.fit import Fitted
from workers.directions.reporting import bare_report
from workers.engine.annotator import Annotator
from workers.orders import directions
from workers.orders.order import Step
from workers.registry import Holdings
from workers.training import Interrupted, Taken, Trainer

TOTAL = 10
PAIRS = [
    {"prompt": f"Question {i}?", "chosen": f"I would rather not, {i}.", "rejected": f"Sure, do {i}!"} for i in range(24)
]


@dataclass
class FakeFit:
    """A fit in ten steps of 0.2 seconds by its own clock; notes what it was given."""

    annotator: Annotator
    seconds: float = 100.0
    steps: int = 0
    given: dict[str, Any] = field(default_factory=dict)
    at_step: dict[int, Callable[[], object]] = field(default_factory=dict)

    def __call__(
        self, annotator: Annotator, request: FitRequest, progress: Callable[[int, int], None], **given: Any
    ) -> Fitted:
        self.given = given
        for step in range(1, TOTAL + 1):
            self.at_step.get(step, lambda: None)()
            self.steps = step
            self.seconds += 0.2
            progress(step, TOTAL)
        direction = random_direction(annotator, request.id, 3)
        return Fitted(direction, bare_report(direction))


@pytest.fixture
def fake(annotator: Annotator, monkeypatch: pytest.MonkeyPatch) -> FakeFit:
    fake = FakeFit(annotator)
    monkeypatch.setattr(directions, "fit", fake)
    monkeypatch.setattr(training, "time", SimpleNamespace(monotonic=lambda: fake.seconds))
    monkeypatch.setattr(training, "_yield_to_annotation", lambda: None)  # or the tests' thread would slow down for good
    return fake


@pytest.fixture
def announced() -> list[set[str]]:
    """What the worker held whenever it announced itself."""
    return []


@pytest.fixture
def trainer(annotator: Annotator, tmp_path: Path, announced: list[set[str]]) -> Trainer:
    held = Holdings.of(Artifacts(str(tmp_path / "store")), annotator)

    def announce() -> None:
        announced.append(set(held.directions.all()))

    return Trainer(annotator, held, announce, threading.Event(), tmp_path / "cache", NO_BASE)


def wanted(name: str = "new", *, replace: bool = False) -> FitRequest:
    source = {"recipe": "pairs", "pairs": PAIRS}
    return FitRequest.model_validate({"id": name, "sources": [source], "replace": replace, "layers": [1]})


def fit(trainer: Trainer, request: FitRequest, progress: Callable[[Step], bool]) -> FitAnswer:
    """Carry out an order of POST /directions for job-1."""
    order = trainer.order("direction", request.model_dump_json().encode())
    answer = trainer.carry_out(order, "job-1", progress)
    assert isinstance(answer, FitAnswer)
    return answer


def always(_step: Step) -> bool:
    return True


def test_progress_is_told_about_twice_a_second_and_at_the_end(trainer: Trainer, fake: FakeFit) -> None:
    told: list[tuple[int, int]] = []

    def note(step: Step) -> bool:
        told.append((step.done, step.total))
        return True

    fit(trainer, wanted(), note)
    assert told == [(1, TOTAL), (4, TOTAL), (7, TOTAL), (10, TOTAL)]


def test_the_end_of_the_worker_interrupts_a_fit_at_its_next_step(
    trainer: Trainer, fake: FakeFit, announced: list[set[str]]
) -> None:
    fake.at_step[5] = trainer.stop.set
    with pytest.raises(Interrupted):
        fit(trainer, wanted(), always)
    assert fake.steps == 5
    assert trainer.holdings.directions.registry.current() == {}
    assert announced == []


def test_a_fit_that_nobody_wants_any_more_is_given_up(trainer: Trainer, fake: FakeFit) -> None:
    with pytest.raises(Interrupted):
        fit(trainer, wanted(), lambda step: step.done < 4)
    assert fake.steps == 4
    assert trainer.holdings.directions.registry.current() == {}


def test_an_id_that_was_taken_meanwhile_is_left_to_whoever_took_it(
    trainer: Trainer, fake: FakeFit, annotator: Annotator, announced: list[set[str]]
) -> None:
    theirs = random_direction(annotator, "new", 9)
    fake.at_step[9] = lambda: publish(trainer.holdings.directions.registry, theirs)
    with pytest.raises(Taken, match="another direction called new has come into being meanwhile"):
        fit(trainer, wanted(), always)
    assert trainer.holdings.directions.registry.current() == {"new": theirs.card.digest}
    assert announced == []


def test_it_is_replaced_where_the_request_says_so(trainer: Trainer, fake: FakeFit, annotator: Annotator) -> None:
    publish(trainer.holdings.directions.registry, random_direction(annotator, "new", 9))
    answer = fit(trainer, wanted(replace=True), always)
    assert trainer.holdings.directions.registry.current() == {"new": answer.digest}


def test_a_job_whose_worker_died_after_publishing_is_not_fitted_again(
    trainer: Trainer, fake: FakeFit, annotator: Annotator
) -> None:
    mine = random_direction(annotator, "new", 9)
    mine = known(mine, settings={"job": "job-1"})
    publish(trainer.holdings.directions.registry, mine)
    assert fit(trainer, wanted(), always) == FitAnswer(id="new", digest=mine.card.digest)
    assert fake.steps == 0


def test_a_new_direction_is_stored_then_held_then_announced(
    trainer: Trainer, fake: FakeFit, announced: list[set[str]]
) -> None:
    answer = fit(trainer, wanted(), always)
    assert trainer.holdings.directions.registry.current() == {"new": answer.digest}
    assert trainer.holdings.directions.all()["new"].card.digest == answer.digest
    assert announced == [{"new"}]


def test_a_fit_is_compared_with_the_legend_directions_that_the_worker_holds(
    trainer: Trainer, fake: FakeFit, annotator: Annotator, tmp_path: Path
) -> None:
    smv, other = random_direction(annotator, "smv", recipe="legend"), random_direction(annotator, "other")
    publish(trainer.holdings.directions.registry, smv, other)
    trainer.holdings.directions.refresh()
    fit(trainer, wanted(), always)
    assert [control.id for control in fake.given["controls"]] == ["smv"]
    assert fake.given["cache"] == tmp_path / "cache"


@pytest.mark.skipif(sys.platform != "linux", reason="niceness belongs to a thread on Linux only")
def test_the_thread_that_fits_yields_to_others_and_never_pushes_ahead(trainer: Trainer) -> None:
    def niceness(before: int) -> int:
        me = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, me, max(before, os.getpriority(os.PRIO_PROCESS, me)))
        training._yield_to_annotation()
        return os.getpriority(os.PRIO_PROCESS, me)

    mine = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    for before in (0, 15):
        with ThreadPoolExecutor(1) as pool:  # a thread can be slowed down, but not always sped up again
            assert pool.submit(niceness, before).result() == max(10, before, mine)
    assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) == mine


def test_the_real_fit_of_a_small_request_is_held_and_stored_with_its_report(
    trainer: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = Balance(wanted().sources[0].pairs[:8], ["a", "b"] * 4, torch.tensor([True, False] * 4))  # type: ignore[union-attr, arg-type]
    for module in ("balance_reading", "fit"):
        monkeypatch.setattr(f"workers.directions.{module}.balance", lambda: small)
    told: list[int] = []
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(fit, trainer, wanted(), lambda step: not told.append(step.done)).result(60)  # type: ignore[func-returns-value]
    assert told[-1] == len(PAIRS)
    registry = trainer.holdings.directions.registry
    card = registry.card("new")
    assert card == trainer.holdings.directions.all()["new"].card
    assert answer == FitAnswer(id="new", digest=card.digest)
    assert all(registry.part("new", card.digest, part) for part in (CARD, TENSORS, REPORT, PAGE))
    assert card.slope is not None
