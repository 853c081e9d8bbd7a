"""Orders of reward models: trained, published, and gone on with where a worker died."""

import threading
from pathlib import Path

import pytest
from transformers import AutoModelForSequenceClassification

from app.artifacts import Artifacts
from app.datasets.rows import Row
from app.files import place
from app.jobs.collect import answer_path
from app.jobs.rows import chunk_places, read_chunk, store_rows
from app.rewards import RewardMissing, RewardModels
from app.schemas.annotate import FailedAnnotation, PairProblem
from app.schemas.chunk import ChunkAnswer
from app.schemas.rewards import RewardSettings
from app.schemas.training import RewardAnswer, RewardTask
from tests.examples.conftest import annotation
from tests.workers.rewards.conftest import annotated, tiny_language_model
from tests.workers.rewards.test_annotated import PROVENANCE
from workers import training
from workers.engine.annotator import Annotator
from workers.orders.order import Step
from workers.orders.rewards import Base, RewardOrder, annotated_of
from workers.registry import Holdings
from workers.rewards.errors import UnfitRows
from workers.training import Interrupted, Taken, Trainer

FILE = "file-" + "1" * 32
SETTINGS = RewardSettings(epochs=2, batch=4, checkpoint=2, held_out=0.25)


@pytest.fixture
def artifacts(tmp_path: Path) -> Artifacts:
    """A store with an uploaded file of 24 pairs with margins, in several chunks."""
    found = Artifacts(str(tmp_path / "store"))
    rows = [Row(line=one.line, pair=one.pair, margin=one.margin) for one in annotated()]
    assert store_rows(found, place(FILE), rows, 400, tmp_path).chunks > 2
    return found


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_language_model(tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture
def trainer(
    annotator: Annotator, artifacts: Artifacts, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Trainer:
    monkeypatch.setattr(training, "_yield_to_annotation", lambda: None)
    monkeypatch.setattr(training, "_PROGRESS_SECONDS", 0)
    held = Holdings.of(artifacts, annotator)
    made_of = Base(str(base), tmp_path / "home", "cpu")
    return Trainer(annotator, held, lambda: None, threading.Event(), tmp_path / "cache", made_of)


def ordered(trainer: Trainer, job: str | None = None, *, replace: bool = False, name: str = "new") -> RewardOrder:
    task = RewardTask(id=name, settings=SETTINGS, file=FILE, job=job, replace=replace)
    order = trainer.order("training", task.model_dump_json().encode())
    assert isinstance(order, RewardOrder)
    return order


def always(_step: Step) -> bool:
    return True


def annotated_by(artifacts: Artifacts, job: str, *, failed: int = 5) -> None:
    """A job's answers to the file: margins of a tenth of the line, but that of one line, which could not be read."""
    problem = FailedAnnotation(id="x", error=PairProblem(status=422, code="too_long", detail="is too long"))
    for number, chunk in enumerate(chunk_places(artifacts, place(FILE))):
        lines = [row.line for row in read_chunk(artifacts, place(FILE), chunk)]
        entries = [problem if line == failed else annotation(line / 10) for line in lines]
        answer = ChunkAnswer(entries=entries, lines=lines, provenance=PROVENANCE)
        artifacts.write(answer_path(job, number), answer.model_dump_json().encode())


def test_a_file_has_the_margins_of_its_rows(artifacts: Artifacts) -> None:
    found = annotated_of(artifacts, FILE, None)
    assert [(one.line, one.pair, one.margin) for one in found.pairs] == [
        (one.line, one.pair, one.margin) for one in annotated()
    ]
    assert found.calibrated is None


def test_a_job_has_what_it_said_of_the_pairs(artifacts: Artifacts) -> None:
    annotated_by(artifacts, "job-1")
    found = annotated_of(artifacts, FILE, "job-1")
    assert [one.line for one in found.pairs] == [line for line in range(1, 25) if line != 5]
    assert [one.margin for one in found.pairs][:3] == pytest.approx([0.1, 0.2, 0.3])
    assert (found.name, found.calibrated) == ("job-1", False)


def test_it_is_trained_published_and_loaded(trainer: Trainer, artifacts: Artifacts, tmp_path: Path) -> None:
    told: list[Step] = []

    def tell(step: Step) -> bool:
        told.append(step)
        return True

    answer = trainer.carry_out(ordered(trainer), "job-2", tell)
    assert isinstance(answer, RewardAnswer)
    card = RewardModels(artifacts).card("new")
    assert (answer.id, answer.digest, answer.data.pairs) == ("new", card.digest, 18)
    assert answer.after == card.after
    assert card.settings == {"job": "job-2"}
    assert list(dict.fromkeys(step.stage for step in told)) == ["read", "measure", "train"]
    steps = [step for step in told if step.stage == "train"]
    assert [(step.done, step.total) for step in steps] == [(done, 10) for done in range(1, 11)]
    assert all(step.loss is not None for step in steps)
    RewardModels(artifacts).fetch("new", card.digest, tmp_path / "fetched")
    assert AutoModelForSequenceClassification.from_pretrained(tmp_path / "fetched").num_labels == 1


def test_a_job_that_published_is_not_worked_on_twice(trainer: Trainer) -> None:
    answer = trainer.carry_out(ordered(trainer), "job-3", always)

    def fail(_step: Step) -> bool:
        raise AssertionError("trained again")

    assert trainer.carry_out(ordered(trainer), "job-3", fail) == answer
    with pytest.raises(Taken, match="another reward model called new"):
        trainer.carry_out(ordered(trainer), "job-4", always)
    assert trainer.carry_out(ordered(trainer, replace=True), "job-4", always) != answer


def test_it_goes_on_where_it_was_when_its_worker_died(trainer: Trainer, artifacts: Artifacts) -> None:
    steps: list[int] = []

    def until(last: int, step: Step) -> bool:
        if step.stage != "train":
            return True
        steps.append(step.done)
        return step.done < last

    with pytest.raises(Interrupted):
        trainer.carry_out(ordered(trainer), "job-5", lambda step: until(5, step))
    with pytest.raises(RewardMissing):
        RewardModels(artifacts).card("new")
    trainer.carry_out(ordered(trainer), "job-5", lambda step: until(11, step))
    assert steps == [1, 2, 3, 4, 5, 5, 6, 7, 8, 9, 10]
    trainer.carry_out(ordered(trainer, name="whole"), "job-6", always)
    models = RewardModels(artifacts)
    interrupted, whole = (models.part(name, models.digest(name), "model.safetensors") for name in ("new", "whole"))
    assert interrupted == whole
    trainer.sweep(lambda job: job == "job-5")
    assert [folder.name for folder in trainer.runs.iterdir()] == ["job-6"]


def test_rows_without_margins_fail_the_job_and_say_so(trainer: Trainer, artifacts: Artifacts, tmp_path: Path) -> None:
    store_rows(artifacts, place(FILE), [Row(line=1, pair=annotated(1)[0].pair)], 400, tmp_path)
    with pytest.raises(UnfitRows, match="line 1 has no margin"):
        trainer.carry_out(ordered(trainer), "job-7", always)
