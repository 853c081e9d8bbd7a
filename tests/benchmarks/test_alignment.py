"""The alignment benchmark from pairs to tables on a tiny model, and that it goes on where it was killed."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from app.schemas.fit import FitRequest
from app.schemas.report import DirectionReport
from benchmarks import preferring, speaking, summaries
from benchmarks.alignment import arms, wanted
from benchmarks.alignment_table import figures, page
from benchmarks.preferring import UNTAUGHT
from benchmarks.speaking import compared
from benchmarks.trial import MODELS, SCIT, Parts, Trial
from tests.conftest import random_direction
from tests.workers.alignment.conftest import LORA, pairs
from tests.workers.rules.conftest import roomy_annotator
from workers.alignment import contrast
from workers.alignment.batches import Showing, both
from workers.alignment.errors import OtherRun
from workers.alignment.instructions import DISPREFERRED, PREFERRED
from workers.alignment.learner import Learner
from workers.directions.balance import balance
from workers.directions.direction import known
from workers.directions.fit import Fitted
from workers.directions.gather import opening
from workers.engine.annotator import Annotator

CHANGES = {
    "instruct.epochs": 1,
    "instruct.learning_rate": 0.01,
    "instruct.lora": LORA.model_dump(),
    "align.steps": 6,
    "align.batch": 2,
    "align.learning_rate": 0.01,
    "align.lora": LORA.model_dump(),
}
SIZES = {"prompts": 3, "requests": 2, "tokens": 3}


@pytest.fixture(scope="module")
def trial(tmp_path_factory: pytest.TempPathFactory) -> Trial:
    pupil = roomy_annotator()
    parts = Parts.of(pupil, pairs(80), 0.3, 0.6)
    return Trial(pupil, "small", parts, tmp_path_factory.mktemp("work"), CHANGES)


@pytest.fixture(scope="module")
def found(trial: Trial) -> Mapping[str, dict[str, Any]]:
    places = torch.arange(len(balance().pairs))
    with pytest.MonkeyPatch.context() as patch:
        # What takes a tiny model seconds, and is tested elsewhere.
        patch.setattr(contrast, "balance_margins", lambda *_arguments: (torch.ones(len(places)).double(), places))
        patch.setattr(preferring, "_recipe", lambda trial: random_direction(trial.annotator, "recipe"))
        patch.setattr(speaking, "fit", _fit)
        every = arms(trial, None, **SIZES)
        return {name: trial.measured(name, arm) for name, arm in every.items()}


def _fit(annotator: Annotator, request: FitRequest, **_options: Any) -> Fitted:
    return Fitted(known(random_direction(annotator, request.id), slope=2.0), cast(DirectionReport, None))


def test_no_prompt_is_in_two_parts(trial: Trial) -> None:
    parts = [trial.parts.teaching, trial.parts.others, trial.parts.held_out]
    openings = [{opening(pair.messages) for pair in part} for part in parts]
    assert [len(part) for part in parts] == [34, 22, 24]
    assert sum(map(len, openings)) == len(set.union(*openings))


def test_every_arm_is_measured_once(trial: Trial, found: Mapping[str, dict[str, Any]]) -> None:
    def never() -> dict[str, Any]:
        raise AssertionError("measured twice")

    assert {name: trial.measured(name, never) for name in found} == found


def test_variants_share_what_they_do_not_change(trial: Trial, found: Mapping[str, dict[str, Any]]) -> None:
    assert set(trial.variants) == {"alpha-1", "alpha-10", "early", "late"}
    shared = {
        name: {path.name for path in (trial.folder / name).iterdir() if path.is_symlink()} for name in trial.variants
    }
    assert shared["alpha-1"] == shared["alpha-10"] == {"taught", "patterns"}
    assert shared["early"] == shared["late"] == {"taught"}
    assert found["train/alpha-1"]["taught_revisions"] == found["train/scit"]["taught_revisions"]
    assert found["train/early"]["blocks"] != found["train/late"]["blocks"]


def test_readings_are_of_the_held_out_pairs(trial: Trial, found: Mapping[str, dict[str, Any]]) -> None:
    readers = [name for name in found if name.startswith("read/")]
    assert len(readers) == 11
    assert {len(found[name]["margins"]) for name in readers} == {24}
    # All rejected responses are longer, which the other pairs show.
    assert min(found["read/length"]["margins"]) > 0


def test_a_responses_own_pattern_is_projected_on_the_mean_of_others(
    trial: Trial, found: Mapping[str, dict[str, Any]]
) -> None:
    run, read = trial.run(SCIT), found["read/scit patterns"]
    learner, mean = Learner.reading(run.taught[0]), run.collect().mean()
    showing = Showing(trial.annotator.template, (PREFERRED, DISPREFERRED), None, None)
    right = torch.zeros(len(run.blocks))
    for item in both(trial.parts.held_out):
        good, bad = (learner.hidden([group], run.blocks) for group in showing.show(item).groups)
        chosen, rejected = torch.split(
            (good - bad).detach().double(), [len(branch.tokens) for branch in showing.show(item).groups[0].branches]
        )
        right += ((chosen.mean(dim=0) - rejected.mean(dim=0)) * mean).sum(dim=1) > 0
    assert list(read["layers"]) == [str(block + 1) for block in run.blocks]
    assert [one["value"] for one in read["layers"].values()] == pytest.approx((right / 24).tolist())


def test_a_taught_model_finds_the_chosen_responses_less_surprising(found: Mapping[str, dict[str, Any]]) -> None:
    nats = {name: found[f"perplexity/{name}"]["nats"] for name in MODELS}
    assert nats["scit/taught"] < nats["base"]
    assert nats["dual/preferred"] < nats["base"]


def test_the_base_wins_nothing_of_itself(trial: Trial, found: Mapping[str, dict[str, Any]]) -> None:
    base = figures(trial, found)["models"]["base"]
    assert base["difference"] == {"value": 0.0, "low": 0.0, "high": 0.0}
    assert base["wins"]["value"] == 0.5
    assert base["perplexity_of_base"] == 1.0
    assert {kind["of"] for kind in base["refused"].values()} == {2}


def test_scores_are_compared_prompt_by_prompt() -> None:
    more = compared([1.0, 2.0, 5.0, 0.0], [0.0, 1.0, 5.0, 1.0])
    assert more["difference"]["value"] == 0.25
    assert more["wins"]["value"] == 0.625
    assert more["wins"]["prompts"] == 4


def test_results_hold_figures_and_no_text(
    trial: Trial, found: Mapping[str, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(summaries, "RESULTS", tmp_path)
    made = figures(trial, found) | {"sizes": SIZES}
    summaries.save("alignment", made, page(made))
    written = (tmp_path / "alignment.json").read_text()
    assert trial.parts.held_out[0].chosen not in written
    assert "answers" not in written
    assert made["reading"][UNTAUGHT]["gain"]["value"] == 0
    assert f"{UNTAUGHT}, per token" in made["reading"]
    aligned = made["training"][SCIT]["stages"]["aligned"]
    losses = found["train/scit"]["stages"][-1]["losses"]
    assert aligned["first"] == pytest.approx(sum(losses[:5]) / 5)
    assert aligned["last"] == pytest.approx(sum(losses[1:]) / 5)
    tables = (tmp_path / "alignment.md").read_text().split("\n\n")
    rows = [len(table.splitlines()) - 2 for table in tables if table.startswith("| ")]
    assert rows == [14, 9, 5, 5]


def test_a_folder_of_another_trial_is_refused(trial: Trial) -> None:
    trial.enter(sizes=SIZES)
    trial.enter(sizes=SIZES)
    other = Trial(trial.annotator, "small", trial.parts, trial.folder, CHANGES | {"align.steps": 7})
    with pytest.raises(OtherRun, match=r"settings\.scit\.align\.steps"):
        other.enter(sizes=SIZES)


def test_arms_are_chosen_by_name_or_by_kind(trial: Trial) -> None:
    every = arms(trial, None, **SIZES)
    assert wanted(every, []) == list(every)
    assert wanted(every, ["train/dual", "refuse"]) == ["train/dual", *(f"refuse/{name}" for name in MODELS)]
    assert wanted(every, ["read/scit"]) == []
