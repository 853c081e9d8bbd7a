"""Memory of every part with the default annotator, as its own metrics say: at rest, and while it annotates.

python -m benchmarks.sizing pairs.jsonl
"""

import argparse
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console
from rich.table import Table

from app.client import Client
from app.settings import settings
from benchmarks.machine import described
from cli.stack import Stack
from workers.directions.datafiles import read_pairs

RESULTS = Path(__file__).with_name("results")
_LOOK_SECONDS, _REST_SECONDS = 0.5, 5.0
_WORDS = 7_500
Memory = dict[str, float]


def main() -> None:
    """Measure, print a table, write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="JSONL of pairs")
    parser.add_argument("--pairs", type=int, default=1000)
    options = parser.parse_args()
    pairs = [pair.model_dump(exclude_none=True) for pair in read_pairs(options.data)[: options.pairs]]
    long = {"prompt": "word " * _WORDS, "chosen": "Call a locksmith.", "rejected": "With a hairpin."}
    found: dict[str, Memory] = {}
    with Stack(settings().model_copy(update={"port": 0}), quiet=True) as stack:
        stack.wait_until_ready()
        with Client(stack.url) as client:
            with _most(stack.url, found, "at rest"):
                threading.Event().wait(_REST_SECONDS)
            with _most(stack.url, found, f"{len(pairs):,} pairs at once"):
                client.annotate(pairs)
            with _most(stack.url, found, "a pair as long as the window"):
                client.annotate([long])
    table = Table("MiB", *found["at rest"])
    for what, memory in found.items():
        table.add_row(what, *(f"{value:.0f}" for value in memory.values()))
    Console().print(table)
    (RESULTS / "sizing.json").write_text(json.dumps({"machine": described(), "mib": found}, indent=2) + "\n")


@contextmanager
def _most(url: str, found: dict[str, Memory], what: str) -> Iterator[None]:
    """Keep the most memory in MiB that each part takes while something goes on."""
    over = threading.Event()

    def look() -> None:
        most: Memory = {}
        while not over.wait(_LOOK_SECONDS) or not most:
            most |= {part: max(value, most.get(part, 0.0)) for part, value in _memory(url).items()}
        found[what] = most

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _memory(url: str) -> Memory:
    """MiB of the API, the queue's server and the worker."""
    with httpx.Client(timeout=30, trust_env=False) as client:
        (targets,) = (entry["targets"] for entry in client.get(f"{url}/metrics/workers").json())
        own, worker = client.get(f"{url}/metrics").text, client.get(f"http://{targets[0]}/metrics").text
    taken = _places(own)
    return {"API": taken["host"], "queue": taken["queue"], "worker": _places(worker)["host"]}


def _places(text: str) -> Memory:
    """MiB by place, from metrics in Prometheus' format."""
    families = (family for family in text_string_to_metric_families(text) if family.name == "safemargin_memory_bytes")
    return {sample.labels["place"]: sample.value / 2**20 for family in families for sample in family.samples}


if __name__ == "__main__":
    main()
