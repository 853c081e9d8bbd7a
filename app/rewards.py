"""Reward models in the artifact store, by id and content digest: `reward-models/{id}/{digest}/`.

reward.json                                  the card
config.json, model.safetensors, tokenizer…   the classifier as transformers loads it; of adapters, merged
adapter/                                     what was trained of a model with adapters, in peft's files
curves.json, curves.png                      how it went
"""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from app.schemas.rewards import RewardCard
from app.shelf import CardShelf, Missing

CARD, CURVES, PICTURE, ADAPTER = "reward.json", "curves.json", "curves.png", "adapter"


class RewardMissing(Missing):
    """No reward model of this id, or none of this digest, is in the store."""


@dataclass(frozen=True)
class RewardModels(CardShelf[RewardCard]):
    """The reward models of one artifact store; `RewardMissing` where one is not there."""

    folder: ClassVar[str] = "reward-models"
    noun: ClassVar[str] = "reward model"
    missing: ClassVar[type[Missing]] = RewardMissing
    schema: ClassVar[type[RewardCard]] = RewardCard
    card_file: ClassVar[str] = CARD

    def fetch(self, name: str, digest: str, folder: Path) -> None:
        """Copy what a classifier is loaded of into a local folder, in constant memory; its card is the last.

        Raises:
            missing: it is not there.
        """
        card = RewardCard.model_validate_json(self.part(name, digest, CARD))
        folder.mkdir(parents=True, exist_ok=True)
        for file in (file for file in card.files if "/" not in file):
            _size, blocks = self.blocks(name, digest, file)
            with (folder / file).open("wb") as out:
                for block in blocks:
                    out.write(block)
        (folder / CARD).write_bytes(self.part(name, digest, CARD))
