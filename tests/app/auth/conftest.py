"""An API that asks for keys, and requests that carry one."""

from collections.abc import Callable
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from app.artifacts import Artifacts
from app.auth.keys import Key, Keys, Scope
from tests.app.conftest import Connect, Station

Carry = Callable[..., tuple[Key, dict[str, str]]]


@pytest.fixture
def keys(station: Station) -> Keys:
    """The keys in the store that API and worker share."""
    return Keys(Artifacts(str(station.artifacts)))


@pytest.fixture
def carry(keys: Keys) -> Carry:
    """Make a key with these scopes, and the headers that carry it; before the API is first asked."""

    def make(*scopes: Scope, tokens_per_minute: int | None = None) -> tuple[Key, dict[str, str]]:
        key, text = keys.create("test", "team-a", scopes, tokens_per_minute)
        return key, {"Authorization": f"Bearer {text}"}

    return make


@pytest.fixture
def guarded(connect: Connect) -> TestClient:
    """An API that asks for keys."""
    return connect(auth=True)


@pytest.fixture
def without_store(connect: Connect, tmp_path: Path) -> TestClient:
    """An API that asks for keys, whose store cannot be read."""
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "keys").write_text("no folder")
    return connect(auth=True, artifacts=str(tmp_path / "store" / "keys" / "below"))
