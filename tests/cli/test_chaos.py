"""Two thousand pairs while workers, queue and API are killed: every row is answered, once, and as if nothing had been.

`make soak` does the same for longer.
"""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TypeVar

import httpx
import orjson
import psutil
import pytest

from cli.stack import Stack
from tests.running import running, tiny_model

ROUNDS = int(os.environ.get("SAFEMARGIN_SOAK_ROUNDS", "1"))
PAIRS = 2000 * ROUNDS
WORKER_KILLS = 20 * ROUNDS
QUEUE_KILLS = 2 * ROUNDS
API_KILLS = 1 * ROUNDS
CHUNK_TOKENS = 400

Answer = TypeVar("Answer")


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Stack]:
    """The whole service with two workers that remember no scores, watched over as `safemargin serve` does."""
    settings = {
        "SAFEMARGIN_WORKERS": "2",
        "SAFEMARGIN_CHUNK_TOKENS": str(CHUNK_TOKENS),
        "SAFEMARGIN_SCORE_CACHE_ENTRIES": "0",
    }
    stop = threading.Event()
    with running(tiny_model(tmp_path / "model"), tmp_path, **settings) as stack:
        supervisor = threading.Thread(target=supervise, args=(stack, stop))
        supervisor.start()
        yield stack
        stop.set()
        supervisor.join()


def supervise(stack: Stack, stop: threading.Event) -> None:
    while not stop.wait(0.1):
        stack.supervise()


@pytest.mark.real
def test_nothing_is_lost_or_doubled_while_everything_is_killed(service: Stack, tmp_path: Path) -> None:
    rows = [
        {"prompt": f"Question {i}?", "chosen": f"No, never {i * 7}.", "rejected": f"Yes {i}!"} for i in range(PAIRS)
    ]
    data = tmp_path / "data.jsonl"
    data.write_bytes(b"\n".join(map(orjson.dumps, rows)))
    with httpx.Client(base_url=service.url, timeout=30, trust_env=False) as api:
        file = api.post("/files", content=data.read_bytes()).raise_for_status().json()["id"]
        disturbed = api.post("/jobs", json={"file": file}).raise_for_status().json()["id"]
        for done, kill in _plan(service):
            patiently(partial(_reached, api, disturbed, done))
            kill()
        results = _results(api, disturbed)
        calm = api.post("/jobs", json={"file": file}).raise_for_status().json()["id"]
        undisturbed = _results(api, calm)
    assert [line for line, _ in results] == list(range(1, PAIRS + 1))
    assert [margin for _, margin in results] == pytest.approx([margin for _, margin in undisturbed], abs=1e-4)


def _plan(service: Stack) -> Iterator[tuple[int, Callable[[], None]]]:
    """At how many completed rows to kill what: each worker in turn, now and then the queue, the API."""
    kills: list[tuple[int, str]] = []
    for name, count in (("worker", WORKER_KILLS), ("queue", QUEUE_KILLS), ("api", API_KILLS)):
        kills += [
            (round(PAIRS * 0.85 * (i + 1) / count), f"{name}-{i % 2}" if name == "worker" else name)
            for i in range(count)
        ]
    for done, name in sorted(kills):
        yield done, partial(_kill, service, name)


def _kill(service: Stack, name: str) -> None:
    """Kill a part with its children, as soon as it lives."""

    def alive() -> psutil.Process | None:
        process = psutil.Process(service.pids()[name])
        return process if process.status() != psutil.STATUS_ZOMBIE else None

    patiently(alive).send_signal(signal.SIGKILL)


def patiently(ask: Callable[[], Answer | None]) -> Answer:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        try:
            if (answer := ask()) is not None:
                return answer
        except (httpx.TransportError, httpx.HTTPStatusError, psutil.NoSuchProcess):
            pass
        time.sleep(0.01)
    raise AssertionError("nothing moves any more")


def _reached(api: httpx.Client, job: str, done: int) -> bool | None:
    counts = api.get(f"/jobs/{job}").raise_for_status().json()["request_counts"]
    return int(counts["completed"]) >= done or None


def _results(api: httpx.Client, job: str) -> list[tuple[int, float]]:
    ended = patiently(lambda: _ended(api, job))
    assert (ended["status"], ended["request_counts"]) == (
        "completed",
        {"total": PAIRS, "completed": PAIRS, "failed": 0},
    )
    lines = api.get(f"/jobs/{job}/results").raise_for_status().text.splitlines()
    found = [orjson.loads(line) for line in lines]
    return [(row["line"], row["annotation"]["margin"]) for row in found]


def _ended(api: httpx.Client, job: str) -> dict[str, object] | None:
    found: dict[str, object] = api.get(f"/jobs/{job}", params={"wait": 5}).raise_for_status().json()
    return found if found["status"] != "in_progress" else None
