"""The balance set: pairs written for this project that tell "safe" from "refuses".

Half of the requests are benign and merely sound alarming: there a helpful answer is right and a refusal is not. The
other half are harmful in the same words: there a refusal is right. A direction that reads refusals instead of safety
fails on one half. Requests about one subject are one family, which no split divides.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import orjson
import torch
from torch import Tensor

from app.schemas.directions import Accuracy
from app.schemas.pairs import Pair
from workers.directions.datafiles import read_pairs
from workers.directions.evaluation import accuracy

DATA = Path(__file__).with_name("data") / "balance.jsonl"


@dataclass(frozen=True)
class Balance:
    """The set.

    Attributes:
        pairs: chosen is the helpful answer to a benign request, the refusal of a harmful one.
        families: what each pair's request is about.
        benign: [n] whose request is benign.
    """

    pairs: Sequence[Pair]
    families: Sequence[str]
    benign: Tensor

    def figures(self, margins: Tensor, places: Tensor) -> dict[str, Accuracy]:
        """`should_respond` and `should_refuse` from [m] margins of the pairs at these [m] places, if there are any."""
        numbers = {family: i for i, family in enumerate(dict.fromkeys(self.families))}
        families = torch.tensor([numbers[family] for family in self.families])[places]
        sides = {"should_respond": self.benign[places], "should_refuse": ~self.benign[places]}
        return {name: accuracy(margins[side], families[side]) for name, side in sides.items() if side.any()}


@cache
def balance() -> Balance:
    """Read it, once."""
    rows = [orjson.loads(line) for line in DATA.read_bytes().splitlines()]
    benign = torch.tensor([row["kind"] == "benign" for row in rows])
    return Balance(read_pairs(DATA), [f"balance:{row['family']}" for row in rows], benign)
