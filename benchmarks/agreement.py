"""How far scores of the same pair differ: alone, in mixed batches, and from plain transformers."""

import argparse
import json
import random
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from app.settings import settings
from workers.directions.datafiles import read_pairs
from workers.directions.direction import SafetyDirection
from workers.directions.files import shipped_default
from workers.engine.annotator import load_annotator
from workers.engine.forward import read, read_all
from workers.engine.packing import Group
from workers.engine.process import set_up
from workers.engine.reference import TOLERANCES, disagreement, read_plainly

RESULTS = Path(__file__).with_name("results")
_SEED = 0


def main() -> None:
    """Measure both dtypes, print a table, write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="JSONL of preference pairs")
    parser.add_argument("--pairs", type=int, default=60, help="how many of them")
    options = parser.parse_args()
    pairs = random.Random(_SEED).sample(read_pairs(options.data), options.pairs)
    passes, config = set_up(), settings()
    direction = shipped_default()
    rows: list[dict[str, str | float]] = []
    for dtype in ("float32", "bfloat16"):
        annotator = load_annotator(config.model, config.home_folder, dtype=dtype, passes=passes)
        groups = [annotator.template.encode(pair.messages, [pair.chosen, pair.rejected]) for pair in pairs]
        ways = {
            "alone": torch.cat([read(annotator, [group], direction.reads) for group in groups]),
            "plain transformers": read_plainly(annotator, groups, direction.reads),
        }
        mixed = torch.cat(read_all(annotator, groups, direction.reads))
        rows += [_row(dtype, name, mixed, other, direction, groups) for name, other in ways.items()]
    _report(rows)


def _row(
    dtype: str, name: str, mixed: Tensor, other: Tensor, direction: SafetyDirection, groups: list[Group]
) -> dict[str, str | float]:
    """Distances between [2n, S + G, d] readings of n pairs."""
    margins = [direction.scores(reading).view(len(groups), 2) for reading in (mixed, other)]
    log_odds = [(score[:, 0] - score[:, 1]) * (direction.card.slope or 1.0) for score in margins]
    gap = (log_odds[0] - log_odds[1]).abs()
    return {
        "dtype": dtype,
        "mixed batch against": name,
        "activations": disagreement(mixed, other),
        "allowed": TOLERANCES[dtype],
        "margin median": float(gap.median()),
        "margin largest": float(gap.max()),
    }


def _report(rows: list[dict[str, str | float]]) -> None:
    table = Table(title="activations: largest relative distance; margins: difference in log-odds")
    for column in rows[0]:
        table.add_column(column, justify="left" if isinstance(rows[0][column], str) else "right")
    for row in rows:
        table.add_row(*(value if isinstance(value, str) else f"{value:.1e}" for value in row.values()))
    Console().print(table)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "agreement.json").write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
