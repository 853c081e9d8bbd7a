"""Rule pools in the artifact store."""

from pathlib import Path

import pytest

from app.artifacts import Artifacts
from app.rulepools import POOL, PoolMissing, RulePools
from app.schemas.rules import Rule, RulePool

POLITE = Rule(id="polite", category="tone", text="The response is polite to the user.")
CALM = Rule(id="calm", category="tone", text="The response stays calm.")
POOL_OF_TWO = RulePool(rules=[POLITE, CALM])


@pytest.fixture
def pools(tmp_path: Path) -> RulePools:
    return RulePools(Artifacts(str(tmp_path)))


def test_a_pool_is_found_by_its_id_with_its_rules_in_order(pools: RulePools) -> None:
    digest = pools.add("mine", POOL_OF_TWO)
    assert pools.current() == {"mine": digest}
    assert pools.pool("mine").rules == [CALM, POLITE]
    assert pools.pool("mine").digest == digest == POOL_OF_TWO.digest


def test_the_digest_is_of_the_rules_and_not_of_their_order() -> None:
    assert RulePool(rules=[CALM, POLITE]).digest == POOL_OF_TWO.digest
    for change in ({"id": "other"}, {"category": "other"}, {"text": "Other."}):
        assert RulePool(rules=[POLITE, CALM.model_copy(update=change)]).digest != POOL_OF_TWO.digest


def test_the_digest_is_that_of_the_canonical_json() -> None:
    """Whoever made something for a pool can compute it without this code."""
    assert RulePool(rules=[Rule(id="a", category="b", text="Ü  c")]).digest == (
        "sha256:421686e84cbfe6d43d8bed01f984be58df42eee59266f19fcaaa39b609251511"  # sha256 of [["a","b","Ü c"]]
    )


def test_a_replaced_pool_can_still_be_read_by_its_digest(pools: RulePools) -> None:
    before = pools.add("mine", POOL_OF_TWO)
    pools.add("mine", RulePool(rules=[CALM]))
    assert pools.pool("mine").rules == [CALM]
    assert pools.pool("mine", before).rules == [CALM, POLITE]


def test_a_deleted_pool_is_gone_with_its_former_versions_and_known_still(pools: RulePools) -> None:
    before = pools.add("mine", POOL_OF_TWO)
    pools.delete("mine")
    assert (pools.current(), pools.knows("mine")) == ({}, True)
    with pytest.raises(PoolMissing, match="no rule pool mine"):
        pools.pool("mine")
    with pytest.raises(PoolMissing):
        pools.pool("mine", before)
    with pytest.raises(PoolMissing):
        pools.delete("mine")


@pytest.mark.parametrize("content", [b"nonsense", RulePool(rules=[CALM]).model_dump_json().encode()])
def test_a_damaged_pool_is_as_good_as_none(pools: RulePools, tmp_path: Path, content: bytes) -> None:
    digest = pools.add("mine", POOL_OF_TWO)
    (tmp_path / "rules" / "mine" / digest.removeprefix("sha256:") / POOL).write_bytes(content)
    with pytest.raises(PoolMissing):
        pools.pool("mine")
