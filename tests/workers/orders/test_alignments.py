"""Orders of alignments: taught, published with their direction, and gone on with where a worker died."""

import threading
from pathlib import Path

import pytest
import torch

from app.alignments import CURVES, REPORT, Alignments
from app.artifacts import ArtifactMissing, Artifacts
from app.datasets.rows import Row
from app.files import place
from app.jobs.rows import store_rows
from app.registry import Registry
from app.schemas.alignment import AlignmentMethod, AlignmentReport, AlignmentSettings
from app.schemas.names import Ref
from app.schemas.training import AlignmentAnswer, AlignmentTask
from tests.conftest import NO_BASE
from tests.workers.alignment.conftest import pairs, settings
from tests.workers.rules.conftest import roomy_annotator
from workers import training
from workers.alignment import contrast
from workers.alignment.errors import UnfitData
from workers.alignment.publishing import course, digest_of
from workers.alignment.run import Run
from workers.directions.balance import balance
from workers.directions.files import from_files
from workers.engine.annotator import Annotator
from workers.engine.lora import CONFIG, TENSORS
from workers.engine.lora import from_files as adapter_from
from workers.orders.alignments import AlignmentOrder
from workers.orders.order import Step
from workers.registry import Holdings
from workers.training import Interrupted, Taken, Trainer

DIRECTION_FILES = ("direction.json", "direction.safetensors")
BALANCE = len(balance().pairs)
FILE = "file-" + "1" * 32
METHODS: tuple[AlignmentMethod, ...] = ("rahf-scit", "rahf-dual")


@pytest.fixture(scope="module")
def pupil() -> Annotator:
    return roomy_annotator()


@pytest.fixture
def artifacts(tmp_path: Path) -> Artifacts:
    """A store with an uploaded file of 60 pairs."""
    found = Artifacts(str(tmp_path / "store"))
    rows = [Row(line=line, pair=pair) for line, pair in enumerate(pairs(60), start=1)]
    assert store_rows(found, place(FILE), rows, 400, tmp_path).chunks > 2
    return found


@pytest.fixture
def trainer(pupil: Annotator, artifacts: Artifacts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Trainer:
    """A worker's; the balance set takes a tiny model seconds to read, and is read in other tests."""
    monkeypatch.setattr(training, "_yield_to_annotation", lambda: None)
    places = torch.arange(len(balance().pairs))
    monkeypatch.setattr(contrast, "balance_margins", lambda *_given: (torch.ones(len(places)).double(), places))
    return Trainer(pupil, Holdings.of(artifacts, pupil), lambda: None, threading.Event(), tmp_path / "cache", NO_BASE)


def short(method: AlignmentMethod, **changes: object) -> AlignmentSettings:
    """Of a run of a second."""
    return settings(method, **{"instruct__epochs": 1, "align__steps": 4} | changes)


def ordered(trainer: Trainer, method: AlignmentMethod = "rahf-dual", **changes: object) -> AlignmentOrder:
    replace = bool(changes.pop("replace", False))
    made = short(method, **changes)
    task = AlignmentTask(method=method, id="new", data=FILE, settings=made, replace=replace)
    order = trainer.order("training", task.model_dump_json().encode())
    assert isinstance(order, AlignmentOrder)
    return order


def always(_step: Step) -> bool:
    return True


def stored(artifacts: Artifacts) -> dict[str, bytes]:
    """Adapters of the alignment `new`, by path."""
    shelf = Alignments(artifacts)
    card = shelf.card("new")
    return {name: shelf.part("new", card.digest, name) for name in card.files if name.endswith(TENSORS)}


@pytest.mark.parametrize("method", METHODS)
def test_alignment_and_direction_are_published_together_and_name_each_other(
    trainer: Trainer, artifacts: Artifacts, pupil: Annotator, method: AlignmentMethod
) -> None:
    order = ordered(trainer, method)
    answer = trainer.carry_out(order, "job-1", always)
    assert isinstance(answer, AlignmentAnswer)
    shelf, registry = Alignments(artifacts), Registry(artifacts)
    card, direction = shelf.card("new"), registry.card("new")
    assert (answer.digest, answer.direction) == (card.digest, Ref(id="new", digest=direction.digest))
    assert direction.alignment == Ref(id="new", digest=card.digest)
    assert (direction.recipe, direction.model) == ("contrast", pupil.name)
    assert direction.model_revision == card.taught_revisions[0] != pupil.revision
    assert (card.method, card.model_revision) == (method, pupil.revision)
    assert (card.settings["job"], direction.settings["job"]) == ("job-1", "job-1")
    from_files("new", {part: registry.part("new", direction.digest, part) for part in DIRECTION_FILES})
    folders = ("taught", "aligned") if method == "rahf-scit" else ("preferred", "dispreferred", "aligned")
    assert card.files == sorted([f"{f}/{name}" for f in folders for name in (CONFIG, TENSORS)] + [REPORT, CURVES])
    for folder in folders:
        adapter_from(folder, {name: shelf.part("new", card.digest, f"{folder}/{name}") for name in (CONFIG, TENSORS)})
    report = AlignmentReport.model_validate_json(shelf.part("new", card.digest, REPORT))
    assert [stage.stage for stage in report.stages] == ["instruct"] * len(folders[1:]) + ["collect", "align"]
    assert report.pairs + report.other_pairs == 60


def test_the_cards_say_how_well_margins_and_direction_read_pairs_that_were_not_taught_with(
    trainer: Trainer, artifacts: Artifacts
) -> None:
    trainer.carry_out(ordered(trainer, instruct__epochs=6), "job-1", always)
    card, direction = Alignments(artifacts).card("new"), Registry(artifacts).card("new")
    for made in (card, direction):
        assert made.readings[0].accuracy.pairs == 24
        assert made.unreliable is (made.readings[0].accuracy.low <= 0.5)
        assert "the model was not taught with the" in made.readings[0].protocol
    assert card.readings[0].accuracy.value > 0.9  # the pairs of these tests are easily told apart
    assert card.slope is not None and card.slope > 0
    assert len(card.level_edges) == 3
    assert card.readings[0].calibration_error is not None


def test_a_digest_is_of_every_file_and_of_the_card(trainer: Trainer, artifacts: Artifacts, tmp_path: Path) -> None:
    trainer.carry_out(ordered(trainer), "job-1", always)
    card, folder = Alignments(artifacts).card("new"), trainer.runs / "job-1"
    assert digest_of(card, folder) == card.digest
    assert digest_of(card.model_copy(update={"slope": 7.0}), folder) != card.digest
    (folder / "aligned" / TENSORS).write_bytes(b"other")
    assert digest_of(card, folder) != card.digest


def test_stages_are_told_with_their_steps_and_losses(trainer: Trainer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "_PROGRESS_SECONDS", 0)
    told: list[Step] = []
    trainer.carry_out(ordered(trainer), "job-1", lambda step: not told.append(step))  # type: ignore[func-returns-value]
    assert list(dict.fromkeys(step.stage for step in told)) == ["instruct", "collect", "align", "measure"]
    losses = {
        stage: [step.loss for step in told if step.stage == stage and step.loss] for stage in ("instruct", "align")
    }
    assert {stage: len(found) for stage, found in losses.items()} == {"instruct": 10, "align": 4}
    ends = {step.stage: (step.done, step.total) for step in told}
    assert ends == {"instruct": (10, 10), "collect": (24, 24), "align": (4, 4), "measure": (48 + BALANCE, 48 + BALANCE)}


@pytest.fixture(scope="module", params=METHODS)
def undisturbed(
    request: pytest.FixtureRequest, pupil: Annotator, tmp_path_factory: pytest.TempPathFactory
) -> tuple[AlignmentMethod, dict[str, bytes]]:
    """A method, and the adapters of its run by path."""
    method, folder = request.param, tmp_path_factory.mktemp("run")
    Run(method, pupil, *course(pupil, pairs(60), method, short(method)), short(method), folder).all()
    return method, {str(path.relative_to(folder)): path.read_bytes() for path in folder.glob(f"*/{TENSORS}")}


@pytest.mark.parametrize("killed", [("instruct", 3), ("collect", 9), ("align", 3), ("measure", 1), ("measure", 30)])
def test_a_job_whose_worker_died_goes_on_where_it_was_and_comes_to_the_same_bytes(
    trainer: Trainer,
    artifacts: Artifacts,
    monkeypatch: pytest.MonkeyPatch,
    killed: tuple[str, int],
    undisturbed: tuple[AlignmentMethod, dict[str, bytes]],
) -> None:
    monkeypatch.setattr(training, "_PROGRESS_SECONDS", 0)
    (method, adapters), (stage, done) = undisturbed, killed
    with pytest.raises(Interrupted):
        trainer.carry_out(ordered(trainer, method), "job-1", lambda step: step.stage != stage or step.done < done)
    told: list[Step] = []
    trainer.carry_out(ordered(trainer, method), "job-1", lambda step: not told.append(step))  # type: ignore[func-returns-value]
    assert told[0].stage == stage
    assert stored(artifacts) == adapters


def test_a_job_whose_worker_died_after_publishing_is_not_worked_on_again(trainer: Trainer) -> None:
    first = trainer.carry_out(ordered(trainer), "job-1", always)
    assert trainer.carry_out(ordered(trainer), "job-1", lambda _step: pytest.fail("taught again")) == first
    for name in ("alignment", "direction"):
        with pytest.raises(Taken, match=f"another {name} called new has come into being meanwhile"):
            trainer.carry_out(ordered(trainer), "job-2", always)
        Alignments(trainer.holdings.directions.registry.artifacts).artifacts.delete("alignments/new")


def test_one_whose_worker_died_between_the_two_publishes_both(trainer: Trainer, artifacts: Artifacts) -> None:
    trainer.carry_out(ordered(trainer), "job-1", always)
    Registry(artifacts).artifacts.delete("directions/new")
    trainer.carry_out(ordered(trainer), "job-1", always)
    alignment = Alignments(artifacts).card("new")
    assert Registry(artifacts).card("new").alignment == Ref(id="new", digest=alignment.digest)


def test_what_is_there_is_replaced_where_the_request_says_so(trainer: Trainer, artifacts: Artifacts) -> None:
    trainer.carry_out(ordered(trainer), "job-1", always)
    trainer.carry_out(ordered(trainer, replace=True, seed=1), "job-2", always)
    alignment, direction = Alignments(artifacts).card("new"), Registry(artifacts).card("new")
    assert alignment.settings["job"] == "job-2"
    assert direction.alignment == Ref(id="new", digest=alignment.digest)


def test_the_end_of_the_worker_interrupts_it_and_nothing_is_published(trainer: Trainer, artifacts: Artifacts) -> None:
    def end(step: Step) -> bool:
        if step.stage == "align":
            trainer.stop.set()
        return True

    with pytest.raises(Interrupted):
        trainer.carry_out(ordered(trainer), "job-1", end)
    assert (Alignments(artifacts).current(), Registry(artifacts).current()) == ({}, {})


def test_folders_of_jobs_that_are_over_are_removed_and_others_kept(trainer: Trainer) -> None:
    for job in ("job-1", "job-2"):
        (trainer.runs / job / "taught").mkdir(parents=True)
    trainer.sweep(lambda job: job == "job-1")
    assert [folder.name for folder in trainer.runs.iterdir()] == ["job-2"]


def test_pairs_that_are_too_few_are_refused_before_anything_is_taught(
    trainer: Trainer, artifacts: Artifacts, tmp_path: Path
) -> None:
    rows = [Row(line=line, pair=pair) for line, pair in enumerate(pairs(30), start=1)]
    store_rows(artifacts, place(FILE), rows, 400, tmp_path)
    with pytest.raises(UnfitData, match="12 pairs are too few to calibrate on; at least 20 are needed"):
        trainer.carry_out(ordered(trainer), "job-1", lambda _step: pytest.fail("taught"))


def test_a_file_that_was_deleted_meanwhile_ends_it(trainer: Trainer, artifacts: Artifacts) -> None:
    artifacts.delete(place(FILE))
    with pytest.raises(ArtifactMissing):
        trainer.carry_out(ordered(trainer), "job-1", always)


def test_a_model_all_of_whose_weights_were_trained_is_stored_as_a_model(
    trainer: Trainer, artifacts: Artifacts, pupil: Annotator
) -> None:
    changes = {"instruct__weights": "full", "instruct__lora": None, "instruct__learning_rate": 1e-3}
    trainer.carry_out(ordered(trainer, "rahf-scit", **changes), "job-1", always)
    card = Alignments(artifacts).card("new")
    assert {"taught/config.json", "taught/model.safetensors", f"aligned/{CONFIG}"} <= set(card.files)
    assert not [name for name in card.files if "made-with" in name or "figures" in name or "checkpoint" in name]
    assert Registry(artifacts).card("new").model == pupil.name
    assert {"new"} == trainer.holdings.directions.all().keys() == trainer.holdings.alignments.all().keys()
    variant = trainer.holdings.directions.variant(trainer.holdings.directions.all()["new"])
    assert variant is not None
    assert variant.revision == card.taught_revisions[0]
    assert str(trainer.runs) not in card.model_dump_json()
