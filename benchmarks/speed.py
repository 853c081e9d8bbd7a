"""Throughput of the published way, of the engine and of the whole service over HTTP, on the same pairs in one run."""

import argparse
import json
import os
import platform
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import torch
from rich.console import Console
from rich.table import Table

from app.schemas.pairs import Pair
from app.settings import settings
from benchmarks.published import PublishedWay
from cli.stack import Stack
from workers.configured import configured_annotator
from workers.directions.datafiles import read_pairs
from workers.directions.files import shipped_default
from workers.engine.annotator import Annotator
from workers.engine.forward import read_all
from workers.engine.weights import locate

RESULTS = Path(__file__).with_name("results")
_SEED = 0


def main() -> None:
    """Measure, print a table, write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="JSONL of preference pairs")
    parser.add_argument("--pairs", type=int, default=100, help="how many of them")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each, interleaved")
    options = parser.parse_args()
    config = settings()
    pairs = random.Random(_SEED).sample(read_pairs(options.data), options.pairs)
    published = PublishedWay(locate(config.model, config.home_folder).path)
    annotator = configured_annotator(config)
    os.environ["SAFEMARGIN_SCORE_CACHE_ENTRIES"] = "0"  # rounds repeat the same pairs
    with Stack(config.model_copy(update={"port": 0}), quiet=True) as stack:
        stack.wait_until_ready()
        ways: dict[str, Callable[[], object]] = {
            "published way": lambda: _on_all_cores(lambda: published.margins(pairs), annotator.passes),
            "engine": lambda: _engine(annotator, pairs),
            "HTTP bulk": lambda: _http(stack.url, pairs),
        }
        times = _measure(ways, options.rounds)
    _report(times, pairs, annotator, options.data.parent.name)


def _measure(ways: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of every way in every round; a first round of the fast ones warms up and is not counted."""
    for name in list(ways)[1:]:
        ways[name]()
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            started = time.perf_counter()
            way()
            times[name].append(time.perf_counter() - started)
    return times


def _on_all_cores(way: Callable[[], object], threads: int) -> None:
    """Run a way that uses several threads a pass, as torch does by default."""
    torch.set_num_threads(threads)
    try:
        way()
    finally:
        torch.set_num_threads(1)


def _engine(annotator: Annotator, pairs: list[Pair]) -> None:
    direction = shipped_default(annotator.revision)
    groups = [annotator.template.encode(pair.messages, [pair.chosen, pair.rejected]) for pair in pairs]
    for reading in read_all(annotator, groups, direction.reads):
        direction.scores(reading)


def _http(url: str, pairs: list[Pair]) -> None:
    body = {"pairs": [pair.model_dump() for pair in pairs]}
    with httpx.Client(base_url=url, timeout=120, trust_env=False) as client:
        answer = client.post("/annotate", json=body, headers={"Prefer": "respond-async"}).raise_for_status()
        job = answer.headers["Location"]
        while client.get(job, params={"wait": 60}).raise_for_status().json()["status"] == "in_progress":
            pass
        rows = client.get(f"{job}/results").raise_for_status().text.splitlines()
    if len(rows) != len(pairs) or any("error" in json.loads(row)["annotation"] for row in rows):
        raise SystemExit("the service did not annotate every pair")


def _report(times: dict[str, list[float]], pairs: list[Pair], annotator: Annotator, data: str) -> None:
    groups = [annotator.template.encode(pair.messages, [pair.chosen, pair.rejected]) for pair in pairs]
    tokens = sum(group.size for group in groups)
    base = statistics.median(times["published way"])
    table = Table(title=f"{len(pairs)} pairs, {tokens} tokens with every prompt once")
    for column in ("way", "pairs/s", "min-max", "tokens/s", "ratio"):
        table.add_column(column, justify="left" if column == "way" else "right")
    rows = []
    for name, seconds in times.items():
        median = statistics.median(seconds)
        row = {
            "way": name,
            "pairs_per_second": len(pairs) / median,
            "slowest": len(pairs) / max(seconds),
            "fastest": len(pairs) / min(seconds),
            "tokens_per_second": tokens / median,
            "ratio": base / median,
        }
        rows.append(row)
        spread = f"{row['slowest']:.1f}-{row['fastest']:.1f}"
        shown = (f"{row['pairs_per_second']:.1f}", spread, f"{row['tokens_per_second']:.0f}", f"{row['ratio']:.1f}")
        table.add_row(name, *shown)
    Console().print(table)
    machine = {"cores": os.cpu_count(), "machine": platform.machine(), "torch": torch.__version__}
    RESULTS.mkdir(exist_ok=True)
    what = {"data": data, "pairs": len(pairs), "tokens": tokens, "rounds": len(times["engine"])}
    result = {"annotator": annotator.name, "dtype": annotator.dtype_name, "machine": machine, **what, "rows": rows}
    (RESULTS / "speed.json").write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
