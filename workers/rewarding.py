"""The reward models of the artifact store: known by their cards, loaded when they are asked for."""

import tempfile
from pathlib import Path

from pydantic import ValidationError

from app.rewards import CARD, RewardModels
from app.schemas.names import Ref
from app.schemas.rewards import RewardCard
from app.shelf import Missing
from workers.engine.annotator import Annotator
from workers.engine.lastused import LastUsed
from workers.holding import Holding, NotHeld
from workers.rewards.errors import RewardError, UnusableModel
from workers.rewards.serving import ServedReward, served

_KEPT = 2
"""Reward models that a worker keeps in memory: one that is in use, and one beside it."""


class HeldRewards(Holding[RewardCard]):
    """The reward models that there are; whatever they were made of, a worker reads them beside its annotator.

    Args:
        models: those of the artifact store.
        annotator: whose device, precision and budget they share.
    """

    def __init__(self, models: RewardModels, annotator: Annotator) -> None:
        super().__init__(models, self._read, RewardError)
        self._models = models
        self._annotator = annotator
        self._served = LastUsed[ServedReward](_KEPT)

    def served(self, ref: Ref) -> ServedReward:
        """The reward model in memory; of those asked for, the last two are kept.

        Raises:
            NotHeld: it was deleted, is damaged, or cannot be served.
        """
        card = self.get(ref)
        try:
            return self._served.get(ref.digest, lambda: self._loaded(card))
        except Missing:
            raise NotHeld(f"{self.noun} {ref.id} was deleted while the job used it") from None
        except RewardError as error:
            raise NotHeld(str(error)) from error

    def _loaded(self, card: RewardCard) -> ServedReward:
        with tempfile.TemporaryDirectory(prefix="safemargin-reward-") as scratch:
            folder = Path(scratch) / card.id
            self._models.fetch(card.id, card.digest, folder)
            return served(card, folder, self._annotator)

    def _read(self, name: str, digest: str) -> RewardCard:
        try:
            card = RewardCard.model_validate_json(self._models.part(name, digest, CARD))
        except ValidationError as error:
            raise UnusableModel(f"{name}: unreadable reward model ({type(error).__name__})") from None
        if (card.id, card.digest) != (name, digest):
            raise self._models.missing(f"what is stored as {name} is {card.id} of another digest")
        return card
