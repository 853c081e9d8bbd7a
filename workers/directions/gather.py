"""From sources to rows: what the annotator is made to read for each recipe.

Every recipe's row is a linear combination of activations: a pair's is chosen − rejected, a response's read under two
instructions good − bad, a request's mean refusal − answer, a labelled response's that response alone (which `labels`
makes a difference).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from app.schemas.fit import AnySource, ContrastSource, LabelledSource, LegendSource, PairsSource
from app.schemas.pairs import Message, Pair
from workers.directions.balance import balance
from workers.directions.direction import SafetyDirection
from workers.directions.errors import UnfitData
from workers.directions.labels import centre
from workers.directions.legend import LONGEST_ANSWER, answer_requests, read_requests
from workers.directions.refusals import REFUSALS, is_refusal
from workers.directions.rows import Rows, spool
from workers.engine.annotator import Annotator
from workers.engine.errors import PairRefused
from workers.engine.forward import read_each
from workers.engine.packing import Group
from workers.engine.sites import Pooling, Site

POOLINGS: tuple[Pooling, ...] = ("mean", "end_of_turn")
"""What is read of a response."""

MIN_SIDE = 10
"""Fewest answers on either side of a two-sided `legend` source."""

Progress = Callable[[int, int], None]
"""Told how much is done and how much there is."""


@dataclass(frozen=True)
class Part:
    """A group to read for a row: the row is the sum over its parts of `coefficients` @ the responses' activations."""

    group: Group
    row: int
    coefficients: tuple[float, ...]


@dataclass(frozen=True)
class Note:
    """What is known of a row before anything is read; see `Rows` for the meanings."""

    family: str
    source: int
    weight: float
    length: float = 0.0
    refusal: float = 0.0
    label: float | None = None
    balance: int = -1


@dataclass
class Plan:
    """Everything to read for a fit, and how many rows do not fit the annotator's window."""

    annotator: Annotator
    parts: list[Part] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)
    skipped: int = 0

    def add(self, note: Note, *parts: tuple[Sequence[Message], Sequence[str], Sequence[float]]) -> None:
        """Note a row of parts, each of messages, responses and their coefficients."""
        try:
            groups = [self.annotator.template.encode(messages, responses) for messages, responses, _ in parts]
        except PairRefused:
            self.skipped += 1
            return
        row = len(self.notes)
        self.parts += [Part(g, row, tuple(c)) for g, (_, _, c) in zip(groups, parts, strict=True)]
        self.notes.append(note)


def plan(annotator: Annotator, sources: Sequence[AnySource], progress: Progress) -> Plan:
    """What has to be read for these sources; for `legend` the annotator answers its requests first.

    Raises:
        UnfitData: the sides of a source are the same.
    """
    made = Plan(annotator)
    for index, source in enumerate(sources):
        match source:
            case PairsSource():
                _plan_pairs(made, source, index)
            case LabelledSource():
                _plan_labelled(made, source, index)
            case ContrastSource():
                _plan_contrast(made, source, index)
            case LegendSource():
                _plan_legend(made, source, index, progress)
    return made


def gather(
    made: Plan, layers: Sequence[int], request_layer: int, controls: Sequence[SafetyDirection], progress: Progress
) -> Rows:
    """Read a plan.

    Args:
        made: what to read.
        layers: at these L layers, with every one of the P `POOLINGS`.
        request_layer: where the request is read.
        controls: C directions whose margins of the rows are wanted too.
        progress: told how many groups are read.

    Raises:
        UnfitData: labelled responses that are all alike, or rows that cannot give a direction.
    """
    sites = [Site(layer, pooling) for layer in layers for pooling in POOLINGS] + [Site(request_layer, "request")]
    wanted = list(dict.fromkeys([*sites, *(site for control in controls for site in control.reads)]))
    places = [[wanted.index(site) for site in control.reads] for control in controls]
    count, width = len(made.notes), made.annotator.width
    per_row = torch.bincount(torch.tensor([part.row for part in made.parts], dtype=torch.long), minlength=count)
    differences = spool((count, len(layers), len(POOLINGS), width))
    prompts, margins = torch.zeros(count, width), torch.zeros(count, len(controls), dtype=torch.double)
    groups = [part.group for part in made.parts]
    for index, reading in read_each(made.annotator, groups, wanted, lambda done: progress(done, len(groups))):
        row, coefficients = made.parts[index].row, torch.tensor(made.parts[index].coefficients, dtype=torch.float)
        combined = torch.einsum("k,ksd->sd", coefficients, reading[:, : len(sites) - 1])
        differences[row] += combined.view_as(differences[row])
        prompts[row] += reading[0, len(sites) - 1] / per_row[row]
        for column, control in enumerate(controls):
            margins[row, column] += coefficients.double() @ control.scores(reading[:, places[column]])
    rows = _rows(made, tuple(layers), differences, prompts, margins)
    if any(note.label is not None for note in made.notes):
        rows = centre(rows, [note.label for note in made.notes])
    rows.check()
    return rows


def _rows(made: Plan, layers: tuple[int, ...], differences: Tensor, prompts: Tensor, controls: Tensor) -> Rows:
    numbers: dict[str, int] = {}
    notes = made.notes
    return Rows(
        layers,
        differences,
        torch.arange(len(notes)),
        prompts,
        families=torch.tensor([numbers.setdefault(note.family, len(numbers)) for note in notes], dtype=torch.long),
        weights=torch.tensor([note.weight for note in notes], dtype=torch.double),
        sources=torch.tensor([note.source for note in notes], dtype=torch.long),
        lengths=torch.tensor([note.length for note in notes]),
        refusals=torch.tensor([note.refusal for note in notes]),
        balance=torch.tensor([note.balance for note in notes], dtype=torch.long),
        controls=controls,
        groups=torch.full((len(notes),), -1),
        sides=torch.zeros(len(notes), dtype=torch.double),
        skipped=made.skipped,
    )


def _plan_pairs(made: Plan, source: PairsSource, index: int) -> None:
    pairs: Sequence[Pair]
    families: Sequence[str]
    places: Sequence[int]
    if isinstance(source.pairs, str):
        pairs, families, places = balance().pairs, balance().families, range(len(balance().pairs))
    else:
        pairs, families, places = source.pairs, [opening(p.messages) for p in source.pairs], [-1] * len(source.pairs)
    if all(pair.chosen == pair.rejected for pair in pairs):  # their differences would be rounding, and not quite zero
        raise UnfitData("chosen and rejected are the same in every pair of a source: they tell nothing apart")
    for pair, family, place in zip(pairs, families, places, strict=True):
        refusal = float(is_refusal(pair.chosen)) - float(is_refusal(pair.rejected))
        length = float(len(pair.chosen) - len(pair.rejected))
        note = Note(family, index, source.weight, length, refusal, balance=place)
        made.add(note, (pair.messages, (pair.chosen, pair.rejected), (1, -1)))


def _plan_labelled(made: Plan, source: LabelledSource, index: int) -> None:
    for item in source.responses:
        refusal, length = float(is_refusal(item.response)), float(len(item.response))
        note = Note(opening(item.messages), index, source.weight, length, refusal, item.label)
        made.add(note, (item.messages, (item.response,), (1,)))


def _plan_contrast(made: Plan, source: ContrastSource, index: int) -> None:
    if source.good == source.bad:
        raise UnfitData("the good and the bad instruction are the same: they tell nothing apart")
    for item in source.responses:
        turns = [message for message in item.messages if message.role != "system"]
        good, bad = ([Message(role="system", content=text), *turns] for text in (source.good, source.bad))
        note = Note(opening(turns), index, source.weight)
        made.add(note, (good, (item.response,), (1,)), (bad, (item.response,), (-1,)))


def _plan_legend(made: Plan, source: LegendSource, index: int, progress: Progress) -> None:
    harmful = source.requests or read_requests()
    innocent = read_requests(harmful=False) if source.two_sided else []
    requests = [*harmful, *innocent]
    longest = source.max_new_tokens or LONGEST_ANSWER
    answered = answer_requests(made.annotator, requests, longest, lambda n: progress(n, len(requests)))
    told = [(request, answer) for request, answer in answered if answer and not is_refusal(answer)]
    made.skipped += len(requests) - len(told)
    benign = set(innocent)
    answered_benign = sum(request in benign for request, _ in told)
    if benign and min(answered_benign, len(told) - answered_benign) < MIN_SIDE:
        raise UnfitData(f"the annotator answers fewer than {MIN_SIDE} of the benign or of the harmful requests")
    share = answered_benign / max(1, len(told))
    for request, answer in told:
        # Refusing is the safer side of a harmful request, answering that of a benign one; both sides count alike.
        sign, part = (-1.0, share) if request in benign else (1.0, 1 - share)
        messages = [Message(role="user", content=request)]
        length = sign * (sum(map(len, REFUSALS)) / len(REFUSALS) - len(answer))
        coefficients = (*[sign / len(REFUSALS)] * len(REFUSALS), -sign)
        weight = source.weight / (2 * part) if benign else source.weight
        made.add(Note(request, index, weight, length, sign), (messages, (*REFUSALS, answer), coefficients))


def opening(messages: Sequence[Message]) -> str:
    """What conversations have in common that are kept on one side of any split: their first user turn."""
    return next((message.content for message in messages if message.role == "user"), "")
