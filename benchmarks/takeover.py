"""How soon the chunks that a worker had in hand when it was killed are in the hand of another one, or answered."""

import argparse
import json
import os
import signal
import statistics
import tempfile
import time
from pathlib import Path
from typing import cast

from redis import Redis

from app.client import Client
from app.jobs import keys
from app.settings import Settings
from benchmarks.memory import prepare, synthetic
from cli import embedded
from cli.stack import Stack

RESULTS = Path(__file__).with_name("results")
_ROWS = 200_000


def main() -> None:
    """Measure, print, write as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=6)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="safemargin-takeover-") as folder:
        prepare(Path(folder))
        os.environ |= {"SAFEMARGIN_WORKERS": "2", "SAFEMARGIN_SCORE_CACHE_ENTRIES": "0"}
        data = Path(folder) / "rows.jsonl"
        synthetic(data, _ROWS)
        with Stack(Settings(port=0), quiet=True) as stack, Client(stack.url) as client:
            stack.wait_until_ready()
            client.submit(client.upload(data).id)
            redis = Redis.from_url(embedded.url(stack.folder))
            seconds = [found for kill in range(options.kills) for found in _kill(stack, redis, f"worker-{kill % 2}")]
    figures = {"chunks": len(seconds), "median_seconds": statistics.median(seconds), "longest_seconds": max(seconds)}
    print(json.dumps(figures, indent=2))
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "takeover.json").write_text(json.dumps(figures, indent=2) + "\n")


def _kill(stack: Stack, redis: Redis, name: str) -> list[float]:
    """Seconds until each chunk of a killed worker was taken over."""
    while len(_workers(redis)) < 2 or not all(_held(redis, worker) for worker in _workers(redis)):
        stack.supervise()
        time.sleep(0.02)
    pid = stack.pids()[name]
    victim = next(worker for worker in _workers(redis) if f".{pid}." in worker)
    os.kill(pid, signal.SIGKILL)
    killed, left = time.monotonic(), _held(redis, victim)
    seconds = []
    while left:
        stack.supervise()
        taken = {chunk for worker in _workers(redis) - {victim} for chunk in _held(redis, worker)}
        over = {chunk for chunk in left if chunk in taken or _answered(redis, chunk)}
        seconds += [time.monotonic() - killed] * len(over)
        left -= over
        time.sleep(0.01)
    return seconds


def _workers(redis: Redis) -> set[str]:
    names = cast(set[bytes], redis.smembers(keys.WORKERS))
    return {name.decode() for name in names if redis.exists(keys.worker(name.decode()))}


def _held(redis: Redis, worker: str) -> set[tuple[str, int]]:
    entries = (entry.decode().split(":") for entry in cast(list[bytes], redis.hvals(keys.in_hand(worker))))
    return {(job, int(number)) for job, number, *_ in entries}


def _answered(redis: Redis, chunk: tuple[str, int]) -> bool:
    job, number = chunk
    return bool(redis.getbit(keys.done(job), number))


if __name__ == "__main__":
    main()
