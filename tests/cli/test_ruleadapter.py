"""`safemargin train rule-adapter` with a tiny annotator and an artifact store of its own."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from app.artifacts import Artifacts
from app.ruleadapters import CARD, TENSORS, RuleAdapters
from app.rulebanks import RuleBanks
from app.rulepools import RulePools
from app.schemas.rules import Rule, RulePool
from app.settings import settings
from cli.main import app
from tests.workers.rules.adapting.conftest import telling_pairs
from tests.workers.rules.conftest import roomy_annotator
from tests.workers.rules.test_bank import POOL, made
from workers.rules.adapting.adapter import check_fits, from_files
from workers.rules.bank import to_files

OTHERS = RulePool(rules=[Rule(id="calm", category="tone", text="The response stays calm.")])


@pytest.fixture(scope="module")
def bank_files() -> tuple[str, dict[str, bytes]]:
    bank = made(roomy_annotator())
    return bank.card.digest, to_files(bank)


@pytest.fixture
def adapters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bank_files: tuple[str, dict[str, bytes]]
) -> Iterator[RuleAdapters]:
    """The rule adapters of a store that has the pool `tiny` and its bank `mine`, and the pool `others`."""
    monkeypatch.setenv("SAFEMARGIN_ARTIFACTS", str(tmp_path / "store"))
    monkeypatch.setattr("cli.loading.annotator", roomy_annotator)
    settings.cache_clear()
    store = Artifacts(str(tmp_path / "store"))
    RulePools(store).add("tiny", POOL)
    RulePools(store).add("others", OTHERS)
    RuleBanks(store).publish("mine", *bank_files)
    yield RuleAdapters(store)
    settings.cache_clear()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(pair.model_dump_json(exclude_none=True) + "\n" for pair in telling_pairs()))
    return path


def train(data: Path, *arguments: str, status: int = 0) -> Result:
    given = ["train", "rule-adapter", str(data), "--id", "first", "--pool", "tiny", "--k", "1", *arguments]
    ended = CliRunner().invoke(app, given, env={"COLUMNS": "200"})
    assert ended.exit_code == status, ended.output
    return ended


@pytest.mark.parametrize("kind", [("head",), ("lora", "--epochs", "1", "--rank", "2")], ids=lambda kind: kind[0])
def test_an_adapter_is_stored_and_its_figures_are_shown(
    adapters: RuleAdapters, data: Path, kind: tuple[str, ...]
) -> None:
    ended = train(data, "--bank", "mine", "--kind", *kind)
    card = adapters.card("first")
    assert (card.kind, card.bank, card.policy, card.k) == (kind[0], "mine", "published", 1)
    assert f"first: {kind[0]} on tiny" in ended.output
    for text in ("P@1", "recall@1", "adapter", "frequent", "critical", "all", "chance P@1", "calibrat"):
        assert text in ended.output
    files = {part: adapters.part("first", card.digest, part) for part in (CARD, TENSORS)}
    check_fits(from_files("first", files), roomy_annotator(), POOL)


def test_the_newest_bank_that_fits_teaches_where_none_is_named(adapters: RuleAdapters, data: Path) -> None:
    train(data)
    assert adapters.card("first").bank == "mine"


def test_the_pool_of_a_named_bank_is_taken_where_none_is_named(adapters: RuleAdapters, data: Path) -> None:
    given = ["train", "rule-adapter", str(data), "--id", "first", "--bank", "mine", "--k", "1", "--epochs", "1"]
    ended = CliRunner().invoke(app, given)
    assert ended.exit_code == 0, ended.output
    assert adapters.card("first").pool == "tiny"


def test_an_adapter_is_replaced_only_where_that_is_asked_for(adapters: RuleAdapters, data: Path) -> None:
    train(data, "--bank", "mine")
    again = train(data, "--bank", "mine", status=1)
    assert "a rule adapter called first exists; --replace replaces it" in again.output
    train(data, "--bank", "mine", "--replace", "--limit", "44")
    assert adapters.card("first").settings["pairs"] == 44


def test_out_writes_files_and_leaves_the_store_alone(adapters: RuleAdapters, data: Path, tmp_path: Path) -> None:
    train(data, "--bank", "mine", "--out", str(tmp_path / "out"))
    folder = tmp_path / "out" / "first"
    assert sorted(path.name for path in folder.iterdir()) == sorted([CARD, TENSORS])
    assert json.loads((folder / CARD).read_bytes())["id"] == "first"
    assert adapters.current() == {}


def test_faults_are_named_and_nothing_is_stored(adapters: RuleAdapters, data: Path) -> None:
    refused = {
        "--bank: goes with the rater `probes` only": (2, ["--rater", "logits", "--bank", "mine"]),
        "--kind": (2, ["--kind", "tail", "--bank", "mine"]),
        "--k: ": (2, ["--bank", "mine", "--k", "0"]),
        "--rank: ": (2, ["--bank", "mine", "--rank", "4"]),
        "there is no rule bank nothing; `safemargin rules distil` makes one": (1, ["--bank", "nothing"]),
        "was made for pool tiny, not for pool others": (1, ["--bank", "mine", "--pool", "others"]),
        "there is no rule pool nowhere": (1, ["--bank", "mine", "--pool", "nowhere"]),
        "10 pairs are too few": (1, ["--bank", "mine", "--limit", "10"]),
    }
    for reason, (status, arguments) in refused.items():
        assert reason in " ".join(train(data, *arguments, status=status).output.replace("│", " ").split())
    data.write_text('{"prompt": "a secret", "chosen": "b"}\n')
    ended = train(data, "--bank", "mine", status=1)
    assert "line 1: rejected" in ended.output
    assert "secret" not in ended.output
    assert adapters.current() == {}
