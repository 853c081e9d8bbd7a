"""What margins do to linear reward models: all arms of an experiment, hundreds of fits that take seconds.

    safemargin experiment margins pairs.jsonl --labelled labelled.jsonl --out FOLDER --trained 4 …
    python -m benchmarks.heads pairs.jsonl FOLDER --labelled labelled.jsonl …

with the same options. A reward is linear in the mean over the response of what the blocks that were not trained make of
it, which the experiment's folder has, as it has the sources' margins. Loss and arms are the experiment's, the fit is
exact, with a ridge chosen without margins on the pairs trained on. Every arm is fitted on the same subsets of these
pairs' prompts, which take the place of seeds.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import logsigmoid

from app.schemas.marginreport import ArmOn
from app.schemas.pairs import Message
from app.schemas.rewards import RewardSettings
from app.settings import settings
from benchmarks.summaries import markdown, save
from workers.configured import configured_annotator
from workers.directions.datafiles import FileLabelled, read_rows
from workers.directions.evaluation import folds
from workers.engine.annotator import Annotator
from workers.experiments.arms import ARMS, PLAIN, Arm
from workers.experiments.benches import Base
from workers.experiments.figures import arm_on
from workers.experiments.margins import with_margins
from workers.experiments.parts import Parts, families, part
from workers.experiments.sources import Sourced
from workers.experiments.trunk import first_rows
from workers.rewards.annotated import Annotated, read_annotated
from workers.rewards.lessons import lessons
from workers.rewards.losses import pair_losses
from workers.rewards.markdown import DASH, interval
from workers.rewards.model import RewardModel
from workers.rewards.reading import families_of

_RIDGES = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
_STEPS = 40
_SHARE = 0.8
_SMALL = 1e-9


def main() -> None:
    """Fit everything, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="the experiment's pairs")
    parser.add_argument("folder", type=Path, help="the experiment's folder")
    parser.add_argument("--labelled", type=Path, help="the experiment's labelled responses")
    parser.add_argument("--pairs", type=int)
    parser.add_argument("--held-out", type=float, default=0.4)
    parser.add_argument("--balance-pairs", type=int)
    parser.add_argument("--blocks", type=int)
    parser.add_argument("--max-length", type=int, default=1024)
    parser.add_argument("--subsets", type=int, default=25, help="of the prompts trained on")
    options = parser.parse_args()
    config = settings()
    annotator = configured_annotator(config)
    reader = Base(config.model, config.home_folder, config.device, options.blocks).model(0, options.max_length)
    parts = part(
        reader,
        annotator,
        read_annotated(options.data).pairs,
        read_rows(options.labelled, FileLabelled) if options.labelled else [],
        held_out=options.held_out,
        limit=options.pairs,
        balance_pairs=options.balance_pairs,
    )
    found = compare(Features.of(annotator, reader, parts, options.folder), parts, options.folder, options.subsets)
    sets = list(parts.sets)
    rows = [[arm, *(cell for name in sets for cell in _cells(own[name]))] for arm, own in found.items()]
    table = markdown(["arm", *(cell for name in sets for cell in (name, "gain", "p"))], rows)
    figures = {arm: {name: one.model_dump() for name, one in own.items()} for arm, own in found.items()}
    save("margins-linear", {"data": options.data.name, "subsets": options.subsets, "arms": figures}, table)
    print(table)


@dataclass(frozen=True)
class Features:
    """What a reward is linear in.

    Attributes:
        reader: says which tokens a dialogue has.
        starts: first row of every dialogue in the table.
        table: [T, d] residual streams.
        annotator: says where a response begins.
    """

    reader: RewardModel
    starts: Mapping[tuple[int, ...], int]
    table: Tensor
    annotator: Annotator

    @classmethod
    def of(cls, annotator: Annotator, reader: RewardModel, parts: Parts, folder: Path) -> "Features":
        """Those that an experiment has stored."""
        texts = parts.texts(reader)
        return cls(reader, first_rows(texts, reader), load_file(folder / "trunk.safetensors")["table"], annotator)

    def difference(self, messages: Sequence[Message], preferred: str, other: str) -> Tensor:
        """[d] of two responses."""
        return self._mean(messages, preferred) - self._mean(messages, other)

    def _mean(self, messages: Sequence[Message], response: str) -> Tensor:
        tokens = self.reader.encode(messages, response)
        before = min(len(self.annotator.template.encode(messages, [response]).prefix), len(tokens) - 1)
        start = self.starts[tuple(tokens)]
        return self.table[start + before : start + len(tokens)].double().mean(dim=0)

    def of_pairs(self, pairs: Sequence[Annotated]) -> Tensor:
        """[n, d] chosen less rejected."""
        return torch.stack([self.difference(one.pair.messages, one.pair.chosen, one.pair.rejected) for one in pairs])


def compare(features: Features, parts: Parts, folder: Path, subsets: int) -> dict[str, dict[str, ArmOn]]:
    """Figures of every arm whose source is there, on every set."""
    own = families_of(parts.train)
    plain = features.of_pairs(parts.train)
    scale = plain.square().mean(dim=0).sqrt().clamp(min=1e-9) * plain.shape[1] ** 0.5
    tests = {name: features.of_pairs(pairs) / scale for name, pairs in parts.sets.items()}
    ridge = _chosen(plain / scale, own)
    print(f"ridge {ridge:g}")
    kept = [_subset(own, seed) for seed in range(subsets)]
    gaps: dict[str, dict[str, list[Tensor]]] = {}
    for arm in ARMS.values():
        path = folder / "sources" / f"{arm.source}.json"
        if arm.source and not path.exists():
            continue
        gaps[arm.name] = {name: [] for name in tests}
        for seed, inside in enumerate(kept):
            head = _fitted(arm, path, parts, features, scale, inside, seed, ridge)
            for name, test in tests.items():
                gaps[arm.name][name].append(test @ head)
    return {
        arm: {
            name: arm_on(own_gaps[name], None if arm == PLAIN else gaps[PLAIN][name], families(name, parts.sets[name]))
            for name in tests
        }
        for arm, own_gaps in gaps.items()
    }


def _fitted(
    arm: Arm, path: Path, parts: Parts, features: Features, scale: Tensor, inside: Tensor, seed: int, ridge: float
) -> Tensor:
    pairs: Sequence[Annotated] = parts.train
    if arm.source:
        margins = torch.tensor(Sourced.model_validate_json(path.read_bytes()).margins, dtype=torch.double)
        pairs = with_margins(pairs, arm.margins(margins, 0.5, seed))
    how = RewardSettings.model_validate(dict(arm.settings))
    learnt, _ = lessons([pairs[place] for place in inside.tolist()], how)
    rows = torch.stack([features.difference(one.messages, one.preferred, one.other) for one in learnt]) / scale
    margins = torch.tensor([one.margin for one in learnt], dtype=torch.double)
    weights = torch.tensor([one.weight for one in learnt], dtype=torch.double)
    return fit(rows, margins, weights, how.label_smoothing, ridge)


def fit(rows: Tensor, margins: Tensor, weights: Tensor, smoothing: float, ridge: float) -> Tensor:
    """[d] head with the least sum of `pair_losses` and of half its squared length times the ridge, by Newton steps."""
    kernel, dual = rows @ rows.T, torch.zeros(len(rows), dtype=torch.double)
    eye = torch.eye(len(rows), dtype=torch.double)

    def cost(at: Tensor) -> float:
        return float(pair_losses(kernel @ at, margins, weights, smoothing).sum() + ridge / 2 * at @ kernel @ at)

    for _ in range(_STEPS):
        gaps = kernel @ dual
        likely = torch.sigmoid(gaps - margins)
        slope = weights * (smoothing * likely - (1 - smoothing) * (1 - likely))
        curve = weights * likely * (1 - likely)
        step = torch.linalg.solve(curve[:, None] * kernel + ridge * eye, curve * gaps - slope) - dual
        while cost(dual + step) > cost(dual) and float(step.abs().max()) > _SMALL:
            step = step / 2
        dual = dual + step
        if float(step.abs().max()) <= _SMALL:
            break
    return rows.T @ dual


def _chosen(rows: Tensor, own: Tensor) -> float:
    """The ridge with the best likelihood in cross-validation over prompts, without margins."""
    fold = folds(own)

    def held_out(ridge: float) -> float:
        total = 0.0
        for number in range(int(fold.max()) + 1):
            train = rows[fold != number]
            head = fit(train, torch.zeros(len(train)).double(), torch.ones(len(train)).double(), 0.0, ridge)
            total += float(logsigmoid(rows[fold == number] @ head).sum())
        return total

    return max(_RIDGES, key=held_out)


def _subset(own: Tensor, seed: int) -> Tensor:
    """Places of the pairs of this share of the prompts."""
    numbers = torch.unique(own)
    order = torch.randperm(len(numbers), generator=torch.Generator().manual_seed(seed))
    return torch.isin(own, numbers[order[: round(len(numbers) * _SHARE)]]).nonzero()[:, 0]


def _cells(one: ArmOn) -> tuple[str, str, str]:
    return interval(one.accuracy), interval(one.gain, "+"), DASH if one.p is None else f"{one.p:.3f}"


if __name__ == "__main__":
    main()
