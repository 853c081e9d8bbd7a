"""What a run measures: pairs, the annotator's tokens of them, directions that stop at chosen depths."""

import os
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PretrainedConfig

from app.artifacts import Artifacts
from app.registry import Registry
from app.schemas.pairs import Message, Pair
from app.settings import Settings, settings
from benchmarks.ceiling import SQUARES, Product
from benchmarks.engine import encoded
from benchmarks.work import Shape, paired
from workers.configured import configured_annotator
from workers.directions.datafiles import read_pairs
from workers.directions.direction import SafetyDirection, known, new_direction
from workers.directions.files import shipped_default, to_files
from workers.engine.packing import Group
from workers.engine.sites import Site
from workers.engine.weights import locate

_SEED = 0
HALF = 0.5


@dataclass(frozen=True)
class Case:
    """One set of pairs and one annotator, the same for every row of a table.

    Attributes:
        pairs: no two of one prompt, so that nothing is saved that other pairs would not save.
        groups: their tokens, the prompt once.
        config: the settings, with a port of its own choice.
        folder: of the annotator's converted weights.
        model: the annotator's configuration.
        depth: its layers.
        passes: how many passes the engine runs side by side.
        budget: tokens of one of them.
        identity: name, revision and template digest.
        dtype: name of its dtype.
        data: name of the file that the pairs come from.
    """

    pairs: list[Pair]
    groups: list[Group]
    config: Settings
    folder: str
    model: PretrainedConfig
    depth: int
    passes: int
    budget: int
    identity: tuple[str, str, str]
    dtype: str
    data: str

    @classmethod
    def of(cls, data: Path, count: int) -> "Case":
        """A random choice of so many pairs of a file, encoded by the annotator that the settings ask for."""
        config = settings().model_copy(update={"port": 0})
        annotator = configured_annotator(config)
        pairs = chosen(read_pairs(data), count)
        return cls(
            pairs=pairs,
            groups=encoded(annotator, pairs),
            config=config,
            folder=locate(config.model, config.home_folder).path,
            model=annotator.model.config,
            depth=annotator.depth,
            passes=annotator.passes,
            budget=annotator.budget.tokens,
            identity=(annotator.name, annotator.revision, annotator.template.digest),
            dtype=annotator.dtype_name,
            data=data.name,
        )

    @property
    def tokens(self) -> int:
        """Tokens of all pairs, every prompt once."""
        return sum(group.size for group in self.groups)

    @property
    def products(self) -> tuple[Product, ...]:
        """Matrix products to find the machine's rate with: squares, and the largest of a block over a full pass."""
        text = self.model.get_text_config()
        wide = int(text.intermediate_size)
        width = int(text.hidden_size)
        return (*SQUARES, (self.budget, width, wide), (self.budget, wide, width))

    def default(self) -> SafetyDirection:
        """The direction that ships for this annotator."""
        return shipped_default(self.identity[1])

    def at_depth(self, share: float) -> SafetyDirection:
        """A random direction that reads one layer, behind which the pass ends; `depth-16` executes 16 layers."""
        layer = min(int(self.depth * share), self.depth - 1)
        width = self.model.get_text_config().hidden_size
        vector = torch.randn(1, width, generator=torch.Generator().manual_seed(_SEED))
        name, sites = f"depth-{layer + 1}", (Site(layer, "mean"),)
        made = new_direction(name, sites, vector, model=self.identity, recipe="random", settings={})
        return known(made, slope=1.0, unreliable=False)

    def layers(self, direction: SafetyDirection) -> int:
        """How many layers are executed for a direction."""
        return min(max(site.layer for site in direction.reads) + 1, self.depth)

    def work(self, direction: SafetyDirection) -> int:
        """FLOPs that the engine needs for all pairs and a direction."""
        return paired(Shape.of(self.model, self.layers(direction)), self.groups)

    def facts(self) -> dict[str, object]:
        """What a result says of it."""
        return {
            "annotator": self.identity[0],
            "dtype": self.dtype,
            "data": self.data,
            "pairs": len(self.pairs),
            "tokens": self.tokens,
        }


def chosen(pairs: Sequence[Pair], count: int) -> list[Pair]:
    """A random choice in which every prompt occurs once.

    Raises:
        SystemExit: there are not so many prompts.
    """
    apart = list({tuple(pair.messages): pair for pair in pairs}.values())
    if count > len(apart):
        raise SystemExit(f"the file has {len(apart)} different prompts, not {count}")
    return random.Random(_SEED).sample(apart, count)


def widened(pairs: Sequence[Pair], count: int) -> list[Pair]:
    """So many pairs: these over and over, each time behind another number, so that nothing is computed before."""
    return [_numbered(pairs[i % len(pairs)], i) for i in range(count)]


def store(folder: Path, *directions: SafetyDirection) -> None:
    """Publish directions into a store of this run's own; services started from now on use it and cache no scores."""
    registry = Registry(Artifacts(str(folder)))
    for direction in directions:
        registry.publish(direction.id, direction.card.digest, to_files(direction))
    os.environ |= {"SAFEMARGIN_ARTIFACTS": str(folder), "SAFEMARGIN_SCORE_CACHE_ENTRIES": "0"}


def _numbered(pair: Pair, number: int) -> Pair:
    first, *others = pair.messages
    messages = [Message(role=first.role, content=f"{number}. {first.content}"), *others]
    return Pair(prompt=messages, chosen=pair.chosen, rejected=pair.rejected)
