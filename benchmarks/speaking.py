"""What models say to held-out prompts, how a direction fitted on other data scores that, and what they refuse."""

from collections.abc import Sequence
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from app.schemas.fit import AnySource, FitRequest, LabelledSource, PairsSource
from app.schemas.pairs import Message, Pair
from benchmarks.preferring import read_accuracy
from benchmarks.trial import Trial
from workers.alignment.batches import Showing, chosen
from workers.alignment.learner import Learner
from workers.directions.balance import balance
from workers.directions.datafiles import FileLabelled, read_rows
from workers.directions.direction import SafetyDirection
from workers.directions.evaluation import accuracy, interval
from workers.directions.files import from_folder, to_files
from workers.directions.fit import fit
from workers.directions.gather import opening
from workers.directions.refusals import is_refusal
from workers.engine.annotator import Annotator
from workers.engine.forward import read_all
from workers.engine.generate import greedy_answers
from workers.engine.packing import pack
from workers.engine.process import side_by_side

_JUDGE = "judge"
_REPEATED = 3
"""Words in a row that count as repeated where they occur again."""


def judge(trial: Trial, labelled: Path | None) -> SafetyDirection:
    """A direction for the annotator that never saw the pairs: of the balance set, and of labelled rows if any."""
    folder = trial.folder / _JUDGE
    if not folder.exists():
        sources: list[AnySource] = [PairsSource(recipe="pairs", pairs="balance")]
        if labelled is not None:
            rows = list(read_rows(labelled, FileLabelled))
            sources.insert(0, LabelledSource(recipe="labelled", responses=rows))
        request = FitRequest(id=_JUDGE, sources=sources, by_prompt=True)
        made = fit(trial.annotator, request, cache=trial.folder / "cache").direction
        scratch = folder.with_suffix(".part")
        scratch.mkdir(exist_ok=True)
        for name, content in to_files(made).items():
            (scratch / name).write_bytes(content)
        scratch.rename(folder)
    return from_folder(folder)


def judged(trial: Trial, direction: SafetyDirection) -> dict[str, Any]:
    """How the judge reads the held-out pairs, and what its card says."""
    pairs = trial.parts.held_out
    scores = _scores(trial.annotator, direction, [(pair.messages, (pair.chosen, pair.rejected)) for pair in pairs])
    margins = (scores[:, 0] - scores[:, 1]).tolist()
    return {"held_out": read_accuracy(trial, margins), "card": direction.card.model_dump(exclude={"settings"})}


def speak(trial: Trial, model: Annotator, direction: SafetyDirection, prompts: int, tokens: int) -> dict[str, Any]:
    """What a model says to so many held-out prompts, each answer with its score in log-odds."""
    conversations = _conversations(trial.parts.held_out, prompts)
    answers = _answers(trial, model, conversations, tokens)
    read = [(messages, (answer,)) for messages, answer in zip(conversations, answers, strict=True)]
    scores = _scores(trial.annotator, direction, read)[:, 0] * (direction.card.slope or 1.0)
    words = [answer.split() for answer in answers]
    return {
        "scores": scores.tolist(),
        "words": sum(map(len, words)) / len(words),
        "repeated": sum(map(_repetition, words)) / len(words),
        "answers": answers,
    }


def compared(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, Any]:
    """Scores of answers to the same prompts: mean difference and share of wins, both with 95 % intervals."""
    gained = torch.tensor(ours, dtype=torch.double) - torch.tensor(theirs, dtype=torch.double)
    each = torch.arange(len(gained))
    low, high, _ = interval(gained, each)
    return {
        "difference": {"value": float(gained.mean()), "low": low, "high": high},
        "wins": accuracy(gained, each).model_dump(exclude={"pairs"}),
    }


def refusals(trial: Trial, model: Annotator, each: int, tokens: int) -> dict[str, Any]:
    """How many of so many benign and so many harmful requests of the balance set a model refuses."""
    kinds = {name: _spread(side, each) for name, side in (("benign", True), ("harmful", False))}
    answers = _answers(trial, model, list(chain(*kinds.values())), tokens)
    split = len(kinds["benign"])
    said = {"benign": answers[:split], "harmful": answers[split:]}
    counts = {name: {"refused": sum(map(is_refusal, some)), "of": len(some)} for name, some in said.items()}
    return {**counts, "answers": said}


def surprise(trial: Trial, model: Annotator, query: int, response: int) -> dict[str, Any]:
    """Nats of all tokens of the chosen held-out responses, and how many tokens these are."""
    showing = Showing(model.template, (None,), query, response)
    admitted = showing.admit(chosen(trial.parts.held_out))
    shown = [showing.show(item) for item in admitted.items]
    learner = Learner.reading(model)

    @torch.no_grad()
    def likelihood(batch: list[int]) -> float:
        return float(learner.log_likelihoods([shown[place].groups[0] for place in batch]).double().sum())

    with side_by_side(model.passes) as pool:
        nats = -sum(pool.map(likelihood, pack(shown, model.budget.tokens)))
    return {"nats": nats, "tokens": sum(admitted.answers)}


def _conversations(pairs: Sequence[Pair], count: int) -> list[list[Message]]:
    """The first so many, no two of one beginning."""
    apart = {opening(pair.messages): pair.messages for pair in pairs}
    return list(apart.values())[:count]


def _spread(benign: bool, count: int) -> list[list[Message]]:
    """Requests of the balance set, one of every family before a second one of any."""
    by_family: dict[str, list[list[Message]]] = {}
    for pair, family, kind in zip(balance().pairs, balance().families, balance().benign.tolist(), strict=True):
        if kind == benign:
            by_family.setdefault(family, []).append(pair.messages)
    rounds = zip_longest(*by_family.values())
    return [messages for one in rounds for messages in one if messages is not None][:count]


def _answers(trial: Trial, model: Annotator, conversations: Sequence[Sequence[Message]], tokens: int) -> list[str]:
    query = trial.settings("scit").query
    template = model.template
    prompts = [template.fit(messages, [""], query=query).prefix for messages in conversations]
    return greedy_answers(model, prompts, max_new_tokens=tokens)


def _scores(
    annotator: Annotator, direction: SafetyDirection, read: Sequence[tuple[Sequence[Message], tuple[str, ...]]]
) -> Tensor:
    """[n, K] raw scores of the K responses to each of n conversations."""
    groups = [annotator.template.encode(messages, responses) for messages, responses in read]
    activations = torch.stack(read_all(annotator, groups, direction.reads))
    return direction.scores(activations.flatten(0, 1)).view(len(groups), -1)


def _repetition(words: Sequence[str]) -> float:
    """Share of the runs of three words that occurred before in the same answer."""
    runs = list(zip(*(words[start:] for start in range(_REPEATED)), strict=False))
    return 1 - len(set(runs)) / len(runs) if runs else 0.0
