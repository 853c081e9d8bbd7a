"""A whole run in a folder: reproducible, resumed where it was killed, and never mixed with another."""

from pathlib import Path
from typing import Any

import pytest
import torch

from app.alignments import CURVES, REPORT
from app.schemas.alignment import AlignmentMethod, AlignmentReport, AlignmentStage
from app.schemas.pairs import Pair
from tests.workers.alignment.conftest import pairs, settings
from workers.alignment.batches import Showing, both
from workers.alignment.errors import OtherRun, Unfinished, UnfitData
from workers.alignment.instructions import DISPREFERRED, PREFERRED
from workers.alignment.learner import Learner
from workers.alignment.margins import Contrast, Scored
from workers.alignment.run import Run, divided
from workers.alignment.taught import adapter_of
from workers.engine.annotator import Annotator

METHODS: tuple[AlignmentMethod, ...] = ("rahf-scit", "rahf-dual")
PAIRS = pairs(18)


def a_run(annotator: Annotator, folder: Path, method: AlignmentMethod = "rahf-scit", /, **changes: Any) -> Run:
    return Run(method, annotator, PAIRS[:12], PAIRS[12:], settings(method, **changes), folder)


def contents(folder: Path) -> dict[str, bytes]:
    """Products by name, without what says how long they took."""
    products = [path for path in folder.rglob("*.safetensors") if "checkpoint" not in str(path)]
    return {str(path.relative_to(folder)): path.read_bytes() for path in products}


@pytest.fixture(scope="module", params=METHODS)
def finished(request: pytest.FixtureRequest, pupil: Annotator, tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = a_run(pupil, tmp_path_factory.mktemp(request.param), request.param)
    run.all()
    return run


def test_its_products_are_an_adapter_a_model_learnt_patterns_and_a_report(finished: Run) -> None:
    taught = ["taught"] if finished.method == "rahf-scit" else ["preferred", "dispreferred"]
    names = {path.name for path in finished.folder.iterdir()}
    assert names == {*taught, "patterns", "aligned", REPORT, CURVES}
    report = AlignmentReport.model_validate_json((finished.folder / REPORT).read_bytes())
    assert [stage.name for stage in report.stages] == [*taught, "patterns", "aligned"]
    assert [len(stage.losses) for stage in report.stages] == [6 if len(taught) == 1 else 4] * len(taught) + [0, 6]
    assert len(report.pattern_norms) == len(report.blocks)
    assert all(norm > 0 for norm in report.pattern_norms)
    assert (finished.folder / CURVES).read_bytes().startswith(b"\x89PNG")
    for name in [*taught, "aligned"]:
        assert adapter_of(finished.folder / name) is not None
        assert {path.suffix for path in (finished.folder / name).iterdir()} == {".json", ".safetensors"}


def test_the_aligned_adapter_adds_what_was_taught_and_what_was_aligned(finished: Run) -> None:
    base, whole = (adapter_of(finished.folder / name) for name in (finished._teaching_folders[0].name, "aligned"))
    assert base is not None
    assert whole is not None
    for name, (a, b) in base.factors.items():
        assert torch.equal(whole.factors[name][0][: len(a)], a)
        assert torch.equal(whole.factors[name][1][:, : len(a)], b)
    grown = {name for name, rank in whole.ranks.items() if rank > base.ranks.get(name, 0)}
    assert grown == {
        f"model.layers.{block}.self_attn.{name}"
        for block in range(finished.blocks[-1] + 1)
        for name in ("q_proj", "v_proj")
    }
    assert finished.aligned.revision == f"{finished.annotator.revision}+{whole.digest}"


def test_the_same_seed_gives_the_same_run(finished: Run, pupil: Annotator, tmp_path: Path) -> None:
    a_run(pupil, tmp_path, finished.method).all()
    assert contents(tmp_path) == contents(finished.folder)


def test_another_seed_gives_another(finished: Run, pupil: Annotator, tmp_path: Path) -> None:
    a_run(pupil, tmp_path, finished.method, seed=1).instruct()
    name = f"{finished._teaching_folders[0].name}/adapter_model.safetensors"
    assert contents(tmp_path)[name] != contents(finished.folder)[name]


@pytest.mark.parametrize("killed", [("instruct", 3), ("instruct", 5), ("collect", 2), ("align", 1), ("align", 5)])
def test_a_run_killed_anywhere_continues_with_the_same_numbers(
    finished: Run, pupil: Annotator, tmp_path: Path, killed: tuple[AlignmentStage, int]
) -> None:
    def kill(stage: AlignmentStage, done: int, _total: int, _loss: float | None) -> None:
        if (stage, done) == killed:
            raise KeyboardInterrupt

    run = a_run(pupil, tmp_path, finished.method)
    with pytest.raises(KeyboardInterrupt):
        Run(run.method, pupil, run.pairs, run.others, run.settings, run.folder, kill).all()
    run.all()
    assert contents(tmp_path) == contents(finished.folder)


def test_what_is_finished_is_not_done_again(finished: Run) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.folder.rglob("*.safetensors")}
    told: list[AlignmentStage] = []
    again = Run(
        finished.method, finished.annotator, finished.pairs, finished.others, finished.settings, finished.folder,
        lambda stage, _done, _total, _loss: told.append(stage),
    )  # fmt: skip
    again.all()
    assert told == []
    assert {path: path.stat().st_mtime_ns for path in finished.folder.rglob("*.safetensors")} == before


def test_how_often_a_checkpoint_is_kept_may_change(finished: Run) -> None:
    a_run(finished.annotator, finished.folder, finished.method, instruct__checkpoint=1, align__checkpoint=5).all()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"instruct__clip": 0.5}, r"(taught|preferred) was made with other settings\.instruct\.clip"),
        ({"collect__shard": 32}, r"patterns was made with other settings\.collect\.shard"),
        ({"align__alpha": 1}, r"aligned was made with other settings\.align\.alpha"),
    ],
)
def test_a_stage_of_other_settings_is_refused_by_their_names(finished: Run, change: dict[str, Any], named: str) -> None:
    with pytest.raises(OtherRun, match=named):
        a_run(finished.annotator, finished.folder, finished.method, **change).all()


def test_other_pairs_are_refused(finished: Run) -> None:
    def run(taught_with: list[Pair], others: list[Pair]) -> None:
        Run(finished.method, finished.annotator, taught_with, others, finished.settings, finished.folder).all()

    with pytest.raises(OtherRun, match=r"(taught|preferred) was made with other pairs"):
        run(PAIRS[:11], PAIRS[12:])
    with pytest.raises(OtherRun, match="patterns was made with other pairs"):
        run(PAIRS[:12], PAIRS[13:])


def test_dual_teaches_two_models_different_sides(pupil: Annotator, tmp_path: Path) -> None:
    run = a_run(pupil, tmp_path, "rahf-dual", instruct__epochs=8)
    run.instruct()
    likely = []
    for model in run.taught:
        learner = Learner.reading(model)
        groups = [model.template.encode(pair.messages, (pair.chosen, pair.rejected)) for pair in PAIRS[:12]]
        with torch.no_grad():
            likely.append(torch.stack([learner.log_likelihoods([group]) for group in groups]))
    preferred, dispreferred = likely
    assert bool((preferred[:, 0] > dispreferred[:, 0]).all())
    assert bool((dispreferred[:, 1] > preferred[:, 1]).all())


def test_scit_teaches_one_model_which_side_goes_with_which_instruction(pupil: Annotator, tmp_path: Path) -> None:
    run = a_run(pupil, tmp_path, instruct__epochs=8)
    run.instruct()
    (model,) = run.taught
    found = Contrast.of_scit(model).scores(both(run.others))
    margins = [float(one.scores[0] - one.scores[1]) for one in found if isinstance(one, Scored)]
    assert len(margins) == 6
    assert min(margins) > 0


@torch.no_grad()
def test_patterns_are_of_the_taught_models_the_good_side_first(finished: Run) -> None:
    """SCIT's one model under both instructions, Dual's two models under none."""
    one_model = finished.method == "rahf-scit"
    told = (PREFERRED, DISPREFERRED) if one_model else (None, None)
    how = finished.settings
    showing = Showing(finished.annotator.template, told, how.query, how.collect.response)
    good, bad = (Learner.reading(model) for model in (finished.taught * 2 if one_model else finished.taught))
    patterns = finished.collect()
    for place, item in enumerate(finished._admitted.items):
        groups = showing.show(item).groups
        expected = good.hidden([groups[0]], finished.blocks) - bad.hidden([groups[1]], finished.blocks)
        assert float(expected.abs().max()) > 0
        torch.testing.assert_close(patterns.of(place), expected, atol=1e-5, rtol=1e-4)


def test_all_weights_are_trained_where_that_is_wanted(pupil: Annotator, tmp_path: Path) -> None:
    changes = {"instruct__weights": "full", "instruct__lora": None, "instruct__learning_rate": 1e-3}
    run = a_run(pupil, tmp_path, **changes)
    run.all()
    (taught,) = run.taught
    assert taught.revision != pupil.revision
    both = zip(taught.model.parameters(), pupil.model.parameters(), strict=True)
    assert all(not torch.equal(weight, before) for weight, before in both)
    aligned = adapter_of(tmp_path / "aligned")
    assert aligned is not None
    assert set(aligned.ranks.values()) == {4}
    assert run.aligned.revision == f"{taught.revision}+{aligned.digest}"


def test_too_few_pairs_are_refused(pupil: Annotator, tmp_path: Path) -> None:
    with pytest.raises(UnfitData, match="2 pairs can be shown; at least 4 are needed"):
        Run("rahf-scit", pupil, PAIRS[:2], PAIRS[2:], settings(), tmp_path).instruct()


def test_a_report_needs_patterns(pupil: Annotator, tmp_path: Path) -> None:
    with pytest.raises(Unfinished, match="nothing to report before the patterns are read"):
        a_run(pupil, tmp_path).report()


def test_a_stage_by_itself_needs_those_before_it(pupil: Annotator, tmp_path: Path) -> None:
    run = a_run(pupil, tmp_path)
    with pytest.raises(Unfinished, match="taught is not finished: instruct comes before collect"):
        run.collect()
    run.instruct()
    with pytest.raises(Unfinished, match="patterns is not finished: collect comes before align"):
        run.align()
    run.collect()
    run.align()
    assert [stage.name for stage in run.report().stages] == ["taught", "patterns", "aligned"]


def test_pairs_are_divided_by_prompt() -> None:
    some = [pair.model_copy(update={"prompt": f"Question {number // 3}"}) for number, pair in enumerate(pairs(30))]
    first, others = divided(some, 0.5, 0)
    assert {pair.prompt for pair in first}.isdisjoint(str(pair.prompt) for pair in others)
    assert len(first) == len(others) == 15
    assert divided(some, 0.5, 0) == (first, others)
    assert divided(some, 0.5, 1) != (first, others)
