"""A reward model's report: figures, tables, pictures."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from app.schemas.pairs import Pair
from app.schemas.rewardreport import RewardReport
from tests.workers.rewards.conftest import annotated
from tests.workers.rewards.test_bestofn import CANDIDATES
from tests.workers.rewards.test_model import tiny_classifier
from workers.directions.balance import Balance, balance
from workers.rewards.annotated import Annotated, AnnotatedFile
from workers.rewards.bestofn import RewardJudge, best_of_n
from workers.rewards.errors import UnfitRows
from workers.rewards.evaluating import evaluate, pair_figures
from workers.rewards.markdown import markdown
from workers.rewards.model import RewardModel, load_reward_model
from workers.rewards.plots import draw


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> RewardModel:
    folder = tmp_path_factory.mktemp("classifier")
    return load_reward_model(str(tiny_classifier(folder / "tiny-rm")), folder, device="cpu", dtype="float32")


def test_figures_are_those_of_the_rewards(model: RewardModel) -> None:
    pairs = annotated(22, prompts=11)
    long = Annotated(99, Pair(prompt="Hm?", chosen="on " * 300, rejected="no"), 1.0)
    figures = pair_figures(model, AnnotatedFile("pairs.jsonl", [*pairs, long]))
    gaps = []
    for one in pairs:
        sides = [model.encode(one.pair.messages, side) for side in (one.pair.chosen, one.pair.rejected)]
        chosen, rejected = model.rewards(sides).tolist()
        gaps.append(chosen - rejected)
    assert (figures.pairs, figures.refused) == (22, {"too_long": 1})
    assert figures.accuracy.value == pytest.approx(sum(gap > 0 for gap in gaps) / 22)
    assert figures.accuracy.prompts == 11
    assert figures.loss == pytest.approx(float(torch.nn.functional.softplus(-torch.tensor(gaps)).mean()), abs=1e-5)
    assert sum(part.count for part in figures.reliability) == 22
    assert figures.quantiles_of == "margin"
    assert sum(part.accuracy.pairs for part in figures.quantiles) == 22
    assert (figures.quantiles[0].low, figures.quantiles[-1].high) == (-1.0, 1.5)


def test_without_margins_quantiles_are_of_the_distance_of_rewards(model: RewardModel) -> None:
    pairs = [Annotated(one.line, one.pair, subset="donotanswer") for one in annotated(20)]
    figures = pair_figures(model, AnnotatedFile("bench.jsonl", pairs))
    assert figures.quantiles_of == "reward difference"
    assert figures.quantiles[0].low >= 0
    assert [one.subset for one in figures.subsets] == ["donotanswer"]
    assert figures.sections[0].accuracy.value == figures.accuracy.value


def test_the_balance_set_tells_over_refusal(model: RewardModel, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = balance()
    places = [
        *torch.nonzero(whole.benign).flatten()[:10].tolist(),
        *torch.nonzero(~whole.benign).flatten()[:5].tolist(),
    ]
    small = Balance(
        [whole.pairs[place] for place in places], [whole.families[place] for place in places], whole.benign[places]
    )
    monkeypatch.setattr("workers.rewards.evaluating.balance", lambda: small)
    model = replace(model, window=2048)
    report = evaluate(model, [], with_balance=True)
    assert report.should_respond is not None
    assert report.should_refuse is not None
    assert (report.should_respond.pairs, report.should_refuse.pairs) == (10, 5)
    for figure, some in ((report.should_respond, small.pairs[:10]), (report.should_refuse, small.pairs[10:])):
        file = AnnotatedFile("side", [Annotated(line, pair) for line, pair in enumerate(some)])
        assert figure.value == pair_figures(model, file).accuracy.value


def test_pairs_that_cannot_be_read_leave_nothing(model: RewardModel) -> None:
    long = Annotated(1, Pair(prompt="Hm?", chosen="on " * 300, rejected="no"))
    with pytest.raises(UnfitRows, match=r"none of 1 pairs of long\.jsonl can be read"):
        evaluate(model, [AnnotatedFile("long.jsonl", [long])])


@pytest.fixture(scope="module")
def report(model: RewardModel) -> RewardReport:
    bench = [Annotated(one.line, one.pair, subset="donotanswer") for one in annotated(20)]
    files = [AnnotatedFile("pairs.jsonl", annotated(20)), AnnotatedFile("bench.jsonl", bench)]
    return evaluate(model, files, best=best_of_n(model, RewardJudge(model), CANDIDATES, "candidates.jsonl"))


def test_the_tables_say_what_the_report_says(report: RewardReport) -> None:
    text = markdown(report)
    accuracy = report.sets[0].accuracy
    assert f"| {accuracy.value:.3f} [{accuracy.low:.3f}, {accuracy.high:.3f}] |" in text
    assert "**Safety** of RewardBench, without refusals-dangerous, " in text
    assert "## Best of 3 on 5 prompts of candidates.jsonl, judged by reward:tiny-rm, in reward" in text
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert all(line.endswith("|") for line in lines)
    assert "None" not in text


def test_there_are_two_pictures_for_each_set(report: RewardReport, tmp_path: Path) -> None:
    made = draw(report, tmp_path / "plots")
    assert [path.name for path in made] == [
        f"{stem}-{kind}.png" for stem in ("pairs", "bench") for kind in ("reliability", "quantiles")
    ]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in made)


def test_a_report_survives_its_own_json(report: RewardReport) -> None:
    assert RewardReport.model_validate_json(report.model_dump_json()) == report
