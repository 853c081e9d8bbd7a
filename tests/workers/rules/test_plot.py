"""The picture of a report: a panel for each rater, a line for each policy."""

from pathlib import Path

import pytest

from app.schemas.directions import Accuracy
from app.schemas.evaluation import EVALUATED, PolicyFigure, PolicyReport
from app.schemas.judging import PolicyName, RaterName
from workers.rules.plot import FORMATS, draw


def figure(policy: PolicyName, k: int, rater: RaterName) -> PolicyFigure:
    accuracy = Accuracy(value=0.6 + k / 1000, low=0.5, high=0.7, pairs=20, prompts=20)
    return PolicyFigure(
        policy=policy, k=k, rater=rater, accuracy=accuracy, gain=None, ties=0.0, slope=None, calibration_error=None
    )


def report(*raters: RaterName) -> PolicyReport:
    figures = [figure(policy, k, rater) for rater in raters for policy in EVALUATED for k in (1, 5)]
    return PolicyReport(
        data="mine.jsonl",
        pairs=dict.fromkeys(raters, 20),
        skipped=dict.fromkeys(raters, 0),
        pool="mine",
        pool_digest="sha256:pool",
        model="tiny",
        model_revision="sha256:tiny",
        bank=None,
        bank_digest=None,
        protocol="by hand",
        figures=figures,
        version="0",
    )


def test_every_policy_and_rater_is_named(tmp_path: Path) -> None:
    draw(report("probes", "logits"), tmp_path / "report.svg")
    svg = (tmp_path / "report.svg").read_text()
    for text in (*EVALUATED, "critical rules k, probes", "critical rules k, logits", "pair accuracy, mine.jsonl"):
        assert f">{text}<" in svg
    assert svg.count(">robust<") == 1


@pytest.mark.parametrize("suffix", FORMATS)
def test_every_format_is_written(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"report{suffix}"
    draw(report("probes"), path)
    assert path.stat().st_size > 1000
