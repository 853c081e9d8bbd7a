"""`safemargin train rahf-scit` as a user runs it: the real annotator, few pairs, and shallow layers to be quick."""

from pathlib import Path

import orjson
import pytest

from app.alignments import REPORT, Alignments
from app.artifacts import Artifacts
from app.registry import Registry
from app.schemas.alignment import AlignmentReport
from tests.cli.examples import ended_well, varied

pytestmark = pytest.mark.real

QUICK = ("instruct.epochs=1", "collect.layers=[2,3]", "collect.of=30", "align.steps=4", "align.batch=4")


def test_the_annotator_is_taught_read_and_aligned(home: Path, tmp_path: Path) -> None:
    data, store = tmp_path / "mine.jsonl", tmp_path / "store"
    data.write_bytes(b"\n".join(map(orjson.dumps, varied(64))))
    settings = [part for change in QUICK for part in ("--set", change)]
    ended_well(home, store, "train", "rahf-scit", str(data), "--id", "mine", *settings)
    artifacts = Artifacts(str(store))
    alignments = Alignments(artifacts)
    card, direction = alignments.card("mine"), Registry(artifacts).card("mine")
    assert (card.model, card.blocks) == ("SmolLM2-135M-Instruct", [1, 2])
    assert direction.alignment is not None
    assert (direction.alignment.id, direction.alignment.digest) == ("mine", card.digest)
    report = AlignmentReport.model_validate_json(alignments.part("mine", card.digest, REPORT))
    taught, patterns, aligned = report.stages
    assert [stage.stage for stage in report.stages] == ["instruct", "collect", "align"]
    assert sum(taught.losses[-2:]) < sum(taught.losses[:2])
    assert patterns.items == aligned.items == report.other_pairs
    assert len(aligned.losses) == 4
