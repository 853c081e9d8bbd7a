"""`safemargin rules` on an artifact store of its own."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from app.artifacts import Artifacts
from app.rulebanks import CARD, RuleBanks
from app.rulepools import RulePools
from app.settings import settings
from cli.main import app
from tests.app.test_rulebanks import card

CALM = "rules: [{id: calm, category: tone, text: The response stays calm.}]"
POLITE = "rules: [{id: polite, category: tone, text: The response is polite.}]"


@pytest.fixture
def pools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RulePools]:
    """The pools that the command line finds in its environment."""
    monkeypatch.setenv("SAFEMARGIN_ARTIFACTS", str(tmp_path / "store"))
    monkeypatch.setenv("COLUMNS", "200")
    settings.cache_clear()
    yield RulePools(Artifacts(str(tmp_path / "store")))
    settings.cache_clear()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(CALM)
    return path


def safemargin(*arguments: str, status: int = 0) -> Result:
    ended = CliRunner().invoke(app, ["rules", *arguments])
    assert ended.exit_code == status, ended.output
    return ended


def test_add_stores_a_pool_under_the_name_of_its_file_and_prints_its_digest(pools: RulePools, file: Path) -> None:
    ended = safemargin("add", str(file))
    assert ended.stdout.strip() == f"mine: {pools.digest('mine')}"
    assert [rule.id for rule in pools.pool("mine").rules] == ["calm"]


def test_add_takes_another_name(pools: RulePools, file: Path) -> None:
    safemargin("add", str(file), "--id", "ours")
    assert list(pools.current()) == ["ours"]


def test_add_replaces_other_rules_only_where_it_is_told_to(pools: RulePools, file: Path) -> None:
    safemargin("add", str(file))
    safemargin("add", str(file))
    file.write_text(POLITE)
    assert "--replace" in safemargin("add", str(file), status=1).stderr
    assert pools.pool("mine").rules[0].id == "calm"
    safemargin("add", str(file), "--replace")
    assert pools.pool("mine").rules[0].id == "polite"


def test_add_says_which_field_is_wrong(pools: RulePools, file: Path) -> None:
    file.write_text(CALM.replace("The response stays calm.", '""'))
    assert "/rules/0/text" in safemargin("add", str(file), status=1).stderr
    assert pools.current() == {}


def test_add_refuses_a_name_that_cannot_be_an_id(pools: RulePools, file: Path) -> None:
    refused = safemargin("add", str(file), "--id", "../x", status=2)
    assert "takes letters, digits, dots, dashes and underscores" in refused.output
    assert "../x" not in refused.output
    assert pools.current() == {}


def test_list_shows_every_pool(pools: RulePools, file: Path) -> None:
    safemargin("add", str(file))
    listed = safemargin("list").stdout
    assert "mine" in listed
    assert pools.digest("mine")[:19] in listed


def test_show_prints_a_pool_as_json(pools: RulePools, file: Path) -> None:
    safemargin("add", str(file))
    assert json.loads(safemargin("show", "mine").stdout) == pools.pool("mine").model_dump()


def test_delete_deletes(pools: RulePools, file: Path) -> None:
    safemargin("add", str(file))
    safemargin("delete", "mine")
    assert pools.current() == {}


def test_a_pool_that_a_bank_needs_may_be_replaced_but_not_deleted(pools: RulePools, file: Path) -> None:
    safemargin("add", str(file))
    made = card("probes").model_copy(update={"pool_digest": pools.digest("mine")})
    RuleBanks(pools.artifacts).publish("probes", made.digest, {CARD: made.model_dump_json().encode()})
    assert "1 rule bank (probes) would be of no use" in safemargin("delete", "mine", status=1).stderr
    file.write_text(POLITE)
    assert "fit for use no more: 1 rule bank (probes)" in safemargin("add", str(file), "--replace").stderr
    assert list(pools.current()) == ["mine"]
    RuleBanks(pools.artifacts).delete("probes")
    safemargin("delete", "mine")
    assert pools.current() == {}


@pytest.mark.parametrize("command", ["show", "delete"])
def test_a_pool_that_is_not_there_is_said_to_be(pools: RulePools, command: str) -> None:
    assert "there is no rule pool nothing" in safemargin(command, "nothing", status=1).stderr
