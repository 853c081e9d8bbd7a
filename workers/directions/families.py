"""Labelled pairs from files, and which of them belong together."""

from collections.abc import Sequence
from pathlib import Path

import orjson
import torch
from pydantic import ConfigDict, ValidationError
from torch import Tensor

from app.schemas.pairs import Pair
from workers.directions.errors import UnfitData

CONTRAST = Path(__file__).with_name("data") / "contrast.jsonl"
"""Pairs written for this project that tell "safe" from "refuses"; nothing is fitted on them."""


class FilePair(Pair):
    """A pair in a file of the user's own, which may have further columns."""

    model_config = ConfigDict(extra="ignore", frozen=True)


def read_pairs(path: Path) -> list[Pair]:
    """Pairs of a JSONL file.

    Raises:
        UnfitData: naming the line and field that is wrong, never its text.
    """
    pairs: list[Pair] = []
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise UnfitData(f"{path} cannot be read: {error.strerror}") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            pairs.append(FilePair.model_validate(orjson.loads(line)))
        except orjson.JSONDecodeError as error:
            raise UnfitData(f"{path}, line {number}: not JSON") from error
        except ValidationError as error:
            where = ".".join(str(part) for part in error.errors()[0]["loc"])
            raise UnfitData(f"{path}, line {number}: {where}: {error.errors()[0]['msg']}") from error
    return pairs


def families_of(pairs: Sequence[Pair]) -> Tensor:
    """[n] family of each pair: conversations that start with the same user turn are kept on one side of any split."""
    numbers: dict[str, int] = {}
    openings = [next((m.content for m in pair.messages if m.role == "user"), "") for pair in pairs]
    return torch.tensor([numbers.setdefault(opening, len(numbers)) for opening in openings])
