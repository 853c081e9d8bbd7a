"""The bank that comes with the service, and how it gets into a store."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from app.artifacts import Artifacts
from app.rulebanks import RuleBanks
from app.schemas.judging import SHIPPED_POOL
from tests.conftest import tiny_annotator
from tests.workers.rules.test_bank import made
from workers.directions.files import shipped_default
from workers.engine.annotator import Annotator
from workers.rules import cards as held
from workers.rules.bank import RuleBank, check_fits, from_folder, publish_shipped_banks, sealed, shipped_banks, to_files
from workers.rules.errors import UnusableBank
from workers.rules.pool import shipped_pool

OURS = "safety-100-smollm2"


def default_annotator() -> Annotator:
    """What a bank asks of the annotator that the shipped default direction was made for."""
    card = shipped_default().card
    shape = {"name": card.model, "width": 576, "depth": 30}
    template = SimpleNamespace(digest=card.template)
    return cast(Annotator, SimpleNamespace(revision=card.model_revision, template=template, **shape))


def test_the_shipped_bank_reads_the_shipped_pool_with_the_default_annotator() -> None:
    (bank,) = shipped_banks(default_annotator())
    check_fits(bank, default_annotator(), shipped_pool())
    assert (bank.id, bank.card.pool) == (OURS, SHIPPED_POOL)
    areas = [rule.keeps.value for rule in bank.card.rules if rule.keeps is not None]
    assert len(areas) == len(shipped_pool().rules)
    assert sum(areas) / len(areas) > 0.9
    assert bank.card.used > 80


def test_its_margins_are_calibrated_for_the_policies_that_need_no_list_of_rules() -> None:
    (bank,) = shipped_banks(default_annotator())
    for policy in ("all", "random", "relevance", "discrepancy", "published", "robust"):
        reading = bank.card.reading(policy, 5)
        assert reading is not None
        assert reading.accuracy.pairs == 1160
    assert bank.card.reading("fixed", 5) is None


def test_other_annotators_get_no_shipped_bank() -> None:
    assert shipped_banks(tiny_annotator()) == []


@pytest.fixture
def mine(roomy: Annotator) -> RuleBank:
    return made(roomy)


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mine: RuleBank) -> Path:
    """The folder of what comes with the service: one bank, made for the tiny annotator, and one for another."""
    folder = tmp_path / "shipped"
    foreign = sealed(replace(mine, card=mine.card.model_copy(update={"id": "foreign", "model_revision": "sha256:x"})))
    for bank in (mine, foreign):
        (folder / bank.id).mkdir(parents=True)
        for name, content in to_files(bank).items():
            (folder / bank.id / name).write_bytes(content)
    monkeypatch.setattr(held, "SHIPPED", folder)
    return folder


@pytest.fixture
def banks(tmp_path: Path) -> RuleBanks:
    return RuleBanks(Artifacts(str(tmp_path / "store")))


def test_a_shipped_bank_goes_into_the_store_if_it_fits(
    banks: RuleBanks, roomy: Annotator, shipped: Path, mine: RuleBank
) -> None:
    publish_shipped_banks(banks, roomy)
    assert banks.current() == {mine.id: mine.card.digest}


def test_a_shipped_bank_that_was_deleted_stays_deleted(banks: RuleBanks, roomy: Annotator, shipped: Path) -> None:
    publish_shipped_banks(banks, roomy)
    banks.delete("mine")
    publish_shipped_banks(banks, roomy)
    assert banks.current() == {}


def test_a_bank_of_ones_own_is_not_overwritten_by_a_shipped_one_of_its_name(
    banks: RuleBanks, roomy: Annotator, shipped: Path, mine: RuleBank
) -> None:
    own = sealed(replace(mine, card=mine.card.model_copy(update={"created": "another day"})))
    banks.publish(own.id, own.card.digest, to_files(own))
    publish_shipped_banks(banks, roomy)
    assert banks.current() == {own.id: own.card.digest}


def test_a_folder_without_a_bank_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnusableBank, match="No such file"):
        from_folder(tmp_path)
