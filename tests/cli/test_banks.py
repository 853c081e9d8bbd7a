"""`safemargin rules bank` on an artifact store of its own."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from app.artifacts import Artifacts
from app.rulebanks import CARD, RuleBanks
from app.schemas.directions import Accuracy
from app.schemas.judging import PolicyName
from app.schemas.rulebanks import Auc, BankCard, PolicyReading, ProbeCard
from app.settings import settings
from cli.banks import policies
from cli.main import app

ACCURACY = Accuracy(value=0.6, low=0.5, high=0.7, pairs=20, prompts=20)


def probe(rule: str, area: float | None) -> ProbeCard:
    keeps = None if area is None else Auc(value=area, low=area - 0.1, high=1.0, above=8, below=8)
    return ProbeCard(rule=rule, keeps=keeps, relevant=None, noise=0.1, used=keeps is not None and keeps.low > 0.5)


def reading(policy: PolicyName, k: int) -> PolicyReading:
    return PolicyReading(policy=policy, k=k, slope=1.0, accuracy=ACCURACY, calibration_error=0.1, data="mine")


CARD_OF_FIRST = BankCard.model_validate(
    {
        "id": "first",
        "digest": "sha256:" + "0" * 64,
        "pool": "safety-100",
        "pool_digest": "sha256:pool",
        "model": "tiny",
        "model_revision": "sha256:tiny",
        "template": "sha256:template",
        "sites": [{"layer": 2, "pooling": "mean"}],
        "rules": [probe("a", 0.9), probe("b", 0.8), probe("c", 0.52), probe("d", None)],
        "source": "exchanges",
        "protocol": "by hand",
        "readings": [reading("all", 4), reading("robust", 3), reading("robust", 5)],
        "created": "2026-01-01",
        "version": "0",
    }
)


@pytest.fixture
def banks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RuleBanks]:
    """The store that the command line finds in its environment, with one bank."""
    monkeypatch.setenv("SAFEMARGIN_ARTIFACTS", str(tmp_path / "store"))
    monkeypatch.setenv("COLUMNS", "200")
    settings.cache_clear()
    banks = RuleBanks(Artifacts(str(tmp_path / "store")))
    banks.publish("first", CARD_OF_FIRST.digest, {CARD: CARD_OF_FIRST.model_dump_json().encode()})
    yield banks
    settings.cache_clear()


def safemargin(*arguments: str, status: int = 0) -> Result:
    ended = CliRunner().invoke(app, ["rules", "bank", *arguments])
    assert ended.exit_code == status, ended.output
    return ended


def test_list_says_how_well_each_bank_reads_and_which_policies_are_calibrated(banks: RuleBanks) -> None:
    (line,) = [line for line in safemargin("list").output.splitlines() if "first" in line]
    cells = [cell.strip() for cell in line.strip("│").split("│")]
    assert cells == ["first", "safety-100", "tiny", "2 of 4", "0.740", "all, robust k 3,5"]


def test_policies_of_the_same_numbers_share_them() -> None:
    readings = [reading(policy, k) for policy in ("random", "robust") for k in (5, 1)]
    assert policies([*readings, reading("relevance", 3)]) == "random/robust k 1,5, relevance k 3"
    assert policies([]) == ""


def test_a_bank_whose_card_is_damaged_hurts_no_other(banks: RuleBanks) -> None:
    banks.publish("broken", CARD_OF_FIRST.digest, {CARD: b"nonsense"})
    listed = safemargin("list").output
    assert "first" in listed
    assert "broken" not in listed
    assert "the card of broken cannot be read" in safemargin("show", "broken", status=1).output


def test_show_prints_the_card(banks: RuleBanks) -> None:
    assert BankCard.model_validate(json.loads(safemargin("show", "first").output)) == CARD_OF_FIRST


def test_a_deleted_bank_is_gone(banks: RuleBanks) -> None:
    safemargin("delete", "first")
    assert banks.current() == {}
    for command in ("show", "delete"):
        assert "there is no rule bank first" in safemargin(command, "first", status=1).output
