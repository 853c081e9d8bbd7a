"""Whether forward passes slow down as a process ages: one that has read many batches beside a fresh one, in turns.

python -m benchmarks.ageing pairs.jsonl

Every process reads on one thread, with the sizes of passes rounded up as the engine rounds them, and not at all.
"""

import argparse
import random
import statistics
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from app.schemas.pairs import Pair
from app.settings import Settings
from benchmarks.apart import Apart, peak_mib
from benchmarks.case import HALF, Case
from benchmarks.engine import encoded
from benchmarks.machine import described
from benchmarks.summaries import markdown, save
from workers.configured import configured_annotator
from workers.engine import tiles
from workers.engine.forward import read
from workers.engine.packing import Group, pack
from workers.engine.process import set_up
from workers.engine.sites import Site

_DRAWN = 24
_FIRST = 1_000_000  # a seed that no process ages with


class Reader:
    """The engine in the process that is measured, on one thread.

    Args:
        config: names the annotator.
        pairs: to draw batches from.
        sites: what is read.
        multiple: what sizes of passes are rounded up to.
    """

    def __init__(self, config: Settings, pairs: Sequence[Pair], sites: Sequence[Site], multiple: int) -> None:
        set_up(1)
        tiles.MULTIPLE = multiple
        self._annotator = configured_annotator(config)
        self._groups = encoded(self._annotator, pairs)
        self._sites = sites

    def age(self, batches: int) -> None:
        """Read so many batches, drawn at random."""
        seed = 0
        while batches > 0:
            batches -= self.draw(seed)
            seed += 1

    def draw(self, seed: int) -> int:
        """Read the batches of some pairs drawn at random, the same for the same seed; returns how many."""
        drawn: list[Group] = random.Random(seed).sample(self._groups, _DRAWN)
        batches = list(pack(drawn, self._annotator.budget.tokens))
        for batch in batches:
            read(self._annotator, [drawn[i] for i in batch], self._sites)
        return len(batches)


def main() -> None:
    """Age, measure in turns, print a table, write it as JSON and Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="JSONL of preference pairs")
    parser.add_argument("--pairs", type=int, default=1000, help="how many of them to draw from")
    parser.add_argument("--batches", type=int, default=600, help="how many an aged process has read")
    parser.add_argument("--rounds", type=int, default=8, help="measurements of each, taking turns")
    options = parser.parse_args()
    case = Case.of(options.data, options.pairs)
    sites = case.at_depth(HALF).reads
    multiples = {"rounded": tiles.MULTIPLE, "not rounded": 1}
    ways = [(sizes, age) for sizes in multiples for age in (0, options.batches)]
    readers = [Apart(Reader, case.config, case.pairs, sites, multiples[sizes]) for sizes, _ in ways]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda each: each[0].seconds("age", each[1][1]), zip(readers, ways, strict=True)))
    known: list[list[float]] = [[] for _ in ways]
    new: list[list[float]] = [[] for _ in ways]
    for number in range(options.rounds):
        for place, reader in enumerate(readers):
            reader.seconds("draw", _FIRST)
            known[place].append(reader.seconds("draw", _FIRST))
        for place, reader in enumerate(readers):
            new[place].append(reader.seconds("draw", _FIRST + 1 + number))
    rows = [
        {
            "sizes": sizes,
            "batches before": age,
            "known": _ratio(known[place], known[place - place % 2]),
            "new": _ratio(new[place], new[place - place % 2]),
            "peak MiB": round(peak_mib(readers[place].pid)),
        }
        for place, (sizes, age) in enumerate(ways)
    ]
    for reader in readers:
        reader.close()
    cells = [
        (*map(str, list(row.values())[:2]), f"{row['known']:.2f}", f"{row['new']:.2f}", f"{row['peak MiB']:,}")
        for row in rows
    ]
    table = markdown(("sizes", "batches before", "known batches", "new batches", "peak MiB"), cells)
    note = "Time against a fresh process of the same sizes: median of ratios, round by round.\n\n"
    save("ageing", {**case.facts(), "machine": described(), "rows": rows}, f"# Ageing\n\n{note}{table}")
    print(table)


def _ratio(found: Sequence[float], fresh: Sequence[float]) -> float:
    return round(statistics.median(one / other for one, other in zip(found, fresh, strict=True)), 3)


if __name__ == "__main__":
    main()
