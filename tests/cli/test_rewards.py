"""`safemargin train reward` and `safemargin evaluate reward` with a tiny model."""

import json
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest
from typer.testing import CliRunner, Result

from app.artifacts import Artifacts
from app.registry import Registry
from app.rewards import RewardModels
from app.schemas.rewardreport import RewardReport
from app.schemas.rewards import RewardCard
from app.settings import settings
from cli.main import app
from tests.conftest import random_direction, tiny_annotator
from tests.workers.rewards.conftest import annotated, tiny_language_model
from workers.directions.files import to_files


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_language_model(tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    monkeypatch.setenv("SAFEMARGIN_ARTIFACTS", str(tmp_path / "store"))
    monkeypatch.setenv("SAFEMARGIN_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("SAFEMARGIN_DEVICE", "cpu")
    monkeypatch.setattr("cli.loading.annotator", tiny_annotator)
    settings.cache_clear()
    yield Registry(Artifacts(str(tmp_path / "store")))
    settings.cache_clear()


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    lines = [{**one.pair.model_dump(exclude={"id"}), "margin": one.margin} for one in annotated()]
    path.write_bytes(b"".join(orjson.dumps(line) + b"\n" for line in lines))
    return path


def run(*arguments: object, status: int = 0) -> Result:
    ended = CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "200"})
    assert ended.exit_code == status, ended.output
    return ended


def test_a_model_is_trained_measured_and_goes_on_being_the_same(base: Path, rows: Path, tmp_path: Path) -> None:
    out = tmp_path / "rm"
    trained = run("train", "reward", rows, "--base", base, "--out", out, "--batch", 8, "--conflicts", "flip")
    assert "rm: full of tiny on 22 pairs, 2 held out" in trained.output
    assert "conflicts (flip)" in trained.output
    assert f"stored in {out}" in trained.output
    card = RewardCard.model_validate_json((out / "reward.json").read_bytes())
    assert (card.training.batch, card.training.conflicts, card.training.margin) == (8, "flip", "margin")
    again = run("train", "reward", rows, "--base", base, "--out", out, "--batch", 8, "--conflicts", "flip")
    assert ("train 3/3" in trained.output, "train 3/3" in again.output) == (True, False)
    other = run("train", "reward", rows, "--base", base, "--out", out, "--batch", 4, status=1)
    assert "was made with other conflicts, batch" in other.output

    figures, tables, plots = tmp_path / "report.json", tmp_path / "report.md", tmp_path / "plots"
    measured = run("evaluate", "reward", out, rows, "--json", figures, "--markdown", tables, "--plots", plots)
    report = RewardReport.model_validate_json(figures.read_bytes())
    assert report.model == "rm"
    assert report.sets[0].pairs == 24
    assert f"{report.sets[0].accuracy.value:.3f} [" in measured.output
    assert "rows.jsonl" in tables.read_text()
    assert len(list(plots.iterdir())) == 2


def test_responses_are_chosen_and_judged(base: Path, rows: Path, tmp_path: Path, store: Registry) -> None:
    out, candidates = tmp_path / "rm", tmp_path / "candidates.jsonl"
    run("train", "reward", rows, "--base", base, "--out", out)
    candidates.write_text(json.dumps({"prompt": "What?", "responses": ["oh well", "NO!", "hm"]}) + "\n")
    direction = random_direction(tiny_annotator(), "mine", slope=1.0)
    store.publish("mine", direction.card.digest, to_files(direction))
    by_direction = run("evaluate", "reward", out, "--candidates", candidates, "--judge", "direction:mine")
    assert "direction:mine, in log-odds" in by_direction.output
    by_model = run("evaluate", "reward", out, "--candidates", candidates, "--judge", f"reward:{out}")
    assert "reward:rm, in reward" in by_model.output
    missing = run("evaluate", "reward", out, "--candidates", candidates, status=1)
    assert "there is no direction default for tiny" in missing.output


def test_it_goes_into_the_store_and_is_measured_from_there(
    base: Path, rows: Path, tmp_path: Path, store: Registry
) -> None:
    models, out = RewardModels(store.artifacts), tmp_path / "rm"
    run("train", "reward", rows, "--base", base, "--out", out)
    assert not models.current()
    for name in ("first", "second"):  # without training again
        stored = run("train", "reward", rows, "--base", base, "--out", out, "--id", name)
        assert f"stored in {out} and in {tmp_path / 'store'} as {name}" in stored.output
        assert models.card(name) == RewardCard.model_validate_json((out / "reward.json").read_bytes())
    assert models.card("first").digest != models.card("second").digest
    taken = run("train", "reward", rows, "--base", base, "--out", tmp_path / "other", "--id", "first", status=1)
    assert "a reward model called first exists" in taken.output
    measured = [tmp_path / "folder.json", tmp_path / "store.json"]
    for model, path in zip((out, "second"), measured, strict=True):
        run("evaluate", "reward", model, rows, "--json", path)
    of_folder, of_store = (RewardReport.model_validate_json(path.read_bytes()) for path in measured)
    assert of_store.model == "second"
    assert of_store.sets == of_folder.sets


def test_what_cannot_be_done_is_said(base: Path, rows: Path, tmp_path: Path) -> None:
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text('{"prompt": "a secret", "chosen": "b", "rejected": "c"}\n' * 8)
    ended = run("train", "reward", pairs, "--base", base, "--out", tmp_path / "x", status=1)
    assert "line 1 has no margin" in ended.output
    assert "secret" not in ended.output
    assert "cannot be read" in run("train", "reward", tmp_path / "no", "--base", base, "--out", "x", status=1).output
    assert "no model folder" in run("train", "reward", rows, "--base", "./no", "--out", tmp_path / "x", status=1).output
    assert "lacks score.weight" in run("evaluate", "reward", base, rows, status=1).output
    assert "nothing to measure on" in run("evaluate", "reward", base, status=2).output


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--conflicts", "ignore"), "--conflicts"),
        (("--margin", "none", "--margin-scale", "2"), "--margin-scale: there is no margin to scale"),
        (("--rank", "4"), "--rank: there are no adapters"),
        (("--epochs", "0"), "--epochs"),
    ],
)
def test_options_that_make_no_sense_are_refused(
    base: Path, rows: Path, tmp_path: Path, options: tuple[str, ...], named: str
) -> None:
    ended = run("train", "reward", rows, "--base", base, "--out", tmp_path / "x", *options, status=2)
    assert named in ended.output
    assert not (tmp_path / "x").exists()
