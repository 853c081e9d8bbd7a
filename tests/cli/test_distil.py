"""`safemargin rules distil` with a tiny annotator and an artifact store of its own."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from app.artifacts import Artifacts
from app.rulebanks import CARD, TENSORS, RuleBanks
from app.rulepools import RulePools
from app.schemas.rules import Rule, RulePool
from app.settings import settings
from cli.main import app
from tests.conftest import tiny_annotator
from workers.rules.bank import check_fits, from_files

POOL = RulePool(rules=[Rule(id="no-shouting", category="tone", text="The response does not shout.")])


@pytest.fixture
def banks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RuleBanks]:
    """The banks of a store that has a pool called `mine`; the annotator is a tiny one."""
    monkeypatch.setenv("SAFEMARGIN_ARTIFACTS", str(tmp_path / "store"))
    monkeypatch.setattr("cli.loading.annotator", tiny_annotator)
    settings.cache_clear()
    store = Artifacts(str(tmp_path / "store"))
    RulePools(store).add("mine", POOL)
    yield RuleBanks(store)
    settings.cache_clear()


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Rows of a file: who shouts breaks the rule."""
    path = tmp_path / "rows.jsonl"
    made = []
    for number in range(24):
        text, keeps = (f"WHAT {number}!!!", False) if number % 2 else (f"well {number}", True)
        made.append({"prompt": f"say {number}", "response": text, "rules": {"no-shouting": keeps}})
    path.write_text("".join(json.dumps(row) + "\n" for row in made))
    return path


def distil(*arguments: str, status: int = 0) -> Result:
    ended = CliRunner().invoke(app, ["rules", "distil", *arguments])
    assert ended.exit_code == status, ended.output
    return ended


def test_distil_stores_a_bank_and_says_how_well_it_reads(banks: RuleBanks, rows: Path) -> None:
    ended = distil("--id", "first", "--pool", "mine", "--from", f"rows:{rows}")
    card = banks.card("first")
    assert card.pool_digest == POOL.digest
    assert card.used == 1
    assert "mean held-out AUC 1.000 over 1 rules" in ended.output
    assert "above chance: none" in ended.output
    files = {part: banks.part("first", card.digest, part) for part in (CARD, TENSORS)}
    check_fits(from_files("first", files), tiny_annotator(), POOL)


def test_a_bank_is_replaced_only_where_that_is_asked_for(banks: RuleBanks, rows: Path) -> None:
    arguments = ("--id", "first", "--pool", "mine", "--from", f"rows:{rows}")
    distil(*arguments)
    before = banks.digest("first")
    assert "a bank called first exists; --replace replaces it" in distil(*arguments, status=1).output
    assert banks.digest("first") == before
    distil(*arguments, "--replace")


def test_out_writes_files_and_leaves_the_store_alone(banks: RuleBanks, rows: Path, tmp_path: Path) -> None:
    distil("--id", "first", "--pool", "mine", "--from", f"rows:{rows}", "--out", str(tmp_path / "out"))
    assert sorted(path.name for path in (tmp_path / "out" / "first").iterdir()) == [CARD, TENSORS]
    assert banks.current() == {}


@pytest.mark.parametrize("source", ["hearsay", "rows", "rows:"])
def test_a_source_that_is_none_is_refused(banks: RuleBanks, source: str) -> None:
    distil("--id", "first", "--pool", "mine", "--from", source, status=2)


def test_faults_are_named_and_nothing_is_stored(banks: RuleBanks, rows: Path) -> None:
    assert "there is no rule pool other" in distil("--id", "a", "--pool", "other", status=1).output
    odd = distil("--id", "no/id", "--pool", "mine", status=2).output
    assert "takes letters, digits, dots, dashes and underscores" in " ".join(odd.replace("│", " ").split())
    assert "cannot be read" in distil("--id", "a", "--pool", "mine", "--from", "rows:nowhere", status=1).output
    shipped = distil("--id", "a", "--pool", "mine", status=1).output
    assert "name yours with exchanges:FILE.jsonl" in " ".join(shipped.split())
    rows.write_text('{"prompt": "hi", "response": "a secret", "rules": {"no-shouting": "maybe"}}\n')
    ended = distil("--id", "a", "--pool", "mine", "--from", f"rows:{rows}", status=1)
    assert "line 1: rules.no-shouting" in ended.output
    assert "secret" not in ended.output
    assert banks.current() == {}
