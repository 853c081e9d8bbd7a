"""`safemargin directions` on an artifact store of its own, without an annotator."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from app.alignments import Alignments
from app.artifacts import Artifacts
from app.registry import REPORT, TENSORS, Registry
from app.settings import settings
from cli.main import app
from tests.conftest import random_direction
from tests.workers.alignment.shelf import put as put_alignment
from tests.workers.alignment.shelf import taught_direction
from workers.directions.direction import SafetyDirection
from workers.directions.publishing import parts_of
from workers.directions.reporting import bare_report
from workers.engine.annotator import Annotator
from workers.engine.sites import Site

ACCURACY = {"value": 0.751, "low": 0.7, "high": 0.8, "pairs": 40, "prompts": 40}
READING = {"data": "mine", "protocol": "held out", "accuracy": ACCURACY}


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    """The artifact store that the command line finds in its environment."""
    monkeypatch.setenv("SAFEMARGIN_ARTIFACTS", str(tmp_path / "store"))
    monkeypatch.setenv("COLUMNS", "200")
    settings.cache_clear()
    yield Registry(Artifacts(str(tmp_path / "store")))
    settings.cache_clear()


def put(store: Registry, direction: SafetyDirection) -> SafetyDirection:
    store.publish(direction.id, direction.card.digest, parts_of(direction, bare_report(direction)))
    return direction


@pytest.fixture
def sure(store: Registry, annotator: Annotator) -> SafetyDirection:
    site = Site(2, "mean")
    return put(store, random_direction(annotator, "sure", 1, site, slope=2.0, readings=[READING], unreliable=False))


@pytest.fixture
def other(store: Registry, annotator: Annotator) -> SafetyDirection:
    return put(store, random_direction(annotator, "other", 2))


def directions(*arguments: str | Path, status: int = 0) -> Result:
    ended = CliRunner().invoke(app, ["directions", *map(str, arguments)])
    assert ended.exit_code == status, ended.output
    return ended


def test_list_shows_every_direction_with_its_figures_and_marks(
    store: Registry, sure: SafetyDirection, other: SafetyDirection
) -> None:
    store.set_default(sure.card.model_revision, "sure")
    lines = directions("list").stdout.splitlines()
    (of_sure,) = [line for line in lines if " sure " in line]
    (of_other,) = [line for line in lines if " other " in line]
    assert "0.751" in of_sure
    assert "default" in of_sure
    assert "unreliable" not in of_sure
    assert "unreliable" in of_other
    assert "default" not in of_other


def test_list_of_an_empty_store_is_empty(store: Registry) -> None:
    assert "sure" not in directions("list").stdout


def test_a_damaged_direction_hides_no_other_and_can_be_deleted(
    store: Registry, sure: SafetyDirection, other: SafetyDirection, tmp_path: Path
) -> None:
    digest = other.card.digest.removeprefix("sha256:")
    (tmp_path / "store" / "directions" / "other" / digest / "direction.json").write_text("{}")
    listed = directions("list")
    assert "sure" in listed.stdout
    assert "the card of other cannot be read" in listed.stderr
    directions("delete", "other")
    assert set(store.current()) == {"sure"}


def test_show_prints_the_card(sure: SafetyDirection) -> None:
    assert json.loads(directions("show", "sure").stdout) == sure.card.model_dump()


def test_default_can_be_named_where_it_stands_for_one(store: Registry, sure: SafetyDirection) -> None:
    directions("show", "default", status=1)
    store.set_default(sure.card.model_revision, "sure")
    assert json.loads(directions("show", "default").stdout) == sure.card.model_dump()
    store.set_default("sha256:another", "other")
    assert "other, sure" in directions("show", "default", status=1).stderr


def test_report_is_written_as_json_or_as_a_page(store: Registry, sure: SafetyDirection, tmp_path: Path) -> None:
    for name in ("report.json", "report.html"):
        directions("report", "sure", "--to", tmp_path / name)
    assert (tmp_path / "report.json").read_bytes() == store.part("sure", sure.card.digest, REPORT)
    assert json.loads((tmp_path / "report.json").read_bytes())["card"]["id"] == "sure"
    assert (tmp_path / "report.html").read_text().lstrip().lower().startswith("<!doctype html>")


def test_default_is_chosen_for_the_annotator_of_the_direction(
    store: Registry, sure: SafetyDirection, other: SafetyDirection
) -> None:
    for name in ("sure", "other"):
        directions("default", name)
        assert store.defaults() == {sure.card.model_revision: name}


def test_of_a_direction_that_reads_a_taught_model_that_is_the_annotator_that_was_taught(
    store: Registry, annotator: Annotator
) -> None:
    card = put_alignment(Alignments(store.artifacts), annotator)
    put(store, taught_direction(annotator, card))
    directions("default", "kindly")
    assert store.defaults() == {annotator.revision: "kindly"}
    Alignments(store.artifacts).delete("kinder")
    assert "there is no alignment kinder" in directions("default", "kindly", status=1).stderr


def test_what_default_stands_for_is_not_deleted_before_something_else_does(
    store: Registry, sure: SafetyDirection, other: SafetyDirection
) -> None:
    directions("default", "sure")
    assert "`default` stands for sure" in directions("delete", "sure", status=1).stderr
    assert set(store.current()) == {"other", "sure"}
    directions("default", "other")
    directions("delete", "sure")
    assert set(store.current()) == {"other"}


def test_what_is_exported_and_deleted_comes_back_exactly_by_import(
    store: Registry, sure: SafetyDirection, tmp_path: Path
) -> None:
    file = tmp_path / "sure.gguf"
    numbers = store.part("sure", sure.card.digest, TENSORS)
    directions("export", "sure", "--to", file)
    directions("delete", "sure")
    assert sure.card.digest in directions("import", file).stdout
    assert store.card("sure") == sure.card
    assert store.part("sure", sure.card.digest, TENSORS) == numbers


def test_import_replaces_only_what_it_is_told_to(
    store: Registry, sure: SafetyDirection, annotator: Annotator, tmp_path: Path
) -> None:
    file = tmp_path / "sure.gguf"
    directions("export", "sure", "--to", file)
    newer = put(store, random_direction(annotator, "sure", 7))
    assert "exists; --replace replaces it" in directions("import", file, status=1).stderr
    assert store.digest("sure") == newer.card.digest
    directions("import", file, "--replace")
    assert store.digest("sure") == sure.card.digest


def test_a_file_that_is_no_direction_is_not_imported(store: Registry, tmp_path: Path) -> None:
    (tmp_path / "odd.gguf").write_bytes(b"GGUF and nothing else")
    for name in ("odd.gguf", "missing.gguf"):
        told = directions("import", tmp_path / name, status=1).stderr
        assert told.startswith("safemargin: ")
        assert name in told
    assert store.current() == {}


@pytest.mark.parametrize(
    "command", [["show"], ["report", "--to", "x.html"], ["default"], ["delete"], ["export", "--to", "x.gguf"]]
)
def test_a_direction_that_is_not_there_ends_a_command_with_status_1(store: Registry, command: list[str]) -> None:
    name, *options = command
    ended = directions(name, "nobody", *options, status=1)
    assert ended.stderr == "safemargin: there is no direction nobody\n"


PAIRS = "pairs:balance"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--id", "new"], "--source"),
        (["--id", "new", "--source", "pears:x"], "recipes: contrast"),
        (["--id", "new", "--source", "pairs"], "needs a file"),
        (["--id", "default", "--source", PAIRS], "choose another id"),
        (["--id", "no spaces", "--source", PAIRS], "id: "),
        (["--id", "new", "--source", f"{PAIRS}@0"], "greater than 0"),
        (["--id", "new", "--source", PAIRS, "--layers", "1,two"], "--layers takes numbers"),
        (["--id", "new", "--source", PAIRS, "--estimator", "magic"], "estimator: "),
        (["--id", "new", "--source", PAIRS, "--source", "legend", "--paper"], "must be the only source"),
    ],
)
def test_a_fit_that_is_asked_for_wrongly_ends_with_status_2(store: Registry, arguments: list[str], told: str) -> None:
    assert told in " ".join(directions("fit", *arguments, status=2).stderr.replace("│", " ").split())


def test_a_fit_of_a_taken_id_or_a_missing_file_ends_with_status_1(sure: SafetyDirection, tmp_path: Path) -> None:
    assert "--replace replaces it" in directions("fit", "--id", "sure", "--source", PAIRS, status=1).stderr
    missing = tmp_path / "missing.jsonl"
    ended = directions("fit", "--id", "new", "--source", f"pairs:{missing}", status=1)
    assert "cannot be read: No such file" in ended.stderr


def test_a_fit_of_too_few_rows_ends_with_status_1_and_stores_nothing(
    store: Registry, annotator: Annotator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.configured.configured_annotator", lambda _config: annotator)
    data = tmp_path / "mine.jsonl"
    rows = [{"prompt": f"{i}?", "chosen": "no", "rejected": "yes"} for i in range(30)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    ended = directions("fit", "--id", "mine", "--source", f"pairs:{data}", "--limit", "5", status=1)
    assert "safemargin: 5 rows are too few to fit a direction; at least " in ended.stderr
    assert store.current() == {}
