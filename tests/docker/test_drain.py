"""SIGTERM, which is how Docker and `make serve` stop a worker: what it has in hand is finished, the rest is left."""

import os
import signal
import time
from typing import Any

import httpx
import orjson
import pytest
from redis import Redis

from app.jobs import keys
from cli import embedded
from cli.stack import Stack

pytestmark = pytest.mark.real

ROWS = 2000
PATIENCE = 60.0


def submit(client: httpx.Client) -> str:
    """A job of many chunks, so that it is far from done when its worker is stopped."""
    rows = [{"prompt": f"Question {i}?", "chosen": f"No {i}. " * 20, "rejected": "Yes! " * 20} for i in range(ROWS)]
    file = client.post("/files", content=b"\n".join(map(orjson.dumps, rows))).raise_for_status().json()["id"]
    job: str = client.post("/jobs", json={"file": file}).raise_for_status().json()["id"]
    return job


def await_ended(pid: int) -> None:
    """Wait until a child of this process has ended, and leave it for its own parent to see how."""
    ended = None
    deadline = time.monotonic() + PATIENCE
    while ended is None and time.monotonic() < deadline:
        ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        time.sleep(0.02)
    assert ended is not None and (ended.si_code, ended.si_status) == (os.CLD_EXITED, 0)


def test_a_worker_told_to_stop_finishes_what_it_has_in_hand_and_leaves_the_rest_to_the_next(stack: Stack) -> None:
    with httpx.Client(base_url=stack.url, timeout=90, trust_env=False) as client:
        job = submit(client)

        def state() -> Any:
            return client.get(f"/jobs/{job}").json()

        while not state()["request_counts"]["completed"]:
            time.sleep(0.02)
        pid = stack.pids()["worker-0"]
        os.kill(pid, signal.SIGTERM)
        await_ended(pid)
        with Redis.from_url(embedded.url(stack.folder)) as redis:
            assert list(redis.scan_iter(f"{keys.PREFIX}worker:*:in-hand")) == []
            assert redis.smembers(keys.WORKERS) == set()
            assert redis.exists(keys.returned(job)) == 0
        assert state()["status"] == "in_progress"
        assert 0 < state()["request_counts"]["completed"] < ROWS
        stack.supervise()
        while state()["status"] == "in_progress":
            client.get(f"/jobs/{job}", params={"wait": 30})
        assert state()["request_counts"] == {"total": ROWS, "completed": ROWS, "failed": 0}
    stack.wait_until_ready()
