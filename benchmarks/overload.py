"""Many times more requests than the service can answer: who is accepted, how long that takes, what others are told."""

import argparse
import asyncio
import json
import os
import statistics
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import httpx
from rich.console import Console

from app.schemas.pairs import Pair
from app.settings import Settings
from cli.stack import Stack
from workers.directions.datafiles import read_pairs

RESULTS = Path(__file__).with_name("results")
_CAPACITY_REQUESTS = 24
_AT_ONCE = 8


@dataclass
class Outcome:
    """What became of the requests.

    Attributes:
        statuses: how many of each.
        seconds: of those that were answered 200, in the order in which they ended.
        without_advice: refusals that did not say when to come back.
    """

    statuses: Counter[int] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    without_advice: int = 0


def main() -> None:
    """Measure, print, write as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="JSONL of preference pairs")
    parser.add_argument("--times", type=float, default=10.0, help="how many times the capacity")
    parser.add_argument("--seconds", type=float, default=60.0)
    options = parser.parse_args()
    pairs = read_pairs(options.data)
    os.environ["SAFEMARGIN_SCORE_CACHE_ENTRIES"] = "0"
    with Stack(Settings(port=0), quiet=True) as stack:
        stack.wait_until_ready()
        capacity = asyncio.run(_capacity(stack.url, pairs))
        before = {name: _resident(pid) for name, pid in stack.pids().items()}
        outcome = asyncio.run(_flood(stack.url, pairs, capacity * options.times, options.seconds))
        after = {name: _resident(pid) for name, pid in stack.pids().items()}
    ordered = sorted(outcome.seconds)
    figures = {
        "capacity_requests_per_second": capacity,
        "offered_requests_per_second": capacity * options.times,
        "answered_per_second": len(ordered) / options.seconds,
        "statuses": {str(status): count for status, count in sorted(outcome.statuses.items())},
        "refused_without_retry_after": outcome.without_advice,
        "accepted_seconds": {
            "median": statistics.median(ordered),
            "p95": ordered[int(0.95 * len(ordered))],
            "longest": ordered[-1],
        },
        "resident_mib_before": before,
        "resident_mib_after": after,
    }
    Console().print_json(json.dumps(figures))
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "overload.json").write_text(json.dumps(figures, indent=2) + "\n")


async def _capacity(url: str, pairs: list[Pair]) -> float:
    """Requests of one pair per second with a few in flight."""
    async with httpx.AsyncClient(base_url=url, timeout=120, trust_env=False) as client:
        free = asyncio.Semaphore(_AT_ONCE)

        async def one(pair: Pair) -> None:
            async with free:
                (await client.post("/annotate", json={"pairs": [pair.model_dump()]})).raise_for_status()

        await asyncio.gather(*(one(pair) for pair in pairs[:_AT_ONCE]))
        started = time.perf_counter()
        await asyncio.gather(*(one(pair) for pair in pairs[:_CAPACITY_REQUESTS]))
        return _CAPACITY_REQUESTS / (time.perf_counter() - started)


async def _flood(url: str, pairs: list[Pair], rate: float, seconds: float) -> Outcome:
    """Requests at a steady rate, whatever becomes of the earlier ones."""
    outcome = Outcome()
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=256)
    async with httpx.AsyncClient(base_url=url, timeout=180, limits=limits, trust_env=False) as client:

        async def one(pair: Pair) -> None:
            started = time.perf_counter()
            answer = await client.post("/annotate", json={"pairs": [pair.model_dump()]})
            outcome.statuses[answer.status_code] += 1
            if answer.status_code == httpx.codes.OK:
                outcome.seconds.append(time.perf_counter() - started)
            elif "Retry-After" not in answer.headers:
                outcome.without_advice += 1

        begun = time.perf_counter()
        sent: list[asyncio.Task[None]] = []
        while (passed := time.perf_counter() - begun) < seconds:
            while len(sent) < passed * rate:
                sent.append(asyncio.create_task(one(pairs[len(sent) % len(pairs)])))
            await asyncio.sleep(0.01)
        await asyncio.gather(*sent)
    return outcome


def _resident(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024


if __name__ == "__main__":
    main()
