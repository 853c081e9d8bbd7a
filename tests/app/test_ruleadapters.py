"""Rule adapters in the store: listed as far as their cards can be read."""

from pathlib import Path

import pytest

from app.artifacts import Artifacts
from app.ruleadapters import CARD, AdapterMissing, RuleAdapters
from tests.app.conftest import Connect

DIGEST = "sha256:" + "0" * 64


def test_one_whose_card_cannot_be_read_is_as_good_as_missing(connect: Connect, tmp_path: Path) -> None:
    adapters = RuleAdapters(Artifacts(str(tmp_path)))
    adapters.publish("broken", DIGEST, {CARD: b"{}"})
    with pytest.raises(AdapterMissing, match="the card of broken cannot be read"):
        adapters.card("broken")
    client = connect(artifacts=str(tmp_path))
    assert client.get("/rule-adapters").json() == {"adapters": []}
    assert client.get("/rule-adapters/broken").status_code == 404
    assert client.delete("/rule-adapters/broken").status_code == 204
    assert adapters.current() == {}
