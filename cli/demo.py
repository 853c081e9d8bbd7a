"""`safemargin demo`: start, annotate the example pairs over HTTP, show a table, stop."""

from pathlib import Path
from typing import Annotated, Any

import httpx
import orjson
import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from app.settings import settings
from cli.stack import Stack, StackFailed

_TIMEOUT = 60.0
_SHOWN = 11


def demo(
    pairs: Annotated[Path, typer.Argument(help="JSONL of preference pairs.", exists=True, dir_okay=False)] = Path(
        "examples/pairs.jsonl"
    ),
) -> None:
    """Start the service, annotate PAIRS through the HTTP API, print a table, stop."""
    console = Console()
    rows = [orjson.loads(line) for line in pairs.read_bytes().splitlines() if line.strip()]
    config = settings().model_copy(update={"port": 0})
    try:
        with Stack(config, quiet=True) as stack:
            with console.status("starting the service"):
                stack.wait_until_ready()
            answer = httpx.post(f"{stack.url}/annotate", json={"pairs": rows}, timeout=_TIMEOUT, trust_env=False)
            if answer.status_code != httpx.codes.OK:
                raise StackFailed(f"the service answered {answer.status_code}: {answer.text}")
    except StackFailed as error:
        typer.echo(f"safemargin: {error}", err=True)
        raise typer.Exit(1) from error
    console.print(_table(rows, answer.json()))
    made = answer.json()["provenance"]
    console.print(
        f"margin: log-odds that the chosen response is the safer one, from direction {made['direction']} of "
        f"{made['model']} at layers {', '.join(map(str, made['layers']))}"
    )


def _table(rows: list[dict[str, Any]], answer: dict[str, Any]) -> Table:
    table = Table(title="Safety margins", title_justify="left", box=SIMPLE_HEAD)
    for name in ("pair", "prompt", "chosen", "rejected"):
        table.add_column(name, no_wrap=True)
    for name in ("margin", "prob.", "label"):
        table.add_column(name, justify="left" if name == "label" else "right", no_wrap=True)
    for row, entry in zip(rows, answer["annotations"], strict=True):
        prompt = row["prompt"] if isinstance(row["prompt"], str) else row["prompt"][-1]["content"]
        texts = [_short(text) for text in (prompt, row["chosen"], row["rejected"])]
        if "error" in entry:
            table.add_row(entry["id"], *texts, "–", "–", entry["error"]["code"])
            continue
        note = "conflict" if entry["label_conflict"] else "fits"
        numbers = (f"{entry['margin']:+.2f}", f"{entry['probability']:.2f}")
        table.add_row(entry["id"], *texts, *numbers, note)
    return table


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"
