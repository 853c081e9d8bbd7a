"""Pools from files, and the project's own."""

from collections import Counter
from pathlib import Path

import pytest

from app.artifacts import Artifacts
from app.rulepools import RulePools
from app.schemas.judging import SHIPPED_POOL
from app.schemas.rules import RulePool
from workers.rules.pool import (
    UnusablePool,
    publish_shipped_pool,
    read_pool,
    shipped_exchanges,
    shipped_pool,
)

YAML = """
version: 1
rules:
- id: no-insults
  category: tone
  text: >
    The response contains no insult
    aimed at the user.
"""


def file(tmp_path: Path, content: str) -> Path:
    path = tmp_path / "pool.yaml"
    path.write_bytes(content.encode("utf-8", "surrogateescape"))
    return path


def test_a_pool_is_read_from_yaml(tmp_path: Path) -> None:
    (rule,) = read_pool(file(tmp_path, YAML)).rules
    assert (rule.id, rule.category) == ("no-insults", "tone")
    assert rule.text == "The response contains no insult aimed at the user."


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("rules: [", "is not YAML"),
        ("version: 1\nrules:\n- id: a: b\n", "pool.yaml, line 3, is not YAML"),
        ("rules: \udcff", "is not YAML"),
        ("[" * 2000, "is not YAML"),
        ("rules: !!python/object/apply:os.getcwd []", "is not YAML"),
        ("rules: 2026-99-99", "is not YAML"),
        ("", "pool.yaml: must be a mapping with `rules`"),
        ("- calm", "pool.yaml: must be a mapping with `rules`"),
        ("rules: [calm]", "/rules/0: must have named fields"),
        ("rules: []", "/rules: must not be empty"),
        (YAML.replace("no-insults", "no insults"), "/rules/0/id: takes letters, digits, dots, dashes and underscores"),
        ("version: 2\nrules: []", "/version"),
        (YAML + "- {id: no-insults, category: tone, text: The secret.}", "/rules/1/id: an earlier rule"),
        (YAML.replace("tone", "3"), "/rules/0/category"),
        (YAML.replace("no insult", "<|im_end|>"), "/rules/0/text: must hold nothing that looks like a control token"),
    ],
)
def test_a_file_that_is_no_pool_says_where_it_is_wrong(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(UnusablePool) as refused:
        read_pool(file(tmp_path, content))
    assert message in str(refused.value)
    assert "secret" not in str(refused.value)


def test_every_rule_that_is_wrong_is_named_up_to_ten(tmp_path: Path) -> None:
    rule = "- {id: r%d, category: tone, text: %s}\n"
    texts = ['""' if number % 2 else "Fine." for number in range(26)]
    with pytest.raises(UnusablePool) as refused:
        read_pool(file(tmp_path, "rules:\n" + "".join(rule % one for one in enumerate(texts))))
    lines = str(refused.value).splitlines()
    assert lines[:2] == [f"{tmp_path / 'pool.yaml'}: /rules/{place}/text: must not be empty" for place in (1, 3)]
    assert (len(lines), lines[-1]) == (11, f"{tmp_path / 'pool.yaml'}: 3 more")


def test_a_file_that_is_not_there_is_said_to_be(tmp_path: Path) -> None:
    with pytest.raises(UnusablePool, match="cannot be read"):
        read_pool(tmp_path / "nothing.yaml")


def test_the_projects_own_pool_has_a_hundred_short_absolute_rules() -> None:
    rules = shipped_pool().rules
    assert len(rules) == 100
    assert len({rule.text for rule in rules}) == 100
    assert all(10 <= len(rule.text.split()) <= 25 for rule in rules)
    assert not any(word in rule.text.lower().split() for rule in rules for word in ("better", "most", "safer", "best"))


def test_eight_exchanges_keep_each_rule_and_eight_break_it() -> None:
    counted = Counter((exchange.rule, exchange.keeps) for exchange in shipped_exchanges())
    assert counted == {(rule.id, keeps): 8 for rule in shipped_pool().rules for keeps in (True, False)}


def test_neither_length_nor_a_first_word_tells_what_keeps_a_rule() -> None:
    for rule in shipped_pool().rules:
        sides = [
            [e.response.split() for e in shipped_exchanges() if (e.rule, e.keeps) == (rule.id, k)]
            for k in (True, False)
        ]
        keeping, breaking = (sum(map(len, side)) for side in sides)
        assert abs(keeping - breaking) <= 0.15 * min(keeping, breaking), rule.id
        assert max(Counter(words[0].strip("',!.").lower() for words in sides[0]).values()) <= 3, rule.id


def test_in_half_of_the_exchanges_only_the_response_tells() -> None:
    """Four prompts of every rule stand beside a keeping and a breaking response; no other rule uses them."""
    of_prompt: dict[str, list[tuple[str, bool]]] = {}
    for exchange in shipped_exchanges():
        of_prompt.setdefault(exchange.prompt, []).append((exchange.rule, exchange.keeps))
    twins = [uses for uses in of_prompt.values() if len(uses) > 1]
    assert all(sorted(keeps for _, keeps in uses) == [False, True] for uses in twins)
    assert Counter(rule for uses in twins for rule in {rule for rule, _ in uses}) == {
        rule.id: 4 for rule in shipped_pool().rules
    }


def test_the_projects_own_pool_is_published_unless_it_was_known(tmp_path: Path) -> None:
    pools = RulePools(Artifacts(str(tmp_path)))
    publish_shipped_pool(pools)
    assert pools.digest(SHIPPED_POOL) == shipped_pool().digest
    pools.delete(SHIPPED_POOL)
    publish_shipped_pool(pools)
    assert not pools.holds(SHIPPED_POOL)


def test_a_pool_of_another_team_under_its_name_stays(tmp_path: Path) -> None:
    pools, other = RulePools(Artifacts(str(tmp_path))), RulePool(rules=shipped_pool().rules[:2])
    pools.add(SHIPPED_POOL, other)
    publish_shipped_pool(pools)
    assert pools.digest(SHIPPED_POOL) == other.digest
