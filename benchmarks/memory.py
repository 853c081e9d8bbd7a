"""Peak memory of every process while files of growing size are annotated; it should not grow with them.

A tiny random-weight annotator answers, so that what is measured is the service around it.
"""

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import orjson
import torch
from rich.console import Console
from rich.table import Table
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig

from app.artifacts import Artifacts
from app.client import Client
from app.registry import Registry
from app.settings import Settings, settings
from benchmarks.apart import peak_mib
from cli.stack import Stack
from workers.directions.direction import known, new_direction
from workers.directions.files import to_files
from workers.engine.annotator import load_annotator
from workers.engine.sites import Site
from workers.engine.weights import locate

RESULTS = Path(__file__).with_name("results")
_DEPTH, _WIDTH = 2, 32


def main() -> None:
    """Measure, print a table, write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    options = parser.parse_args()
    console = Console()
    found: list[dict[str, Any]] = []
    for rows in options.rows:
        with tempfile.TemporaryDirectory(prefix="safemargin-memory-") as folder:
            found.append(_measure(rows, Path(folder)))
        console.print(found[-1])
    table = Table("rows", "rows/s", *found[0]["peak_mib"])
    for row in found:
        table.add_row(
            f"{row['rows']:,}", f"{row['rows_per_second']:.0f}", *(f"{m:.0f}" for m in row["peak_mib"].values())
        )
    console.print(table)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "memory.json").write_text(json.dumps(found, indent=2) + "\n")


def _measure(rows: int, folder: Path) -> dict[str, Any]:
    """Peak resident memory in MiB, by process, of a fresh service that annotates so many rows, results read back."""
    data = folder / "rows.jsonl"
    synthetic(data, rows)
    prepare(folder)
    config = Settings(port=0)
    started = time.monotonic()
    with Stack(config, quiet=True) as stack:
        stack.wait_until_ready()
        started = time.monotonic()
        with Client(stack.url) as client:
            job = client.submit(client.upload(data).id)
            client.wait(job.id)
            seconds = time.monotonic() - started
            count = sum(1 for _ in client.results(job.id))
        assert count == rows, f"{count} of {rows} rows came back"
        peaks = {name: peak_mib(pid) for name, pid in stack.pids().items()}
    return {"rows": rows, "rows_per_second": rows / seconds, "peak_mib": peaks}


def synthetic(data: Path, rows: int) -> None:
    """Write so many short pairs, all different."""
    with data.open("wb") as out:
        for i in range(rows):
            row = {"prompt": f"Question {i}?", "chosen": f"No, never {i}.", "rejected": f"Yes, {i}!"}
            out.write(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE))


def prepare(folder: Path) -> None:
    """A tiny annotator with the default one's tokenizer, and a direction for it; the environment points at them."""
    usual = settings()
    tokenizer = AutoTokenizer.from_pretrained(locate(usual.model, usual.home_folder).path)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=_WIDTH,
        intermediate_size=2 * _WIDTH,
        num_hidden_layers=_DEPTH,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder / "tiny")
    tokenizer.save_pretrained(folder / "tiny")
    annotator = load_annotator(str(folder / "tiny"), folder, dtype="float32")
    model = (annotator.name, annotator.revision, annotator.template.digest)
    direction = known(
        new_direction("tiny", (Site(1, "mean"),), torch.ones(1, _WIDTH), model=model, recipe="none", settings={}),
        slope=1.0,
        unreliable=False,
    )
    registry = Registry(Artifacts(str(folder)))
    registry.publish(direction.id, direction.card.digest, to_files(direction))
    registry.set_default(annotator.revision, direction.id)
    os.environ |= {
        "SAFEMARGIN_MODEL": str(folder / "tiny"),
        "SAFEMARGIN_HOME": str(folder),
        "SAFEMARGIN_DTYPE": "float32",
    }


if __name__ == "__main__":
    main()
