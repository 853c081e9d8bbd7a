"""`safemargin webhooks` on an artifact store of its own."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from app.artifacts import Artifacts
from app.settings import settings
from app.webhooks.signing import installation_secret
from cli.main import app

SECRETS = ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"]


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The artifact store that the command line finds in its environment."""
    monkeypatch.setenv("SAFEMARGIN_ARTIFACTS", str(tmp_path / "store"))
    monkeypatch.delenv("SAFEMARGIN_WEBHOOK_SECRET", raising=False)
    settings.cache_clear()
    yield tmp_path / "store"
    settings.cache_clear()


def secret(status: int = 0) -> str:
    ended = CliRunner().invoke(app, ["webhooks", "secret"])
    assert ended.exit_code == status, ended.output
    return ended.output


def test_the_secret_is_the_one_that_the_service_signs_with(store: Path) -> None:
    printed = secret()
    assert printed == installation_secret(Artifacts(str(store))) + "\n"
    assert secret() == printed


def test_secrets_of_the_operator_s_own_are_printed_one_a_line(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAFEMARGIN_WEBHOOK_SECRET", " ".join(SECRETS))
    assert secret().split("\n") == [*SECRETS, ""]
    assert not store.exists()


def test_a_store_that_does_not_answer_is_said(store: Path) -> None:
    store.write_bytes(b"no folder")
    assert "the artifact store does not answer" in secret(status=1)
