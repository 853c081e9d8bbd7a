"""The service does not start open to other machines unless somebody said so."""

import pytest

from app.auth.exposure import OpenToEverybody
from app.main import create_app
from app.settings import Settings


def settings(**changes: object) -> Settings:
    return Settings().model_copy(update=changes)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_on_this_machine_alone_it_starts_without_keys(host: str) -> None:
    assert create_app(settings(host=host))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "10.0.0.5", "192.168.1.2", "fe80::1", "safemargin.example"])
def test_on_an_address_that_others_reach_it_does_not(host: str) -> None:
    with pytest.raises(OpenToEverybody, match="SAFEMARGIN_AUTH=1") as refused:
        create_app(settings(host=host))
    assert "SAFEMARGIN_OPEN=1" in str(refused.value)


@pytest.mark.parametrize("setting", ["auth", "open"])
def test_with_keys_or_on_purpose_it_does(setting: str) -> None:
    assert create_app(settings(host="0.0.0.0", **{setting: True}))


def test_the_environment_names_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAFEMARGIN_AUTH", "1")
    monkeypatch.setenv("SAFEMARGIN_OPEN", "1")
    config = Settings()
    assert config.auth and config.open
