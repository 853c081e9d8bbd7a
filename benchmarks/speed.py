"""What an annotation costs: the ways that users have without the service, the engine, and the service over HTTP.

Every row of the table is measured in the same run on the same pairs, in rounds in which all take turns, each in a
process of its own. The flags measure something else instead: what depth costs, what a second worker brings, how the
cost of a pair grows with the job.
"""

import argparse
from pathlib import Path

import torch

from benchmarks.apart import peak_mib
from benchmarks.case import HALF, Case
from benchmarks.ceiling import Rates
from benchmarks.clients import Lone
from benchmarks.contenders import Arena, arena
from benchmarks.growth import depths, scale, workers
from benchmarks.machine import described
from benchmarks.summaries import save
from benchmarks.table import as_json, as_markdown, rows_of


def main() -> None:
    """Measure what is asked for, print it, write it as JSON and Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="JSONL of preference pairs")
    parser.add_argument("--pairs", type=int, default=128, help="how many of them")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each, taking turns")
    parser.add_argument("--depths", action="store_true", help="the engine by the depth that is read")
    parser.add_argument("--workers", action="store_true", help="two workers of one thread each against one")
    parser.add_argument("--scale", type=_sizes, default=[], help="seconds a pair of jobs of these sizes, as 1000,10000")
    options = parser.parse_args()
    case = Case.of(options.data, options.pairs)
    if options.depths:
        _publish("depths", case, *depths(case, options.rounds))
    if options.workers:
        _publish("workers", case, *workers(case, options.rounds))
    if options.scale:
        _publish("scale", case, *scale(case, options.scale))
    if not (options.depths or options.workers or options.scale):
        _publish("speed", case, *_speed(case, options.rounds))


def _speed(case: Case, rounds: int) -> tuple[dict[str, object], str]:
    """The table and what belongs to it, as figures and as Markdown."""
    directions = {"default": case.default(), "half": case.at_depth(HALF)}
    rates = Rates(case.passes, getattr(torch, case.dtype), case.products)
    with arena(case, directions) as ready:
        lone = _measure(ready, rates, rounds, len(case.pairs))
        for contender in ready.contenders:
            contender.row.peak_mib = peak_mib(contender.pid) if contender.measure else None
    rows = rows_of([contender.row for contender in ready.contenders], len(case.pairs), case.tokens, rates.ceiling)
    alone = {name: own.milliseconds() for name, own in lone.items()}
    figures: dict[str, object] = {
        "rounds": rounds,
        "ceiling_gflops": rates.ceiling / 1e9,
        "matrix_gflops": {shape: rate / 1e9 for shape, rate in rates.medians.items()},
        "rows": as_json(rows),
        "lone_pair_ms": alone,
    }
    text = as_markdown(rows)
    text += f"\nCeiling: {rates.ceiling / 1e9:,.0f} GFLOP/s in {case.dtype}, {case.passes} products side by side.\n"
    for name, own in alone.items():
        text += f"\nOne lone pair, {name}: {own['http']:.1f} ms over HTTP, {own['forward']:.1f} ms its bare forward "
        text += f"pass, {own['added']:.1f} ms added (p50).\n"
    return figures, text


def _measure(ready: Arena, rates: Rates, rounds: int, pairs: int) -> dict[str, Lone]:
    """Fill the rows, and measure lone pairs; a first turn of all but the first warms up and is not counted."""
    for contender in ready.contenders[1:]:
        if contender.measure:
            contender.measure()
    lone = {name: Lone() for name in ready.lone}
    for number in range(1, rounds + 1):
        for contender in ready.contenders:
            if contender.measure:
                rates.measure()  # as often as they take turns: the machine's speed wanders within a round
                answered = contender.measure()
                contender.row.seconds.append(answered.seconds)
                contender.row.latencies.extend(answered.latencies)
                contender.row.refused += answered.refused
                print(f"round {number}, {contender.row.way}: {pairs / answered.seconds:.2f} pairs/s", flush=True)
        for name, once in ready.lone.items():
            lone[name].add(once())
    return lone


def _publish(name: str, case: Case, figures: dict[str, object], text: str) -> None:
    machine = described()
    place = ", ".join(f"{key.replace('_', ' ')} {_said(value)}" for key, value in machine.items())
    what = f"{len(case.pairs)} pairs of {case.data}, {case.tokens:,} tokens with every prompt once"
    page = f"# {name.capitalize()}\n\n{case.identity[0]} in {case.dtype}; {what}.\n\nMachine: {place}.\n\n{text}"
    save(name, {**case.facts(), "machine": machine, **figures}, page)
    print(page)


def _said(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def _sizes(text: str) -> list[int]:
    return [int(size) for size in text.split(",")]


if __name__ == "__main__":
    main()
