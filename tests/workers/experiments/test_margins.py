"""The whole comparison with tiny models: every arm and seed, gone on with after it was ended, shared by processes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from app.schemas.fit import LabelledResponse, PairsSource
from app.schemas.marginreport import Cost
from app.schemas.pairs import Pair
from app.schemas.rewards import RewardSettings
from tests.conftest import RULES, random_bank, tiny_annotator
from tests.workers.rewards.conftest import tiny_language_model
from workers.directions.balance import balance
from workers.directions.crossfit import cross_fit
from workers.engine.annotator import Annotator
from workers.experiments import sources
from workers.experiments.arms import ARMS
from workers.experiments.benches import Base, bench
from workers.experiments.margins import Experiment, with_margins
from workers.experiments.parts import BALANCE, HELD_OUT, LABELLED, Parts, families, part
from workers.experiments.reporting import markdown, report
from workers.experiments.sources import Sourced
from workers.experiments.units import Unit, claimed
from workers.rewards.annotated import Annotated
from workers.rewards.errors import OtherTraining, UnfitRows

WINDOW = 1024
REQUESTS = [f"Tell me of knife {number}" for number in range(12)]
SETTINGS = RewardSettings(batch=8, learning_rate=1e-3, max_length=WINDOW)


def data(count: int = 120) -> list[Annotated]:
    pairs = [
        Pair(prompt=f"What of knife {n}?", chosen=f"oh well, keep it {n}", rejected=f"NO! THROW {n} AWAY!")
        for n in range(count)
    ]
    return [Annotated(line, pair) for line, pair in enumerate(pairs, start=1)]


LABELS = [
    LabelledResponse(prompt=f"What of boat {n % 12}?", response=f"{'calm' if n > 23 else 'LOUD!'} {n}", label=n // 24)
    for n in range(48)
]


@pytest.fixture(scope="module")
def annotator() -> Annotator:
    return tiny_annotator(max_position_embeddings=WINDOW)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_language_model(
        tmp_path_factory.mktemp("base") / "tiny", num_hidden_layers=4, max_position_embeddings=WINDOW
    )


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few requests to answer, the data's own pairs to fit on."""
    monkeypatch.setattr("workers.experiments.sources.read_requests", lambda: REQUESTS)
    monkeypatch.setattr("workers.experiments.sources._ANSWER", 4)
    monkeypatch.setattr(
        "workers.experiments.sources.default_recipe",
        lambda pairs, _labelled: [PairsSource(recipe="pairs", pairs=pairs)],
    )


def parts_of(annotator: Annotator, base: Path, home: Path, **sizes: Any) -> Parts:
    reader = Base(str(base), home, "cpu").model(0, SETTINGS.max_length)
    chosen: dict[str, Any] = {"held_out": 0.4, "balance_pairs": 24} | sizes
    return part(reader, annotator, data(), LABELS, **chosen)


@pytest.fixture
def made(annotator: Annotator, base: Path, tmp_path: Path) -> Callable[..., Experiment]:
    """An experiment in a folder."""
    parts = parts_of(annotator, base, tmp_path)

    def make(*arms: str, seeds: int = 1, trained: int | None = 2, mean: float = 0.5) -> Experiment:
        of, folder = Base(str(base), tmp_path, "cpu", None, trained), tmp_path / "experiment"
        texts = parts.texts(of.model(0, SETTINGS.max_length))
        own = bench(of, annotator, texts, SETTINGS, folder, threads=1, tell=lambda *_told: None)
        return Experiment(
            folder,
            annotator,
            random_bank(annotator),
            parts,
            own,
            list(dict.fromkeys(["none", *arms])),
            range(seeds),
            mean,
            {"k": trained},
        )

    return make


def test_no_prompt_is_on_two_sides(annotator: Annotator, base: Path, tmp_path: Path) -> None:
    parts = parts_of(annotator, base, tmp_path, limit=50)
    prompts = [{one.pair.prompt for one in side} for side in (parts.train, parts.held_out, parts.labelled)]
    assert len(parts.train) == 50
    assert not prompts[0] & prompts[1]
    assert not prompts[2] & {one.prompt for one in parts.fitting}
    assert len(prompts[2]) == 6
    assert all("calm" in one.pair.chosen and "LOUD" in one.pair.rejected for one in parts.labelled)
    unseen = set(parts.unseen.tolist())
    assert {one.line for one in parts.balance} <= unseen
    subjects = {balance().families[place] for place in unseen}
    assert not subjects & {name for place, name in enumerate(balance().families) if place not in unseen}
    assert len(set(families(BALANCE, parts.balance).tolist())) < len(parts.balance)


def test_too_few_pairs_are_refused(annotator: Annotator, base: Path, tmp_path: Path) -> None:
    reader = Base(str(base), tmp_path, "cpu").model(0, 40)
    with pytest.raises(UnfitRows, match=r"0 pairs to train on and 0 held out are too few.*120 too_long"):
        part(reader, annotator, data(), [], held_out=0.4)


def test_every_arm_is_trained_measured_and_told(made: Callable[..., Experiment], tmp_path: Path) -> None:
    experiment = made(*ARMS, seeds=2)
    experiment.enter()
    experiment.run()
    found = report(experiment, data="data.jsonl", labelled="labels.jsonl", base="tiny")
    assert [arm.arm for arm in found.arms] == list(ARMS)
    assert set(found.arms[0].sets) == {HELD_OUT, LABELLED, BALANCE}
    assert found.tests[HELD_OUT] == found.arms[0].sets[HELD_OUT].accuracy.pairs
    by_name = {arm.arm: arm for arm in found.arms}
    assert by_name["none"].sets[HELD_OUT].gain is None
    assert by_name["none"].annotation.tokens == 0
    assert by_name["default"].mean_margin == pytest.approx(0.5)
    assert by_name["default-double"].mean_margin == pytest.approx(1.0)
    assert by_name["rule-labels"].mean_margin == 0
    dropped = by_name["default-drop"]
    assert dropped.pairs == found.pairs - dropped.conflicts
    ensemble = next(source for source in found.sources if source.source == "ensemble")
    assert ensemble.making.tokens > 3 * ensemble.reading.tokens * 0.99
    assert found.ratios["default, reading: tokens"] > 1
    page = markdown(found)
    assert page.count("\n| none |") == 2  # figures, and what it is
    assert found.verdict in page
    assert not list((tmp_path / "experiment" / "runs").iterdir())


def test_it_goes_on_where_it_was_ended(made: Callable[..., Experiment], tmp_path: Path) -> None:
    experiment = made("rules", seeds=2)
    experiment.enter()
    experiment.run()
    units = tmp_path / "experiment" / "units"
    before = {path.name: path.read_bytes() for path in units.glob("*.json")}
    again = units / "rules-1.json"
    again.unlink()
    said: list[str] = []
    second = Experiment(**{**experiment.__dict__, "say": said.append})
    second.enter()
    second.run()
    assert [text.split(":")[0] for text in said] == ["units/rules-1"]
    assert experiment.unit("rules", 1).gaps == Unit.model_validate_json(before[again.name]).gaps


def test_a_folder_of_another_experiment_is_refused_but_arms_can_be_added(made: Callable[..., Experiment]) -> None:
    made("rules").enter()
    made("rules", "smoothing", seeds=3).enter()
    with pytest.raises(OtherTraining, match="was made with other k, mean_margin"):
        made("rules", trained=None, mean=1.0).enter()


def test_arms_that_want_rules_want_a_bank(made: Callable[..., Experiment]) -> None:
    with pytest.raises(UnfitRows, match="there is no rule bank for tiny"):
        Experiment(**{**made("rules").__dict__, "bank": None}).enter()
    Experiment(**{**made("legend").__dict__, "bank": None}).enter()


def test_what_another_process_is_at_is_waited_for(
    made: Callable[..., Experiment], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = made("smoothing", seeds=2)
    experiment.enter()
    experiment.run()
    path = tmp_path / "experiment" / "units" / "smoothing-0.json"
    others, said = path.read_bytes(), list[str]()
    path.unlink()
    claim = claimed(path)
    claim.__enter__()

    def sleep(_seconds: float) -> None:  # meanwhile the other one finishes
        path.write_bytes(others)
        claim.__exit__(None, None, None)

    monkeypatch.setattr("workers.experiments.margins.time.sleep", sleep)
    Experiment(**{**experiment.__dict__, "say": said.append}).run()
    assert said == []
    assert path.read_bytes() == others


def test_what_one_process_claims_another_does_not_get(tmp_path: Path) -> None:
    path = tmp_path / "thing.json"
    with claimed(path) as mine, claimed(path) as again:
        assert (mine, again) == (True, False)
    with claimed(path) as later:
        assert later


def test_all_weights_are_trained_where_no_blocks_are_named(made: Callable[..., Experiment], tmp_path: Path) -> None:
    experiment = made(trained=None)
    experiment.enter()
    experiment.run()
    assert not (tmp_path / "experiment" / "trunk.safetensors").exists()
    assert experiment.unit("none", 0).training.tokens > 0


def test_margins_of_zero_are_no_margin(made: Callable[..., Experiment]) -> None:
    experiment = made()
    train, sets = experiment.parts.train, experiment.parts.sets
    zero = with_margins(train, torch.zeros(len(train)))
    plain = experiment.bench.unit(train, sets, {"margin": "none"}, 0, experiment.folder / "a")
    found = experiment.bench.unit(zero, sets, {}, 0, experiment.folder / "b")
    other = experiment.bench.unit(with_margins(train, torch.ones(len(train))), sets, {}, 0, experiment.folder / "c")
    assert found.gaps == plain.gaps
    assert other.gaps != plain.gaps


def test_the_defaults_margins_saw_neither_pair_nor_prompt(annotator: Annotator, base: Path, tmp_path: Path) -> None:
    parts = parts_of(annotator, base, tmp_path)
    pairs = [one.pair for one in parts.train]
    honest = cross_fit(annotator, [PairsSource(recipe="pairs", pairs=pairs)], parts.unseen).margins
    place = 7
    turned = [
        pair if number != place else Pair(prompt=pair.prompt, chosen=pair.rejected, rejected=pair.chosen)
        for number, pair in enumerate(pairs)
    ]
    swapped = cross_fit(annotator, [PairsSource(recipe="pairs", pairs=turned)], parts.unseen).margins
    assert float(swapped[place]) == pytest.approx(-float(honest[place]), rel=1e-6)  # its own label did not matter
    assert not torch.allclose(swapped, honest)  # that of others' did


def test_an_ensemble_is_the_mean_of_its_members() -> None:
    cost = Cost(seconds=2, tokens=10)
    found: Sourced = sources.ensemble([([1.0, -1.0], cost, cost), ([3.0, 0.0], cost, cost)])
    assert found.margins == [2.0, -0.5]
    assert found.making.tokens == 20


def test_rules_say_the_same_of_a_pair_whichever_side_is_which(annotator: Annotator, base: Path, tmp_path: Path) -> None:
    parts = parts_of(annotator, base, tmp_path)
    found = sources.rules(annotator, parts, random_bank(annotator), lambda _done, _total: None)
    assert len(found.margins) == len(parts.train)
    assert any(found.margins)
    assert RULES.rules
