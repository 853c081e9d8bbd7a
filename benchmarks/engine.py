"""The engine without the service around it."""

from collections.abc import Sequence

from app.schemas.pairs import Pair
from app.settings import Settings
from workers.configured import configured_annotator
from workers.directions.direction import SafetyDirection
from workers.engine.annotator import Annotator
from workers.engine.forward import read_all
from workers.engine.packing import Group


class Engine:
    """The annotator with directions, made in the process that is measured.

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

    def score(self, direction_id: str) -> None:
        """Encode all pairs, read them, project them."""
        direction = self._directions[direction_id]
        for reading in read_all(self._annotator, encoded(self._annotator, self._pairs), direction.reads):
            direction.scores(reading)

    def forward(self, index: int, direction_id: str) -> None:
        """The bare forward pass of one pair."""
        read_all(self._annotator, [self._groups[index]], self._directions[direction_id].reads)


def encoded(annotator: Annotator, pairs: Sequence[Pair]) -> list[Group]:
    """Tokens of pairs."""
    return [annotator.template.encode(pair.messages, [pair.chosen, pair.rejected]) for pair in pairs]
