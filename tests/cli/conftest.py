"""A home of the tests' own, where nothing of the user's is read or written but the converted annotator; and a bench."""

from pathlib import Path

import httpx
import pytest

from app.client import Client
from cli import annotate as command
from tests.app.client.service import Clock, Service, dataset
from tests.cli.bench import Bench
from tests.running import home_with_models


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new `SAFEMARGIN_HOME` that shares the user's converted models, and the cache of fits of this run."""
    return home_with_models(tmp_path_factory)


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """A dataset of seven rows, and a service whose rows become ready two at a time."""
    service, clock = Service(pace=2), Clock()

    def connect(url: str, patience: float, _sleep: object) -> Client:
        transport = httpx.MockTransport(service)
        return Client(url, patience=patience, transport=transport, sleep=clock.sleep, clock=clock)

    monkeypatch.setattr(command, "connect", connect)
    monkeypatch.delenv("SAFEMARGIN_API_KEY", raising=False)
    made = Bench(tmp_path, service, clock)
    made.write(dataset(7))
    return made
