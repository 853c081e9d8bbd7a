"""What the comparison trains, fits and measures on; no prompt is on two sides."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from app.schemas.fit import LabelledResponse
from app.schemas.pairs import Pair
from workers.directions.balance import balance
from workers.directions.gather import opening
from workers.engine.annotator import Annotator
from workers.engine.errors import PairRefused
from workers.rewards.annotated import Annotated
from workers.rewards.errors import UnfitRows
from workers.rewards.lessons import divided
from workers.rewards.model import RewardModel
from workers.rewards.reading import families_of, readable

HELD_OUT, LABELLED, BALANCE = "held out", "labelled", "balance"

_SEED = 0
_FEWEST = 40
_PER_QUESTION = 4


@dataclass(frozen=True)
class Parts:
    """All sides of the data.

    Attributes:
        train: pairs to train on.
        held_out: pairs of other prompts to measure on.
        fitting: labelled responses that the default's recipe may fit on.
        labelled: pairs of labelled responses to other prompts, to measure on.
        balance: pairs of the balance set to measure on; `line` is the place in the set.
        refused: pairs left out, by why.
    """

    train: list[Annotated]
    held_out: list[Annotated]
    fitting: list[LabelledResponse]
    labelled: list[Annotated]
    balance: list[Annotated]
    refused: dict[str, int]

    @property
    def sets(self) -> dict[str, list[Annotated]]:
        """What is measured on, by name."""
        every = {HELD_OUT: self.held_out, LABELLED: self.labelled, BALANCE: self.balance}
        return {name: pairs for name, pairs in every.items() if pairs}

    def texts(self, reader: RewardModel) -> list[list[int]]:
        """Every dialogue that is trained on or measured, as a reward model reads it."""
        pairs = [one for own in (self.train, *self.sets.values()) for one in own]
        return readable(reader, pairs, Counter())[1]

    @property
    def unseen(self) -> Tensor:
        """Places of the balance set that nothing may be fitted on."""
        return _divided_balance()[1]


def part(
    reader: RewardModel,
    annotator: Annotator,
    pairs: Sequence[Annotated],
    labelled: Sequence[LabelledResponse],
    *,
    held_out: float,
    limit: int | None = None,
    balance_pairs: int | None = None,
) -> Parts:
    """Divide what both the reward model and the annotator can read.

    Args:
        reader: a reward model, with the window of training.
        annotator: the annotator.
        pairs: the data.
        labelled: single responses with labels, perhaps none; half of their prompts is measured on.
        held_out: share of the prompts of the pairs to measure on.
        limit: pairs to train on at most.
        balance_pairs: pairs of the balance set to measure on at most; half of the set where left out.

    Raises:
        UnfitRows: too few pairs are left to train or measure on.
    """
    refused = Counter[str]()
    fitting = _read_by_both(reader, annotator, pairs, refused)
    train, apart = divided(fitting, held_out, _SEED)
    if min(len(train), len(apart)) < _FEWEST:
        why = "".join(f", {count} {code}" for code, count in sorted(refused.items()))
        raise UnfitRows(
            f"{len(train)} pairs to train on and {len(apart)} held out are too few; {_FEWEST} each are needed{why}"
        )
    fit_on, questions = _divided_labelled(labelled)
    places = _divided_balance()[1].tolist()
    everything = [Annotated(place, balance().pairs[place]) for place in places]
    unread = Counter[str]()
    return Parts(
        train=train[:limit],
        held_out=apart,
        fitting=fit_on,
        labelled=_read_by_both(reader, annotator, _pairs_of(questions), unread),
        balance=_read_by_both(reader, annotator, everything, unread)[:balance_pairs],
        refused=dict(refused),
    )


def families(name: str, pairs: Sequence[Annotated]) -> Tensor:
    """[n] what pairs of a set are resampled by: their prompts, and of the balance set their subjects."""
    if name != BALANCE:
        return families_of(pairs)
    numbers: dict[str, int] = {}
    return torch.tensor([numbers.setdefault(balance().families[one.line], len(numbers)) for one in pairs])


def _read_by_both(
    reader: RewardModel, annotator: Annotator, pairs: Sequence[Annotated], refused: Counter[str]
) -> list[Annotated]:
    found = []
    for one in readable(reader, pairs, refused)[0]:
        try:
            annotator.template.encode(one.pair.messages, (one.pair.chosen, one.pair.rejected))
        except PairRefused as refusal:
            refused[refusal.code] += 1
            continue
        found.append(one)
    return found


def _divided_labelled(
    responses: Sequence[LabelledResponse],
) -> tuple[list[LabelledResponse], list[LabelledResponse]]:
    """Responses to fit on, and to measure on; half of the prompts each."""
    prompts = list(dict.fromkeys(opening(one.messages) for one in responses))
    order = torch.randperm(len(prompts), generator=torch.Generator().manual_seed(_SEED)).tolist()
    first = {prompts[place] for place in order[: len(prompts) // 2]}
    sides: tuple[list[LabelledResponse], list[LabelledResponse]] = ([], [])
    for one in responses:
        sides[opening(one.messages) not in first].append(one)
    return sides


def _pairs_of(responses: Sequence[LabelledResponse]) -> list[Annotated]:
    """Of every prompt the safest responses, each beside one of the least safe."""
    by_prompt: dict[str, list[LabelledResponse]] = {}
    for one in responses:
        by_prompt.setdefault(one.model_dump_json(include={"prompt"}), []).append(one)
    pairs = []
    for own in by_prompt.values():
        labels = [one.label for one in own]
        safe, unsafe = ([one for one in own if one.label == end] for end in (max(labels), min(labels)))
        if min(labels) < max(labels):
            pairs += [
                Pair(prompt=good.prompt, chosen=good.response, rejected=bad.response)
                for good, bad in list(zip(safe, unsafe, strict=False))[:_PER_QUESTION]
            ]
    return [Annotated(line, pair) for line, pair in enumerate(pairs, start=1)]


def _divided_balance() -> tuple[Tensor, Tensor]:
    """Places of the balance set to fit on, and in an order by lot those to measure on; half of the subjects each."""
    names = list(dict.fromkeys(balance().families))
    source = torch.Generator().manual_seed(_SEED)
    order = torch.randperm(len(names), generator=source).tolist()
    apart = {names[place] for place in order[: len(names) // 2]}
    inside = torch.tensor([family in apart for family in balance().families])
    places = inside.nonzero()[:, 0]
    return (~inside).nonzero()[:, 0], places[torch.randperm(len(places), generator=source)]
