"""Orders of rule adapters: what they read from the store, and what becomes of them when something is gone."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.artifacts import ArtifactMissing, Artifacts
from app.datasets.rows import Row
from app.files import place
from app.jobs.rows import store_rows
from app.rulebanks import RuleBanks
from app.rulepools import RulePools
from app.schemas.names import Ref
from app.schemas.training import AdapterTask, TrainingAnswer
from tests.conftest import NO_BASE
from tests.workers.rules.adapting.conftest import telling_pairs
from tests.workers.rules.adapting.test_teach import options
from tests.workers.rules.test_bank import POOL, made
from workers import training
from workers.engine.annotator import Annotator
from workers.holding import NotHeld
from workers.orders.adapters import AdapterOrder
from workers.orders.order import Step
from workers.registry import Holdings
from workers.rules.bank import RuleBank, to_files
from workers.training import Interrupted, Trainer

FILE = "file-" + "1" * 32


@pytest.fixture(scope="module")
def bank(annotator: Annotator) -> RuleBank:
    return made(annotator)


@pytest.fixture
def artifacts(tmp_path: Path, bank: RuleBank) -> Artifacts:
    """A store with an uploaded file in several chunks, the pool `tiny` and its bank `mine`."""
    found = Artifacts(str(tmp_path / "store"))
    rows = [Row(line=line, pair=pair) for line, pair in enumerate(telling_pairs(48), start=1)]
    assert store_rows(found, place(FILE), rows, 200, tmp_path).chunks > 2
    RulePools(found).add("tiny", POOL)
    RuleBanks(found).publish("mine", bank.card.digest, to_files(bank))
    return found


@pytest.fixture
def trainer(
    annotator: Annotator, artifacts: Artifacts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Trainer]:
    monkeypatch.setattr(training, "_yield_to_annotation", lambda: None)
    yield Trainer(
        annotator, Holdings.of(artifacts, annotator), lambda: None, threading.Event(), tmp_path / "cache", NO_BASE
    )


def ordered(trainer: Trainer, bank: RuleBank, kind: str = "head") -> AdapterOrder:
    pool, probes = Ref(id="tiny", digest=POOL.digest), Ref(id="mine", digest=bank.card.digest)
    task = AdapterTask(options=options(kind, id="new", epochs=2), data=FILE, pool=pool, bank=probes)
    order = trainer.order("training", task.model_dump_json().encode())
    assert isinstance(order, AdapterOrder)
    return order


def always(_step: Step) -> bool:
    return True


def test_an_order_is_taught_with_the_files_pairs_and_published(trainer: Trainer, bank: RuleBank) -> None:
    order = ordered(trainer, bank)
    answer = trainer.carry_out(order, "job-1", always)
    assert isinstance(answer, TrainingAnswer)
    card = order.shelves[0].card("new")
    assert (answer.digest, answer.measures) == (card.digest, card.measures)
    assert (card.settings["pairs"], card.settings["job"]) == (48, "job-1")


def test_a_job_whose_worker_died_after_publishing_is_not_worked_on_again(trainer: Trainer, bank: RuleBank) -> None:
    order = ordered(trainer, bank)
    first = trainer.carry_out(order, "job-1", always)
    assert trainer.carry_out(order, "job-1", lambda _step: pytest.fail("taught again")) == first
    with pytest.raises(training.Taken, match="another rule adapter called new has come into being meanwhile"):
        trainer.carry_out(order, "job-2", always)


@pytest.mark.parametrize("kind", ["head", "lora"])
def test_the_end_of_the_worker_interrupts_it_and_nothing_is_published(
    trainer: Trainer, bank: RuleBank, kind: str
) -> None:
    order = ordered(trainer, bank, kind)
    trainer.stop.set()
    with pytest.raises(Interrupted):
        trainer.carry_out(order, "job-1", always)
    assert order.shelves[0].current() == {}


def test_what_was_deleted_meanwhile_is_named(trainer: Trainer, bank: RuleBank, artifacts: Artifacts) -> None:
    order = ordered(trainer, bank)
    artifacts.delete(place(FILE))
    with pytest.raises(ArtifactMissing):
        trainer.carry_out(order, "job-1", always)
    RuleBanks(artifacts).delete("mine")
    with pytest.raises(NotHeld, match="rule bank mine was deleted while the job used it"):
        trainer.carry_out(order, "job-1", always)
    RulePools(artifacts).delete("tiny")
    with pytest.raises(NotHeld, match="rule pool tiny was deleted while the job used it"):
        trainer.carry_out(order, "job-1", always)
