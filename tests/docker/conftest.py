"""A running service to look at from outside, as Prometheus, Docker and whoever reads logs do."""

import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from cli.stack import Stack
from tests.running import running, tiny_model

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"
_LONG = "far too long " * 500


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The service with one worker."""
    home = tmp_path_factory.mktemp("home")
    with running(tiny_model(home / "model"), home) as stack:
        yield stack


@pytest.fixture
def load(stack: Stack) -> Iterator[None]:
    """Requests of all kinds while a test goes on: new pairs and old ones, now and then a file, and what is refused."""
    stop = threading.Event()
    thread = threading.Thread(target=_keep_asking, args=(stack.url, stop))
    thread.start()
    yield
    stop.set()
    thread.join()


def _keep_asking(url: str, stop: threading.Event) -> None:
    with httpx.Client(base_url=url, timeout=30, trust_env=False) as client:
        number = 0
        while not stop.wait(0.05):
            number += 1
            new = [{"prompt": "Hello?", "chosen": f"Hello {number}, {i}.", "rejected": "Go away."} for i in range(16)]
            old = {"prompt": "Hello?", "chosen": "Hello.", "rejected": "No."}
            client.post("/annotate", json={"pairs": [*new, old]}).raise_for_status()
            client.post(
                "/score", json={"prompt": "Hello?", "responses": ["Hello.", f"No {number}."]}
            ).raise_for_status()
            client.post("/annotate", json={"pairs": [old, {**old, "prompt": _LONG}]}).raise_for_status()
            client.post("/annotate", json={"pairs": "none"})
            if number % 10 == 1:
                body = b'{"prompt": "Hello?", "chosen": "Hello.", "rejected": "%d"}\n' % number
                file = client.post("/files", content=body).raise_for_status().json()["id"]
                client.post("/jobs", json={"file": file}).raise_for_status()
