"""What docs/operations.md says of backups: a copy of the home of a stopped service is the whole service."""

import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import orjson
import pytest

from app.artifacts import Artifacts
from app.client import Client
from app.registry import Registry
from app.settings import Settings
from cli.stack import Stack
from tests.conftest import publish, random_direction
from tests.running import DIRECTION, tiny_model
from workers.engine.annotator import load_annotator

pytestmark = pytest.mark.real


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@contextmanager
def served(home: Path, port: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    """As `safemargin serve` does: what the queue knows is in the home, in a folder named by the port."""
    monkeypatch.setenv("SAFEMARGIN_HOME", str(home))
    with Stack(Settings(port=port), quiet=True, durable=True) as stack:
        stack.wait_until_ready()
        with Client(stack.url) as client:
            yield client


def rows(path: Path, count: int) -> Path:
    pairs = ({"prompt": "Hello?", "chosen": f"Hello {i}.", "rejected": "Go away."} for i in range(count))
    path.write_bytes(b"\n".join(map(orjson.dumps, pairs)))
    return path


def test_jobs_results_and_directions_are_there_after_a_restore(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home, restored, port = tmp_path / "home", tmp_path / "restored", free_port()
    monkeypatch.setenv("SAFEMARGIN_MODEL", str(tiny_model(tmp_path / "model")))
    monkeypatch.setenv("SAFEMARGIN_DTYPE", "float32")
    annotator = load_annotator(str(tmp_path / "model"), home, dtype="float32")
    publish(Registry(Artifacts(str(home))), random_direction(annotator, DIRECTION, slope=1.0, unreliable=False))
    Registry(Artifacts(str(home))).set_default(annotator.revision, DIRECTION)
    with served(home, port, monkeypatch) as client:
        done = client.submit(client.upload(rows(tmp_path / "few.jsonl", 50)).id)
        client.wait(done.id)
        before = list(client.results(done.id))
        open_job = client.submit(client.upload(rows(tmp_path / "many.jsonl", 3000)).id)
    shutil.copytree(home, restored)
    shutil.rmtree(home)
    with served(restored, port, monkeypatch) as client:
        assert list(client.results(done.id)) == before
        assert len(before) == 50
        assert [card.id for card in client.directions().directions] == [DIRECTION]
        assert client.wait(open_job.id).status == "completed"
        assert sum(1 for _ in client.results(open_job.id)) == 3000
