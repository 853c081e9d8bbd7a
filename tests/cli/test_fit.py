"""`safemargin directions fit` as a user runs it: the real annotator, a few pairs, a store of its own."""

from pathlib import Path

import orjson
import pytest
import torch

from app.artifacts import Artifacts
from app.registry import CARD, CONTROL_VECTOR, PAGE, REPORT, TENSORS, Registry
from app.schemas.report import DirectionReport
from tests.cli.examples import ended_well, varied
from workers.directions.files import from_files
from workers.engine.sites import Site

pytestmark = pytest.mark.real


def test_a_fit_is_stored_with_its_report_and_becomes_the_default(home: Path, tmp_path: Path) -> None:
    data, store = tmp_path / "mine.jsonl", tmp_path / "store"
    data.write_bytes(b"\n".join(map(orjson.dumps, varied(24))))
    options = ["--source", f"pairs:{data}", "--layers", "1", "--read-layers", "1", "--levels", "3", "--default"]
    ended = ended_well(home, store, "directions", "fit", "--id", "mine", *options)
    assert "mine: pairs on SmolLM2-135M-Instruct, layer/pooling 1/mean, 1/end_of_turn" in ended.stdout
    assert f"stored in {store}" in ended.stdout
    registry = Registry(Artifacts(str(store)))
    card = registry.card("mine")
    assert registry.defaults() == {card.model_revision: "mine"}
    assert card.settings["rows"] == 24
    assert card.slope is not None
    assert len(card.level_edges) == 2
    assert card.should_respond is not None
    assert card.should_refuse is not None
    parts = {name: registry.part("mine", card.digest, name) for name in (CARD, TENSORS, REPORT, PAGE, CONTROL_VECTOR)}
    direction = from_files("mine", parts)
    assert direction.sites == (Site(1, "mean"), Site(1, "end_of_turn"))
    assert torch.isfinite(direction.vectors).all()
    report = DirectionReport.model_validate_json(parts[REPORT])
    assert report.card == card
    assert report.swap_error is not None
    assert report.swap_error < 0.5
