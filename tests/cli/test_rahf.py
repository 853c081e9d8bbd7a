"""`safemargin train rahf-scit` and `rahf-dual` with a tiny annotator and an artifact store of its own."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner, Result

from app.alignments import CARD, CURVES, REPORT, Alignments
from app.artifacts import Artifacts
from app.registry import Registry
from app.schemas.alignment import AlignmentReport
from app.settings import settings
from cli.main import app
from tests.conftest import publish, random_direction
from tests.workers.alignment.conftest import pairs
from tests.workers.rules.conftest import roomy_annotator
from workers.alignment import contrast
from workers.directions.balance import balance
from workers.engine.lora import TENSORS

SHORT = (
    "instruct.epochs=1", "instruct.batch=8", "instruct.lora.rank=2", 'instruct.lora.targets=["q_proj", "v_proj"]',
    "align.steps=4", "align.batch=4",
)  # fmt: skip


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Artifacts]:
    """The artifact store that the command line finds; the balance set takes seconds, and is read elsewhere."""
    monkeypatch.setenv("SAFEMARGIN_ARTIFACTS", str(tmp_path / "store"))
    monkeypatch.setenv("SAFEMARGIN_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("cli.loading.annotator", roomy_annotator)
    places = torch.arange(len(balance().pairs))
    monkeypatch.setattr(contrast, "balance_margins", lambda *_given: (torch.ones(len(places)).double(), places))
    settings.cache_clear()
    yield Artifacts(str(tmp_path / "store"))
    settings.cache_clear()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(pair.model_dump_json(exclude_none=True) + "\n" for pair in pairs(60)))
    return path


def train(data: Path, *arguments: str, method: str = "rahf-dual", status: int = 0) -> Result:
    short = [part for change in SHORT for part in ("--set", change)]
    given = ["train", method, str(data), "--id", "first", *short, *arguments]
    ended = CliRunner().invoke(app, given, env={"COLUMNS": "200"})
    assert ended.exit_code == status, ended.output
    return ended


def said(ended: Result) -> str:
    return " ".join(ended.output.replace("│", " ").split())


@pytest.mark.parametrize("method", ["rahf-scit", "rahf-dual"])
def test_alignment_and_direction_are_stored_and_their_figures_shown(
    store: Artifacts, data: Path, tmp_path: Path, method: str
) -> None:
    ended = train(data, method=method)
    card, direction = Alignments(store).card("first"), Registry(store).card("first")
    assert direction.alignment is not None
    assert direction.alignment.digest == card.digest
    report = AlignmentReport.model_validate_json(Alignments(store).part("first", card.digest, REPORT))
    output = said(ended)
    assert f"first: {method} on tiny, 36 pairs, 24 of other prompts" in output
    for made in (card, direction):
        a = made.readings[0].accuracy
        assert f"{a.value:.3f} [{a.low:.3f}, {a.high:.3f}]" in output
    for stage in report.stages:
        assert stage.name in output
        assert not stage.losses or f"{stage.losses[0]:.3f} {stage.losses[-1]:.3f}" in output
    where = tmp_path / "store" / "alignments" / "first" / card.digest.removeprefix("sha256:")
    assert f"stored in {where}, loss curves in its {CURVES}" in output
    assert (where / CURVES).exists()
    assert not (tmp_path / "home" / "runs" / "first").exists()


def test_stages_and_losses_are_told_while_it_works(store: Artifacts, data: Path) -> None:
    lines = train(data).stderr.splitlines()
    for begin in ("instruct 10/10 loss ", "collect 24/24", "align 4/4 loss ", "measure 1072/1072"):
        assert any(line.startswith(begin) for line in lines), lines


def test_stages_run_one_by_one_in_a_folder_and_come_to_the_same(store: Artifacts, data: Path, tmp_path: Path) -> None:
    train(data)
    card = Alignments(store).card("first")
    whole = {name: Alignments(store).part("first", card.digest, name) for name in card.files if name.endswith(TENSORS)}
    folder = ("--folder", str(tmp_path / "run"))
    for stage in ("instruct", "collect", "align"):
        ended = train(data, *folder, "--stage", stage, "--replace")
        assert f"{stage} is finished in {tmp_path / 'run'}" in ended.output
    assert Alignments(store).card("first") == card
    last = train(data, *folder, "--replace")
    assert not [line for line in last.stderr.splitlines() if not line.startswith("measure")]
    again = Alignments(store).card("first")
    assert {name: Alignments(store).part("first", again.digest, name) for name in whole} == whole
    assert (tmp_path / "run" / CURVES).exists()


def test_a_stage_whose_forerunner_is_not_finished_says_so(store: Artifacts, data: Path) -> None:
    ended = train(data, "--stage", "collect", status=1)
    assert "preferred is not finished: instruct comes before collect" in ended.stderr


def test_other_settings_in_the_same_folder_are_refused(store: Artifacts, data: Path) -> None:
    train(data, "--stage", "instruct")
    ended = train(data, "--stage", "instruct", "--set", "instruct.clip=0.5", status=1)
    assert "was made with other settings.instruct.clip: choose another folder" in said(ended)


def test_an_id_that_is_taken_is_replaced_only_where_that_is_asked_for(store: Artifacts, data: Path) -> None:
    publish(Registry(store), random_direction(roomy_annotator(), "first"))
    ended = train(data, status=1)
    assert "another direction is called first; --replace replaces it" in ended.stderr
    train(data, "--replace")
    ended = train(data, status=1)
    assert "another alignment is called first; --replace replaces it" in ended.stderr


def test_out_writes_files_and_leaves_the_store_alone(store: Artifacts, data: Path, tmp_path: Path) -> None:
    ended = train(data, "--out", str(tmp_path / "out"))
    folder = tmp_path / "out" / "first"
    assert {path.name for path in folder.iterdir()} == {
        "preferred", "dispreferred", "aligned", "direction", CARD, REPORT, CURVES,
    }  # fmt: skip
    assert json.loads((folder / "direction" / "direction.json").read_bytes())["alignment"]["id"] == "first"
    assert (folder / "aligned" / TENSORS).exists()
    assert f"stored in {folder}" in said(ended)
    assert (Alignments(store).current(), Registry(store).current()) == ({}, {})


def test_a_preset_of_ones_own(store: Artifacts, data: Path, tmp_path: Path) -> None:
    from app.rahf import FOLDER

    mine = tmp_path / "mine.yml"
    mine.write_text((FOLDER / "small.yml").read_text().replace("alpha: 5", "alpha: 2"))
    train(data, "--preset", str(mine))
    card = Alignments(store).card("first")
    report = AlignmentReport.model_validate_json(Alignments(store).part("first", card.digest, REPORT))
    assert report.settings.align.alpha == 2


def test_faults_are_named_and_nothing_is_stored(store: Artifacts, data: Path) -> None:
    refused = {
        "takes letters, digits": (2, ["--id", "../x"]),
        "takes PATH=VALUE": (2, ["--set", "align.alpha"]),
        "small: rahf-dual: /align/alpha: ": (1, ["--set", "align.alpha=much"]),
        "small: rahf-dual: /nose: ": (1, ["--set", "nose.long=1"]),
        "nowhere.yml cannot be read": (1, ["--preset", "nowhere.yml"]),
        "no linear layers called nose": (1, ["--set", 'instruct.lora.targets=["nose"]']),
        "12 pairs are too few to calibrate on; at least 20 are needed": (1, ["--limit", "30"]),
    }
    for reason, (status, arguments) in refused.items():
        assert reason in said(train(data, *arguments, status=status))
    data.write_text('{"prompt": "a secret", "chosen": "b"}\n')
    ended = train(data, status=1)
    assert "line 1: rejected" in ended.output
    assert "secret" not in ended.output
    assert (Alignments(store).current(), Registry(store).current()) == ({}, {})
