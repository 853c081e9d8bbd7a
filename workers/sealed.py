"""What is stored as a card and numbers that belong together by a digest: JSON and safetensors.

Nothing is read that could run code.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from pydantic import BaseModel, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

Card = TypeVar("Card", bound=BaseModel)


@dataclass(frozen=True)
class Format(Generic[Card]):
    """The two files of one kind of thing.

    Attributes:
        noun: what one of them is called.
        schema: of its card, which has a `digest`.
        card, tensors: names of the files.
        unusable: what is raised where they cannot be used.
    """

    noun: str
    schema: type[Card]
    card: str
    tensors: str
    unusable: type[Exception]

    def files(self, card: Card, tensors: Mapping[str, Tensor]) -> dict[str, bytes]:
        """Files by name."""
        text = json.dumps(card.model_dump(), indent=1, ensure_ascii=False) + "\n"
        return {self.tensors: save(dict(tensors)), self.card: text.encode()}

    def parsed(self, name: str, files: Mapping[str, bytes]) -> tuple[Card, dict[str, Tensor]]:
        """Card and numbers of files that `files` gave, or so they claim; `check` says whether they did.

        Args:
            name: what to call it in errors.
            files: by name.

        Raises:
            unusable: one is missing or damaged.
        """
        try:
            return self.card_of(name, files[self.card]), load(files[self.tensors])
        except (SafetensorError, KeyError, ValueError, TypeError, RuntimeError) as error:
            raise self._unreadable(name, error) from error

    def card_of(self, name: str, content: bytes) -> Card:
        """The card alone.

        Raises:
            unusable: it is damaged.
        """
        try:
            return self.schema.model_validate_json(content)
        except ValidationError as error:
            raise self._unreadable(name, error) from error

    def _unreadable(self, name: str, error: Exception) -> Exception:
        return self.unusable(f"{name}: unreadable {self.noun} ({type(error).__name__})")

    def check(self, name: str, card: Card, tensors: Mapping[str, Tensor]) -> None:
        """Refuse what is not the content that the card's digest stands for.

        Raises:
            unusable: it is not, or some number is not a finite one of 32 bits.
        """
        if not all(part.dtype == torch.float32 and bool(torch.isfinite(part).all()) for part in tensors.values()):
            raise self.unusable(f"{name}: not all of its numbers are finite ones of 32 bits")
        if digest(card, tensors) != card.model_dump()["digest"]:
            raise self.unusable(f"{name}: content does not match its digest")


def digest(card: BaseModel, tensors: Mapping[str, Tensor]) -> str:
    """`sha256:` digest over a card, its own digest left out, and the tensors in the order of their names."""
    content = hashlib.sha256(
        json.dumps(card.model_dump(exclude={"digest"}), sort_keys=True, ensure_ascii=False).encode()
    )
    for name in sorted(tensors):
        content.update(name.encode() + str(tuple(tensors[name].shape)).encode())
        content.update(tensors[name].contiguous().numpy().tobytes())
    return "sha256:" + content.hexdigest()


def with_digest(card: Card, tensors: Mapping[str, Tensor]) -> Card:
    """The card with the digest that belongs to it and these numbers."""
    return card.model_copy(update={"digest": digest(card, tensors)})
