"""The picture of the losses: a panel for each stage that was trained."""

from pathlib import Path

import pytest

from app.schemas.alignment import StageFigures
from workers.alignment.curves import draw


def stage(name: str, losses: list[float]) -> StageFigures:
    unit = f"loss of {name}" if losses else None
    return StageFigures(
        stage="align", name=name, items=3, refused=0, cut=0, tokens=9, seconds=1.0, losses=losses, unit=unit
    )


def test_every_stage_that_was_trained_is_shown(tmp_path: Path) -> None:
    draw([stage("taught", [3.0, 2.0, 1.0]), stage("patterns", []), stage("aligned", [1.0])], tmp_path / "curves.svg")
    svg = (tmp_path / "curves.svg").read_text()
    for text in ("step, taught", "loss of taught", "step, aligned", "loss of aligned"):
        assert f">{text}<" in svg
    assert "patterns" not in svg


@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf"])
def test_every_format_is_written(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"curves{suffix}"
    draw([stage("taught", [float(loss) for loss in range(50)])], path)
    assert path.stat().st_size > 1000
