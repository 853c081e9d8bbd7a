"""Labelled responses of files: a line that names a rule which the pool lacks is named."""

import json
from pathlib import Path

import pytest

from app.schemas.rules import Rule, RulePool
from workers.rules.errors import UnfitExamples
from workers.rules.labelled import read_exchanges, read_labelled

POOL = RulePool(rules=[Rule(id="calm", category="tone", text="The response stays calm.")])


def written(path: Path, *rows: object) -> Path:
    path.write_text("\n\n".join(map(json.dumps, rows)))
    return path


def test_an_exchange_of_an_unknown_rule_is_named_by_its_line(tmp_path: Path) -> None:
    row = {"rule": "calm", "prompt": "a secret", "response": "x", "keeps": True}
    path = written(tmp_path / "x.jsonl", row, row | {"rule": "kind"})
    with pytest.raises(UnfitExamples) as refused:
        read_exchanges(path, POOL)
    assert str(refused.value) == f"{path}, line 3: rule: is no rule of the pool"


@pytest.mark.parametrize(("rule", "field"), [("kind", "rules.kind"), ("a secret", "rules")])
def test_a_row_of_an_unknown_rule_is_named_by_its_line(tmp_path: Path, rule: str, field: str) -> None:
    row = {"prompt": "hi", "response": "x", "rules": {"calm": True}}
    path = written(tmp_path / "x.jsonl", row, row | {"rules": {"calm": None, rule: True}})
    with pytest.raises(UnfitExamples) as refused:
        read_labelled(path, POOL)
    assert str(refused.value) == f"{path}, line 3: {field}: is no rule of the pool"
