"""Where the time of a forward pass goes, operator by operator, on one thread.

python -m benchmarks.profiling PAIRS
"""

import argparse
from pathlib import Path

from rich.console import Console
from rich.table import Table
from torch.profiler import ProfilerActivity, profile

from benchmarks.case import Case
from workers.configured import configured_annotator
from workers.engine.forward import read
from workers.engine.packing import pack
from workers.engine.tiles import joined, pieces

_ROWS = 16


def main() -> None:
    """Profile the engine with the default direction, print the operators that take longest."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="JSONL of preference pairs")
    parser.add_argument("--pairs", type=int, default=48)
    options = parser.parse_args()
    case = Case.of(options.data, options.pairs)
    annotator, reads = configured_annotator(case.config), case.default().reads
    batches = [[case.groups[i] for i in batch] for batch in pack(case.groups, annotator.budget.tokens)]
    read(annotator, batches[-1], reads)
    with profile(activities=[ProfilerActivity.CPU]) as found:
        for batch in batches:
            read(annotator, batch, reads)
    operators = sorted(found.key_averages(), key=lambda one: -one.self_cpu_time_total)
    whole = sum(one.self_cpu_time_total for one in operators)
    table = Table("operator", "share of the time", "calls")
    for one in operators[:_ROWS]:
        table.add_row(one.key, f"{one.self_cpu_time_total / whole:.1%}", f"{one.count:,}")
    Console().print(table)
    cut = [piece for batch in batches for piece in pieces(batch)]
    seen = sum(piece.count * piece.before + piece.count * (piece.count + 1) // 2 for piece in cut)
    computed = sum(tile.scores for batch in batches for tile in joined(pieces(batch)))
    print(f"attention computes {computed / seen:.2f} times the scores of tokens that may see each other")
    print(f"{whole / 1e6:.2f} s for {case.tokens:,} tokens, {case.layers(case.default())} layers")


if __name__ == "__main__":
    main()
