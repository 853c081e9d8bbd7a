"""Settings from the environment, under the names that docs/settings.md gives."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from app.settings import Settings


def test_plain_and_prefixed_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://elsewhere:1/2")
    monkeypatch.setenv("PORT", "8123")
    monkeypatch.setenv("SAFEMARGIN_MODEL", "some/model")
    monkeypatch.setenv("SAFEMARGIN_HOME", "~/margins")
    config = Settings()
    assert (config.redis_url, config.port, config.model) == ("redis://elsewhere:1/2", 8123, "some/model")
    assert config.home_folder == Path.home() / "margins"


def test_the_service_stays_on_loopback_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SAFEMARGIN_HOST", raising=False)
    assert Settings().host == "127.0.0.1"


def test_a_value_that_makes_no_sense_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT", "eighty")
    with pytest.raises(ValidationError, match="PORT"):
        Settings()


@pytest.mark.parametrize("secret", ["hunter2", "whsec_c2hvcnQ=", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw hunter2"])
def test_a_webhook_secret_that_is_none_is_refused_and_not_repeated(
    monkeypatch: pytest.MonkeyPatch, secret: str
) -> None:
    monkeypatch.setenv("SAFEMARGIN_WEBHOOK_SECRET", secret)
    with pytest.raises(ValidationError, match="webhook_secret") as refusal:
        Settings()
    assert secret not in str(refusal.value)


def test_a_webhook_secret_is_not_shown_among_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAFEMARGIN_WEBHOOK_SECRET", " whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw ")
    assert Settings().webhook_secret == "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    assert "MfKQ" not in repr(Settings())
