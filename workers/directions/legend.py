"""Recipe `legend`: the Standard Margin Vector of Legend (arXiv 2406.08124), without labels.

The annotator answers harmful requests itself; v is the mean over requests of h(request, refusal) − h(request, answer).
"""

import csv
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from app.schemas.pairs import Message
from workers.directions.direction import SafetyDirection, Setting, new_direction
from workers.directions.errors import UnfitData
from workers.directions.refusals import PAPER_REFUSAL, REFUSALS, is_refusal
from workers.engine.annotator import Annotator
from workers.engine.errors import PairRefused
from workers.engine.forward import read_all
from workers.engine.generate import greedy_answers
from workers.engine.packing import Group
from workers.engine.sites import Site

REQUESTS = Path(__file__).with_name("data") / "requests.csv"
"""Requests written for this project, coded by hazard category; harmful ones, and benign ones in the same words."""

LONGEST_ANSWER = 256
"""Tokens at which the annotator's answers are cut, unless asked otherwise."""

_COLUMNS = ("request", "goal", "Behavior", "prompt")
_MIN_REQUESTS = 10


@dataclass(frozen=True)
class LegendSettings:
    """How to make the vector.

    Attributes:
        paper: the strict published recipe: one fixed refusal, last token, last layer after the norm, nothing dropped.
        max_new_tokens: where the annotator's answers are cut; 256 where left out, in paper mode its 1,024.
        layer: the layer to read; three fifths of the depth where left out.
    """

    paper: bool = False
    max_new_tokens: int | None = None
    layer: int | None = None

    @property
    def longest_answer(self) -> int:
        """Most tokens of an answer."""
        return self.max_new_tokens or (1024 if self.paper else LONGEST_ANSWER)

    def site(self, depth: int) -> Site:
        """Where to read an annotator of this depth."""
        if self.paper:
            return Site(depth, "last")
        return Site(round(depth * 0.6) if self.layer is None else self.layer, "mean")


def read_requests(path: Path = REQUESTS, *, harmful: bool | None = True) -> list[str]:
    """Requests of a CSV file: the column `request`, AdvBench's `goal`, HarmBench's `Behavior` or `prompt`.

    Where there is a column `harmful`, only those with 1 in it, or with 0 if `harmful` is False; all if it is None.

    Raises:
        UnfitData: no such file or column.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UnfitData(f"{path} cannot be read as CSV ({type(error).__name__})") from error
    column = next((name for name in _COLUMNS if rows and name in rows[0]), None)
    if column is None:
        raise UnfitData(f"{path} has none of the columns {', '.join(_COLUMNS)}, or no rows")
    wanted = [row for row in rows if harmful is None or row.get("harmful", "1") == ("1" if harmful else "0")]
    return [row[column].strip() for row in wanted if (row[column] or "").strip()]


def fit_legend(
    annotator: Annotator,
    requests: Sequence[str],
    *,
    direction_id: str,
    settings: LegendSettings = LegendSettings(),
    progress: Callable[[int], None] = lambda _done: None,
) -> SafetyDirection:
    """Make a Standard Margin Vector of unit length.

    Args:
        annotator: answers the requests and is read.
        requests: harmful requests.
        direction_id: name of the new direction.
        settings: how.
        progress: told how many requests are answered.

    Raises:
        UnfitData: too few requests, or too few answers that are not refusals.
    """
    if len(requests) < _MIN_REQUESTS:
        raise UnfitData(f"{len(requests)} requests are too few; at least {_MIN_REQUESTS} are needed")
    site = settings.site(annotator.depth)
    if not 0 <= site.layer <= annotator.depth:
        raise UnfitData(f"{annotator.name} has no layer {site.layer}; its layers are 0 to {annotator.depth}")
    answered = answer_requests(annotator, requests, settings.longest_answer, progress)
    kept = [(q, a) for q, a in answered if settings.paper or (a and not is_refusal(a))]
    groups = _encode(annotator, kept, (PAPER_REFUSAL,) if settings.paper else REFUSALS)
    if len(groups) < _MIN_REQUESTS:
        raise UnfitData(f"only {len(groups)} of {len(requests)} answers are neither refusals nor too long to read")
    vector = _standard_margin_vector(annotator, groups, site)
    record: dict[str, Setting] = {
        "paper": settings.paper,
        "requests": len(requests),
        "refusals_dropped": len(answered) - len(kept),
        "too_long_dropped": len(requests) - len(answered) + len(kept) - len(groups),
        "refusal_wordings": 1 if settings.paper else len(REFUSALS),
        "max_new_tokens": settings.longest_answer,
    }
    return new_direction(
        direction_id,
        (site,),
        vector[None],
        model=(annotator.name, annotator.revision, annotator.template.digest),
        recipe="legend",
        settings=record,
    )


def answer_requests(
    annotator: Annotator, requests: Sequence[str], longest: int, progress: Callable[[int], None]
) -> list[tuple[str, str]]:
    """Requests that fit the annotator's window, with its own answers of at most `longest` tokens."""
    fitting: list[str] = []
    prompts: list[Sequence[int]] = []
    for request in requests:
        with suppress(PairRefused):
            prompts.append(annotator.template.encode([_user(request)], [""]).prefix)
            fitting.append(request)
    spoken = greedy_answers(annotator, prompts, max_new_tokens=longest, progress=progress)
    return list(zip(fitting, spoken, strict=True))


def _encode(annotator: Annotator, answered: Sequence[tuple[str, str]], refusals: Sequence[str]) -> list[Group]:
    groups: list[Group] = []
    for request, answer in answered:
        with suppress(PairRefused):
            groups.append(annotator.template.encode([_user(request)], [*refusals, answer]))
    return groups


def _standard_margin_vector(annotator: Annotator, groups: Sequence[Group], site: Site) -> Tensor:
    """Mean over requests of refusals minus answer, of unit length; the answer is the last response of its group."""
    readings = read_all(annotator, groups, [site])
    vector = torch.stack([reading[:-1, 0].mean(dim=0) - reading[-1, 0] for reading in readings]).mean(dim=0)
    length = float(vector.norm())
    return vector / length if length > 0 else vector


def _user(request: str) -> Message:
    return Message(role="user", content=request)
