"""`safemargin keys` on an artifact store of its own, and `safemargin serve` where it would be open."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from app.artifacts import Artifacts
from app.auth.keys import KeyRing, Keys
from app.settings import settings
from cli.main import app

CREATE = ["keys", "create", "--name", "ci", "--owner", "team-a", "--scope", "annotate"]


@pytest.fixture
def keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Keys]:
    """The keys that the command line finds in its environment."""
    monkeypatch.setenv("SAFEMARGIN_ARTIFACTS", str(tmp_path / "store"))
    monkeypatch.setenv("COLUMNS", "200")
    settings.cache_clear()
    yield Keys(Artifacts(str(tmp_path / "store")))
    settings.cache_clear()


def safemargin(*arguments: str, status: int = 0) -> Result:
    ended = CliRunner().invoke(app, list(arguments))
    assert ended.exit_code == status, ended.output
    return ended


def test_create_prints_a_key_that_opens(keys: Keys) -> None:
    ended = safemargin(*CREATE, "--scope", "train", "--tokens-per-minute", "60000")
    key = asyncio.run(KeyRing(keys).holder(ended.stdout.strip()))
    assert key is not None
    assert (key.name, key.owner, key.scopes, key.tokens_per_minute) == ("ci", "team-a", ["annotate", "train"], 60_000)


def test_nothing_but_the_key_is_on_standard_output(keys: Keys) -> None:
    (line,) = safemargin(*CREATE).stdout.splitlines()
    assert line.startswith("sm_")


def test_list_shows_every_key_and_no_secret(keys: Keys) -> None:
    secret = safemargin(*CREATE, "--tokens-per-minute", "60000").stdout.strip().split("_", 2)[2]
    key, _text = keys.create("old", "team-b", ["admin"])
    safemargin("keys", "revoke", key.id)
    listed = safemargin("keys", "list").stdout
    (ci,) = [line for line in listed.splitlines() if " ci " in line]
    (old,) = [line for line in listed.splitlines() if " old " in line]
    assert "team-a" in ci and "60,000" in ci and ci.count("UTC") == 1
    assert key.id in old and "unlimited" in old and old.count("UTC") == 2
    assert secret not in listed


def test_revoke_takes_effect_in_the_store(keys: Keys) -> None:
    key, text = keys.create("ci", "team-a", ["annotate"])
    assert key.id in safemargin("keys", "revoke", key.id).stdout
    assert asyncio.run(KeyRing(keys).holder(text)) is None


def test_list_shows_whole_ids_however_narrow_the_terminal(keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    safemargin(*CREATE)
    (key_id,) = keys.ids()
    assert key_id in safemargin("keys", "list").stdout


def test_revoking_what_is_no_key_fails_and_says_so(keys: Keys) -> None:
    assert "there is no key" in safemargin("keys", "revoke", "0" * 16, status=1).stderr


@pytest.mark.parametrize(
    "arguments",
    [
        CREATE[:-2],
        [*CREATE, "--scope", "everything"],
        [*CREATE, "--tokens-per-minute", "0"],
        ["keys", "create", "--name", "two words", "--owner", "team-a", "--scope", "annotate"],
    ],
    ids=["no scope", "unknown scope", "no tokens", "name with a space"],
)
def test_a_key_that_makes_no_sense_is_refused(keys: Keys, arguments: list[str]) -> None:
    safemargin(*arguments, status=2)
    assert keys.ids() == []


def test_serve_does_not_start_where_it_would_be_open_to_others(keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAFEMARGIN_HOST", "0.0.0.0")
    ended = safemargin("serve", status=1)
    assert "SAFEMARGIN_AUTH=1" in ended.stderr
    assert "Traceback" not in ended.output


@pytest.mark.parametrize("command", [CREATE, ["keys", "list"]], ids=lambda c: c[1])
def test_a_store_that_cannot_be_reached_is_said_in_a_line(keys: Keys, tmp_path: Path, command: list[str]) -> None:
    (tmp_path / "store").write_text("no folder")
    ended = safemargin(*command, status=1)
    assert ended.stderr.startswith("safemargin: the artifact store does not answer")
