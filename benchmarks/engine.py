"""The engine without the service around it."""

from collections.abc import Sequence
from contextlib import ExitStack

from app.schemas.pairs import Pair
from app.settings import Settings
from workers.configured import configured_annotator
from workers.directions.direction import SafetyDirection
from workers.engine.annotator import Annotator
from workers.engine.crew import reader
from workers.engine.packing import Group, pack
from workers.engine.process import side_by_side


class Engine:
    """The annotator with directions, made in the process that is measured; it reads as a worker does.

    Args:
        config: names the annotator.
        pairs: what to score.
        directions: by which; a method is told which of them.
    """

    def __init__(self, config: Settings, pairs: Sequence[Pair], directions: Sequence[SafetyDirection]) -> None:
        self._annotator = configured_annotator(config)
        self._pairs = pairs
        self._directions = {direction.id: direction for direction in directions}
        self._groups = encoded(self._annotator, pairs)
        self._open = ExitStack()
        self._read = self._open.enter_context(reader(self._annotator))
        self._side_by_side = self._open.enter_context(side_by_side(self._annotator.passes))

    def score(self, direction_id: str) -> None:
        """Encode all pairs, read them, project them."""
        direction = self._directions[direction_id]
        groups = encoded(self._annotator, self._pairs)
        batches = [[groups[i] for i in batch] for batch in pack(groups, self._annotator.budget.tokens)]
        for reading in self._side_by_side.map(lambda batch: self._read(batch, direction.reads), batches):
            direction.scores(reading)

    def forward(self, index: int, direction_id: str) -> None:
        """The bare forward pass of one pair."""
        self._read([self._groups[index]], self._directions[direction_id].reads)


def encoded(annotator: Annotator, pairs: Sequence[Pair]) -> list[Group]:
    """Tokens of pairs."""
    return [annotator.template.encode(pair.messages, [pair.chosen, pair.rejected]) for pair in pairs]
