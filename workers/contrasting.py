"""How a worker asks a taught model itself about pairs: how likely it finds their responses, in two ways."""

from collections.abc import Sequence
from dataclasses import dataclass

from app.schemas.chunk import Contrasting
from app.schemas.pairs import Pair
from workers.alignment.batches import both
from workers.alignment.margins import Contrast
from workers.alignment.shelved import Shelved
from workers.engine.errors import PairRefused
from workers.entries import ItemReading
from workers.registry import Holdings
from workers.turns import ASKING, Manner

_TOKENS = 512
"""Of a pair, in both ways; roughly."""


@dataclass(frozen=True)
class PairContrast:
    """Reads the pairs of a chunk by what a taught model says.

    Attributes:
        alignment: the taught model.
        contrast: what it says.
        truncate: whether prompts that do not fit are cut.
        manner: how the chunk is worked on.
    """

    alignment: Shelved
    contrast: Contrast
    truncate: bool
    manner: Manner

    @classmethod
    def of(cls, contrasting: Contrasting, holdings: Holdings, truncate: bool, manner: Manner) -> "PairContrast":
        """As a chunk asks for.

        Raises:
            NotHeld: the taught model is not to be had.
        """
        held, ref = holdings.alignments, contrasting.alignment
        return cls(held.get(ref), held.contrast(ref), truncate, manner)

    def readings(self, pairs: Sequence[Pair]) -> list[ItemReading | PairRefused]:
        """What it says of every pair, in nats; the reason instead where it cannot be asked.

        Some at a time: about as many as fill a pass on every core, or on the device.
        """
        found: list[ItemReading | PairRefused] = []
        annotator = self.contrast.sides[0].annotator
        some = annotator.passes * max(1, annotator.budget.tokens // _TOKENS)
        for start in range(0, len(pairs), some):
            self.manner.go_on()
            with ASKING.turn(urgent=self.manner.urgent):
                scored = self.contrast.scores(both(pairs[start : start + some]), truncate=self.truncate)
            found += [
                one
                if isinstance(one, PairRefused)
                else ItemReading([one.scores.tolist()], one.prompt, one.responses, one.truncated)
                for one in scored
            ]
        return found
