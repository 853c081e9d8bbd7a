"""`safemargin alignments` on an artifact store of its own."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from app.alignments import CARD, Alignments
from app.artifacts import Artifacts
from app.registry import Registry
from app.schemas.alignment import AlignmentCard
from app.settings import settings
from cli.main import app
from tests.conftest import publish, random_direction
from workers.engine.annotator import Annotator

ACCURACY = {"value": 0.751, "low": 0.7, "high": 0.8, "pairs": 40, "prompts": 40}
CARD_OF_FIRST = AlignmentCard.model_validate(
    {
        "id": "first",
        "digest": "sha256:" + "0" * 64,
        "method": "rahf-scit",
        "model": "tiny",
        "model_revision": "sha256:tiny",
        "template": "sha256:template",
        "blocks": [0, 1],
        "taught_revisions": ["sha256:tiny+sha256:adapter"],
        "files": ["taught/adapter_config.json"],
        "slope": 0.5,
        "readings": [{"data": "mine", "protocol": "held out", "accuracy": ACCURACY}],
        "unreliable": False,
        "created": "2026-01-01",
        "version": "0",
    }
)


def put(shelf: Alignments, card: AlignmentCard) -> None:
    shelf.publish(card.id, card.digest, {CARD: card.model_dump_json().encode()})


@pytest.fixture
def alignments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Alignments]:
    """The store that the command line finds in its environment, with one alignment."""
    monkeypatch.setenv("SAFEMARGIN_ARTIFACTS", str(tmp_path / "store"))
    monkeypatch.setenv("COLUMNS", "200")
    settings.cache_clear()
    shelf = Alignments(Artifacts(str(tmp_path / "store")))
    put(shelf, CARD_OF_FIRST)
    yield shelf
    settings.cache_clear()


def run(*arguments: str, status: int = 0) -> Result:
    ended = CliRunner().invoke(app, ["alignments", *arguments])
    assert ended.exit_code == status, ended.output
    return ended


def test_list_shows_how_well_each_reads(alignments: Alignments) -> None:
    put(alignments, CARD_OF_FIRST.model_copy(update={"id": "second", "readings": [], "unreliable": True}))
    output = run("list").stdout
    for text in ("first", "rahf-scit", "tiny", "0.751", "second", "–", "unreliable"):
        assert text in output
    assert output.count("unreliable") == 1


def test_show_prints_the_card(alignments: Alignments) -> None:
    assert json.loads(run("show", "first").stdout) == CARD_OF_FIRST.model_dump()


def test_delete_refuses_what_a_direction_needs(alignments: Alignments, annotator: Annotator) -> None:
    ref = {"id": "first", "digest": CARD_OF_FIRST.digest}
    publish(registry := Registry(alignments.artifacts), random_direction(annotator, "reads-it", alignment=ref))
    refused = run("delete", "first", status=1)
    assert "1 direction (reads-it) would be of no use without first; delete those first" in refused.stderr
    registry.delete("reads-it")
    run("delete", "first")
    assert alignments.current() == {}


@pytest.mark.parametrize("command", ["show", "delete"])
def test_one_that_is_not_there_is_named(alignments: Alignments, command: str) -> None:
    assert "there is no alignment none" in run(command, "none", status=1).stderr
