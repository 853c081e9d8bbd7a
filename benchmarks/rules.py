"""How well the raters read rules, and what rating costs.

    python -m benchmarks.rules --propositions FOLDER/gold.jsonl --cost FOLDER/pairs.jsonl

Held-out area under the curve for every proposition and for every rule of the project's own pool, by `probes` in
cross-validation and by `logits` as they are; then the cost of 100 rules in one run.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from app.schemas.pairs import Pair
from app.schemas.rulebanks import Auc
from app.schemas.rules import RulePool
from app.settings import settings
from benchmarks.propositions import propositions_pool, write
from workers.configured import configured_annotator
from workers.directions.datafiles import read_pairs
from workers.directions.files import shipped_default
from workers.engine.annotator import Annotator
from workers.engine.forward import read_all
from workers.engine.packing import Group
from workers.rules.bank import RuleBank
from workers.rules.distil import Read, fit_bank, gather
from workers.rules.examples import Examples, from_exchanges, from_rows
from workers.rules.labelled import read_labelled
from workers.rules.labels import auc
from workers.rules.logits import LogitRater
from workers.rules.pool import shipped_exchanges, shipped_pool
from workers.rules.rating import Ratings

RESULTS = Path(__file__).with_name("results")
_RARE = 10
"""Labels on the rarer side below which a proposition is shown but not counted."""


@dataclass(frozen=True)
class Figure:
    """How one rule is read.

    Attributes:
        rule: its id.
        labels: those on the rarer side.
        probes, logits: held-out and zero-shot area; None with too few labels, or where it was not asked.
    """

    rule: str
    labels: int
    probes: Auc | None
    logits: Auc | None


def main() -> None:
    """Measure what is asked for, print it, write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--propositions", type=Path, help="gold.jsonl of the rule-based rewards")
    parser.add_argument("--pool", action="store_true", help="measure the project's own pool")
    parser.add_argument("--cost", type=Path, help="JSONL of preference pairs")
    parser.add_argument("--pairs", type=int, default=24, help="pairs for the cost of probes")
    parser.add_argument("--asked", type=int, default=2, help="of them, pairs for the cost of logits")
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each cost, interleaved")
    parser.add_argument(
        "--zero-shot", type=int, default=1600, help="exchanges that `logits` are asked about; 0 for none"
    )
    options = parser.parse_args()
    annotator = configured_annotator(settings())
    if options.propositions:
        with tempfile.TemporaryDirectory() as folder:
            rows = read_labelled(write(options.propositions, Path(folder)), propositions_pool())
            examples = from_rows(propositions_pool(), rows)
        asked = len(examples.items) if options.zero_shot else 0
        figures, _ = _measure(annotator, propositions_pool(), examples, asked)
        _save(annotator, "propositions", figures)
    if options.pool or options.cost:
        examples = from_exchanges(shipped_pool(), shipped_exchanges())
        figures, bank = _measure(annotator, shipped_pool(), examples, 0)
        _save(annotator, "pool", figures)
    if options.cost:
        pairs = read_pairs(options.cost)[: options.pairs]
        _save(annotator, "cost", _costs(annotator, bank, pairs, options.asked, options.rounds))
    if options.pool and options.zero_shot:
        areas = _zero_shot(annotator, shipped_pool(), examples, options.zero_shot)
        means = {"mean": _mean(areas), "asked": options.zero_shot, "rules": sum(area is not None for area in areas)}
        print("pool, logits:", means)
        _save(annotator, "pool_logits", means)


def _measure(
    annotator: Annotator, pool: RulePool, examples: Examples, zero_shot: int
) -> tuple[dict[str, object], RuleBank]:
    started = time.monotonic()
    read = gather(annotator, pool, examples, lambda _done, _total: None)
    between = time.monotonic()
    bank = fit_bank(annotator, pool, read, pool_id="measured", bank_id="measured", source=examples.source)
    print(f"read in {between - started:.0f} s, fitted in {time.monotonic() - between:.0f} s", flush=True)
    asked = _zero_shot(annotator, pool, examples, zero_shot) if zero_shot else [None] * len(pool.rules)
    figures = [
        Figure(rule.id, _rarer(examples.targets[:, r]), bank.card.rules[r].keeps, asked[r])
        for r, rule in enumerate(pool.ordered)
    ]
    return _summary(figures, read, bank), bank


def _zero_shot(annotator: Annotator, pool: RulePool, examples: Examples, limit: int) -> list[Auc | None]:
    """Areas of the `logits` rater over the first items of each rule, as many as `limit` allows.

    Each item is asked about the rules only that it is labelled by.
    """
    targets = examples.targets
    share = max(1, limit // len(pool.rules)) if limit < len(targets) else len(targets)
    seen = (~targets.isnan()).cumsum(dim=0)
    wanted = ~targets.isnan() & (seen <= share)
    scores = torch.full_like(targets, float("nan"))
    texts = [rule.text for rule in pool.ordered]
    for mask in {tuple(row) for row in wanted.tolist() if any(row)}:
        rules = [r for r, inside in enumerate(mask) if inside]
        rows = [n for n, row in enumerate(wanted.tolist()) if tuple(row) == mask]
        rater = LogitRater(annotator, [texts[r] for r in rules])
        for row, ratings in zip(rows, rater.rate([examples.items[n] for n in rows], truncate=True), strict=True):
            if isinstance(ratings, Ratings):
                scores[row, rules] = ratings.scores[0].double()
    families = torch.arange(len(targets))
    found = []
    for r in range(len(texts)):
        known = ~scores[:, r].isnan()
        found.append(auc(scores[known, r], targets[known, r], families[known]))
    return found


def _summary(figures: Sequence[Figure], read: Read, bank: RuleBank) -> dict[str, object]:
    counted = [figure for figure in figures if figure.labels >= min(_RARE, read_side(figures))]
    means = {name: _mean([getattr(figure, name) for figure in counted]) for name in ("probes", "logits")}
    relevance = _mean([rule.relevant for rule in bank.card.rules])
    unused = [rule.rule for rule in bank.card.rules if not rule.used]
    for figure in figures:
        print(f"{figure.rule:45} {figure.labels:4}  probes {_shown(figure.probes)}  logits {_shown(figure.logits)}")
    print(f"mean over {len(counted)}: {means}; relevance {relevance}; unused {len(unused)}: {', '.join(unused)}")
    print(bank.card.settings, flush=True)
    return {
        "mean": means,
        "counted": len(counted),
        "relevance": relevance,
        "unused": unused,
        "items": len(read.activations),
        "protocol": bank.card.protocol,
        "settings": bank.card.settings,
        "rules": [
            {
                "rule": figure.rule,
                "rarer_labels": figure.labels,
                "probes": figure.probes and figure.probes.model_dump(),
                "logits": figure.logits and figure.logits.model_dump(),
            }
            for figure in figures
        ],
    }


def read_side(figures: Sequence[Figure]) -> int:
    """Labels on the rarer side of the rule that has most; a pool of few examples a rule is counted whole."""
    return max(figure.labels for figure in figures)


def _costs(annotator: Annotator, bank: RuleBank, pairs: Sequence[Pair], asked: int, rounds: int) -> dict[str, object]:
    """Seconds a response of a plain margin, of 100 rules by probes and by logits, the rule last and the rule first."""
    direction = shipped_default(annotator.revision)
    groups = [annotator.template.encode(pair.messages, [pair.chosen, pair.rejected]) for pair in pairs]
    few = [(pair, text) for pair in pairs[:asked] for text in (pair.chosen, pair.rejected)]
    rater = LogitRater(annotator, [rule.text for rule in shipped_pool().ordered])
    shared = [rater.ask(pair.messages, text) for pair, text in few]
    apart = [replace(group, branches=(branch,)) for group in shared for branch in group.branches]
    sites = list(dict.fromkeys([*direction.reads, *bank.reads]))
    mine, theirs = ([sites.index(site) for site in of.reads] for of in (direction, bank))

    def margin() -> None:
        for reading in read_all(annotator, groups, direction.reads):
            direction.scores(reading)

    def probes() -> None:
        for reading in read_all(annotator, groups, sites):
            direction.scores(reading[:, mine])
            bank.scores(reading[:, theirs])

    ways: dict[str, tuple[Callable[[], object], int]] = {
        "margin": (margin, 2 * len(groups)),
        "margin and probes": (probes, 2 * len(groups)),
        "logits, rules last": (lambda: rater.answers(shared), len(few)),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    margin()
    for _ in range(rounds):
        for name, (way, responses) in ways.items():
            seconds[name].append(_timed(way) / responses)
    started = time.perf_counter()
    alone = _told(rater, apart)  # the whole conversation again for every rule, as where the rule comes first
    seconds["logits, rules first"] = [(time.perf_counter() - started) / len(few)]
    difference = (_told(rater, shared) - alone).abs().max()
    costs = {name: statistics.median(times) for name, times in seconds.items()}
    figures: dict[str, object] = {
        "seconds_a_response": costs,
        "probes_to_margin": costs["margin and probes"] / costs["margin"],
        "logits_to_margin": costs["logits, rules last"] / costs["margin"],
        "rules_last_to_first": costs["logits, rules last"] / costs["logits, rules first"],
        "tokens_last_to_first": sum(group.size for group in shared) / sum(group.size for group in apart),
        "tokens_a_conversation": statistics.mean(len(group.prefix) for group in shared),
        "rules": len(bank.card.rules),
        "largest_difference": float(difference),
    }
    print(json.dumps(figures, indent=2), flush=True)
    return figures


def _told(rater: LogitRater, groups: Sequence[Group]) -> Tensor:
    """[n, 3] answers to all branches of all groups."""
    return torch.cat([answers for answers in rater.answers(groups) if isinstance(answers, Tensor)])


def _timed(way: Callable[[], object]) -> float:
    started = time.perf_counter()
    way()
    return time.perf_counter() - started


def _rarer(targets: Tensor) -> int:
    return min(int((targets > 0).sum()), int((targets < 0).sum()))


def _mean(areas: Sequence[Auc | None]) -> float | None:
    values = [area.value for area in areas if area is not None]
    return statistics.mean(values) if values else None


def _shown(area: Auc | None) -> str:
    return "  –                 " if area is None else f"{area.value:.3f} [{area.low:.3f}, {area.high:.3f}]"


def _save(annotator: Annotator, section: str, figures: dict[str, object]) -> None:
    """Put a section beside those measured before of the same annotator."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"rules-{annotator.name}.json"
    found = json.loads(path.read_text()) if path.exists() else {}
    found |= {"annotator": annotator.name, "revision": annotator.revision, section: figures}
    path.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
