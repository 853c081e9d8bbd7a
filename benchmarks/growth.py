"""How the cost of a pair depends on the depth that is read, on the number of workers and on the size of the job."""

import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import httpx
import orjson
import torch

from app.client import Client
from app.schemas.pairs import Pair
from benchmarks.apart import Apart
from benchmarks.case import Case, store, widened
from benchmarks.ceiling import Rates
from benchmarks.engine import Engine
from benchmarks.summaries import Spread, markdown
from cli.stack import Stack

_SHARES = (0.35, 0.5, 0.6, 0.75, 0.9, 1.0)
_WORKERS_PAIRS = 512
_SINGLE = {"SAFEMARGIN_THREADS": "1"}

Found = tuple[dict[str, object], str]
"""Figures, and the same as Markdown."""


def depths(case: Case, rounds: int) -> Found:
    """Pairs a second of the engine for directions that read deeper and deeper."""
    directions = [case.at_depth(share) for share in _SHARES]
    rates = Rates(case.passes, getattr(torch, case.dtype), case.products)
    seconds: dict[str, list[float]] = {direction.id: [] for direction in directions}
    engine = Apart(Engine, case.config, case.pairs, directions)
    engine.seconds("score", directions[-1].id)
    for _ in range(rounds):
        rates.measure()
        for name, times in seconds.items():
            times.append(engine.seconds("score", name))
    engine.close()
    rows = []
    for share, direction in zip(_SHARES, directions, strict=True):
        speed = Spread.of([len(case.pairs) / passed for passed in seconds[direction.id]])
        reached = case.work(direction) / len(case.pairs) * speed.median / rates.ceiling
        rows.append((share, case.layers(direction), speed, reached))
    figures = [
        {
            "depth": share,
            "layers": layers,
            "pairs_per_second": speed.median,
            "slowest": speed.lowest,
            "fastest": speed.highest,
            "ceiling_share": reached,
        }
        for share, layers, speed, reached in rows
    ]
    cells = [
        (f"{share:.0%}", str(layers), f"{speed.median:.2f}", _between(speed), f"{reached:.0%}")
        for share, layers, speed, reached in rows
    ]
    table = markdown(("depth", "layers", "pairs/s", "min–max", "of the ceiling"), cells)
    return {"rounds": rounds, "ceiling_gflops": rates.ceiling / 1e9, "depths": figures}, table


def workers(case: Case, rounds: int) -> Found:
    """Pairs a second of two workers with one thread each, against one such worker; both services stand by in turn."""
    pairs = widened(case.pairs, max(_WORKERS_PAIRS, len(case.pairs)))
    seconds: dict[int, list[float]] = {1: [], 2: []}
    with _service(case, 1, **_SINGLE) as one, _service(case, 2, **_SINGLE) as two:
        for url in (one, two):
            _job(url, case.pairs)
        for _ in range(rounds):
            for count, url in ((1, one), (2, two)):
                seconds[count].append(_job(url, pairs))
    speeds = {count: Spread.of([len(pairs) / passed for passed in times]) for count, times in seconds.items()}
    ratio = speeds[2].median / speeds[1].median
    figures: dict[str, object] = {
        "rounds": rounds,
        "pairs_of_a_job": len(pairs),
        "pairs_per_second": {str(count): asdict(speed) for count, speed in speeds.items()},
        "two_to_one": ratio,
    }
    cells = [(str(count), f"{speed.median:.2f}", _between(speed)) for count, speed in speeds.items()]
    table = markdown(("workers of one thread", "pairs/s", "min–max"), cells)
    return figures, f"{table}\nTwo against one: {ratio:.2f}×.\n"


def scale(case: Case, sizes: Sequence[int]) -> Found:
    """Seconds a pair of jobs of growing size: uploaded as a file, annotated, results read."""
    seconds: dict[int, float] = {}
    with _service(case, case.config.workers) as url:
        _job(url, case.pairs)
        for size in sizes:
            seconds[size] = _job(url, widened(case.pairs, size))
            print(f"{size:,} pairs: {seconds[size] / size:.4f} s a pair", flush=True)
    costs = {size: passed / size for size, passed in seconds.items()}
    first = costs[sizes[0]]
    figures = [{"pairs": size, "seconds": seconds[size], "seconds_a_pair": cost} for size, cost in costs.items()]
    cells = [
        (f"{size:,}", f"{seconds[size]:.1f}", f"{cost:.4f}", f"{cost / first:.2f}") for size, cost in costs.items()
    ]
    return {"jobs": figures}, markdown(("pairs", "seconds", "seconds a pair", "to the first"), cells)


@contextmanager
def _service(case: Case, workers: int, **environment: str) -> Iterator[str]:
    """URL of a fresh service with so many workers and these settings."""
    before = dict(os.environ)
    with tempfile.TemporaryDirectory() as folder:
        store(Path(folder), case.default())
        os.environ |= environment
        stack = Stack(case.config.model_copy(update={"workers": workers}), quiet=True)
        os.environ.clear()
        os.environ |= before
        with stack:
            stack.wait_until_ready()
            while len(httpx.get(f"{stack.url}/readyz", trust_env=False).json()["workers"]) < workers:
                time.sleep(0.1)
            yield stack.url


def _job(url: str, pairs: Sequence[Pair]) -> float:
    """Seconds from the upload of a file of pairs to the last of its results."""
    rows = [pair.model_dump(exclude={"id"}) for pair in pairs]
    with tempfile.TemporaryDirectory() as folder, Client(url) as client:
        data = Path(folder) / "pairs.jsonl"
        data.write_bytes(b"".join(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE) for row in rows))
        started = time.perf_counter()
        job = client.submit(client.upload(data).id)
        client.wait(job.id)
        count = sum(1 for _ in client.results(job.id))
        seconds = time.perf_counter() - started
    if count != len(pairs):
        raise RuntimeError(f"{count} of {len(pairs)} rows came back")
    return seconds


def _between(speed: Spread) -> str:
    return f"{speed.lowest:.2f}–{speed.highest:.2f}"
