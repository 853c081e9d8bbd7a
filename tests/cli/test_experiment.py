"""`safemargin experiment margins` with a tiny model."""

from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest
from typer.testing import CliRunner, Result

from app.schemas.marginreport import MarginReport
from app.settings import settings
from cli.main import app
from tests.conftest import tiny_annotator
from tests.workers.rewards.conftest import tiny_language_model

HOW = ("--arms", "smoothing", "--seeds", 1, "--balance-pairs", 20, "--blocks", 2, "--trained", 1, "--max-length", 1024)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base") / "tiny"
    return tiny_language_model(folder, num_hidden_layers=3, max_position_embeddings=1024)


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("SAFEMARGIN_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("SAFEMARGIN_DEVICE", "cpu")
    monkeypatch.setattr("cli.loading.annotator", lambda: tiny_annotator(max_position_embeddings=1024))
    settings.cache_clear()
    yield
    settings.cache_clear()


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    pairs = [{"prompt": f"What of {n}?", "chosen": f"oh well {n}", "rejected": f"NO! {n}"} for n in range(110)]
    path.write_bytes(b"".join(orjson.dumps(pair) + b"\n" for pair in pairs))
    return path


def run(*arguments: object, status: int = 0) -> Result:
    given = ["experiment", "margins", *map(str, arguments)]
    ended = CliRunner().invoke(app, given, env={"COLUMNS": "200"})
    assert ended.exit_code == status, ended.output
    return ended


def test_arms_are_compared_and_nothing_is_made_twice(base: Path, rows: Path, tmp_path: Path) -> None:
    out = tmp_path / "experiment"
    first = run(rows, "--out", out, "--base", base, *HOW)
    assert "units/none-0:" in first.output
    assert "units/smoothing-0:" in first.output
    found = MarginReport.model_validate_json((out / "report.json").read_bytes())
    assert [arm.arm for arm in found.arms] == ["none", "smoothing"]
    assert found.base == f"the first 2 blocks of {base}, the last 1 trained"
    assert found.verdict in first.output
    assert "| smoothing |" in (out / "report.md").read_text()
    again = run(rows, "--out", out, "--base", base, *HOW)
    assert "units/none-0:" not in again.output
    other = run(rows, "--out", out, "--base", base, *HOW, "--mean-margin", 2, status=1)
    assert "was made with other mean_margin" in other.output


def test_what_cannot_be_is_said_by_its_name(base: Path, rows: Path, tmp_path: Path) -> None:
    out = ("--out", tmp_path / "experiment", "--base", base)
    assert "there is no arm magic; there are none, legend" in run(rows, *out, "--arms", "magic", status=2).output
    assert "--learning-rate" in run(rows, *out, "--learning-rate", 7, status=2).output
    assert "has 3 blocks, not 9" in run(rows, *out, "--blocks", 9, status=1).output
    assert "nowhere.jsonl" in run("nowhere.jsonl", *out, status=1).output
    assert "too few" in run(rows, *out, "--max-length", 10, status=1).output
    assert "only fewer can be trained alone" in run(rows, *out, "--arms", "none", "--trained", 3, status=1).output
