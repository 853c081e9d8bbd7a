"""Best of n: what a judge thinks of the response that a reward model likes best."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from pydantic import ConfigDict
from torch import Tensor

from app.schemas.pairs import Message
from app.schemas.rewardreport import BestOfN
from app.schemas.score import Candidates
from workers.directions.datafiles import numbered_rows
from workers.directions.direction import SafetyDirection
from workers.directions.errors import UnfitData
from workers.directions.evaluation import accuracy
from workers.engine.annotator import Annotator
from workers.engine.errors import PairRefused
from workers.engine.forward import read_all
from workers.rewards.errors import UnfitRows
from workers.rewards.measures import gain_of, mean_of
from workers.rewards.model import RewardModel
from workers.rewards.reading import numbered

Scores = list[Tensor | PairRefused]
"""Of every prompt the [K] scores of its responses, or why there are none."""


class FileCandidates(Candidates):
    """A prompt with its responses in a file, which may have further columns."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class Judge(Protocol):
    """Who scores responses; more is better."""

    @property
    def name(self) -> str:
        """What reports call it."""

    @property
    def unit(self) -> str:
        """Of its scores."""

    def scores(self, candidates: Sequence[Candidates]) -> Scores:
        """Of every prompt."""


@dataclass(frozen=True)
class RewardJudge:
    """A reward model, also the one that is measured."""

    model: RewardModel

    @property
    def name(self) -> str:
        """As of `Judge`."""
        return f"reward:{self.model.name}"

    @property
    def unit(self) -> str:
        """As of `Judge`."""
        return "reward"

    def scores(self, candidates: Sequence[Candidates]) -> Scores:
        """As of `Judge`."""
        texts: list[list[int]] = []
        found: list[range | PairRefused] = []
        for one in candidates:
            try:
                own = [self.model.encode(one.messages, response) for response in one.responses]
            except PairRefused as refusal:
                found.append(refusal)
                continue
            found.append(range(len(texts), len(texts) + len(own)))
            texts += own
        rewards = self.model.rewards(texts)
        return [rewards[own.start : own.stop] if isinstance(own, range) else own for own in found]


@dataclass(frozen=True)
class DirectionJudge:
    """A safety direction, read by its annotator."""

    annotator: Annotator
    direction: SafetyDirection

    @property
    def name(self) -> str:
        """As of `Judge`."""
        return f"direction:{self.direction.id}"

    @property
    def unit(self) -> str:
        """As of `Judge`."""
        return "raw projection" if self.direction.card.slope is None else "log-odds"

    def scores(self, candidates: Sequence[Candidates]) -> Scores:
        """As of `Judge`."""
        found: Scores = []
        groups = []
        for one in candidates:
            try:
                groups.append(self.annotator.template.encode(one.messages, one.responses))
                found.append(torch.zeros(0))
            except PairRefused as refusal:
                found.append(refusal)
        read = iter(read_all(self.annotator, groups, self.direction.reads) if groups else [])
        slope = self.direction.card.slope or 1.0
        return [
            own if isinstance(own, PairRefused) else self.direction.scores(next(read)).double() * slope for own in found
        ]


def read_candidates(path: Path) -> list[Candidates]:
    """Prompts with at least two responses from JSONL: `prompt`, `responses`.

    Raises:
        UnfitRows: it cannot be read, or a prompt has fewer; names the line.
    """
    try:
        rows = list(numbered_rows(path, FileCandidates))
    except UnfitData as error:
        raise UnfitRows(str(error)) from error
    if not rows:
        raise UnfitRows(f"{path.name} has no rows")
    for line, row in rows:
        if len(row.responses) < 2:
            raise UnfitRows(f"{path.name}, line {line}: responses: there is nothing to choose from")
    return [row for _line, row in rows]


def best_of_n(
    model: RewardModel,
    judge: Judge,
    candidates: Sequence[Candidates],
    data: str,
    go_on: Callable[[], None] = lambda: None,
) -> BestOfN:
    """Let a model choose and a judge say what it thinks of that.

    Args:
        model: chooses; of equal rewards the first.
        judge: scores.
        candidates: prompts with their responses.
        data: what to call them.
        go_on: called between the two; may raise to end it.

    Raises:
        UnfitRows: none of the prompts can be read by both.
    """
    rewards = RewardJudge(model).scores(candidates)
    go_on()
    judged = judge.scores(candidates)
    refused: Counter[str] = Counter()
    columns: list[Tensor] = []
    prompts: list[Sequence[Message]] = []
    responses = 0
    for one, reward, score in zip(candidates, rewards, judged, strict=True):
        if isinstance(reward, PairRefused):
            refused[reward.code] += 1
        elif isinstance(score, PairRefused):
            refused[score.code] += 1
        else:
            columns.append(torch.stack([score[int(reward.argmax())], score[0], score.mean(), score.max()]))
            prompts.append(one.messages)
            responses += len(score)
    if not columns:
        raise UnfitRows(f"none of {len(candidates)} prompts can be read by both {model.name} and {judge.name}")
    families = numbered(prompts)
    chosen, plain, drawn, top = torch.stack(columns, dim=1).double()
    return BestOfN(
        data=data,
        judge=judge.name,
        unit=judge.unit,
        prompts=len(prompts),
        refused=dict(refused),
        responses=responses / len(prompts),
        best=mean_of(chosen, families),
        first=mean_of(plain, families),
        random=mean_of(drawn, families),
        most=mean_of(top, families),
        over_first=gain_of(chosen, plain, families),
        over_random=gain_of(chosen, drawn, families),
        win_rate=accuracy(chosen - plain, families),
    )
