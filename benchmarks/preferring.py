"""Readings of held-out pairs by what a model was taught, by what it knew untaught, and by length alone."""

from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from app.schemas.fit import ContrastSource, FitRequest, PlainResponse
from app.schemas.pairs import Pair
from benchmarks.trial import DUAL, SCIT, Trial
from workers.alignment.batches import Showing, Shown, both, either
from workers.alignment.contrast import contrast_direction
from workers.alignment.instructions import DISPREFERRED, PREFERRED
from workers.alignment.learner import Learner
from workers.alignment.margins import Contrast, Scored
from workers.alignment.patterns import collect
from workers.alignment.run import instructions_of
from workers.directions.direction import SafetyDirection
from workers.directions.evaluation import accuracy
from workers.directions.fit import fit
from workers.engine.annotator import Annotator
from workers.engine.forward import read_all

_WHOLE = 1_000_000
"""Tokens of a response at most."""

UNTAUGHT = "untaught log-probabilities"
"""What the others are compared with."""


def readings(trial: Trial) -> dict[str, Callable[[], dict[str, Any]]]:
    """Every way of reading pairs, by name; each says the margins of the held-out pairs and what else is known of it."""
    return {
        "length": lambda: {"margins": _lengths(trial).tolist()},
        UNTAUGHT: lambda: _contrast(trial, Contrast.of_scit(trial.annotator)),
        "untaught direction": lambda: _direction(trial, trial.annotator, _untaught(trial)),
        "untaught patterns": lambda: _own(trial, (trial.annotator,), _untaught_mean(trial), SCIT),
        "recipe contrast": lambda: _direction(trial, trial.annotator, _recipe(trial)),
        "scit log-probabilities": lambda: _contrast(trial, Contrast.of_scit(trial.model("scit/taught"))),
        "scit direction": lambda: _direction(trial, *_taught(trial, SCIT)),
        "scit patterns": lambda: _own(trial, trial.run(SCIT).taught, _mean(trial, SCIT), SCIT),
        "dual log-probabilities": lambda: _contrast(
            trial, Contrast.of_dual(trial.model("dual/preferred"), trial.model("dual/dispreferred"))
        ),
        "dual direction": lambda: _direction(trial, *_taught(trial, DUAL)),
        "dual patterns": lambda: _own(trial, trial.run(DUAL).taught, _mean(trial, DUAL), DUAL),
    }


def tokens(annotator: Annotator, pairs: Sequence[Pair]) -> Tensor:
    """[n, 2] tokens of chosen and rejected responses, the end of turn included."""
    groups = [annotator.template.encode(pair.messages, (pair.chosen, pair.rejected)) for pair in pairs]
    return torch.tensor([[len(branch.tokens) for branch in group.branches] for group in groups]).double()


def _lengths(trial: Trial) -> Tensor:
    """Chosen − rejected, its sign as it reads the other pairs best."""
    ours, theirs = (_difference(tokens(trial.annotator, p)) for p in (trial.parts.held_out, trial.parts.others))
    return ours * (1 if float(theirs.sign().mean()) >= 0 else -1)


def _contrast(trial: Trial, contrast: Contrast) -> dict[str, Any]:
    """Of the log-probabilities as they are, and of their means over the tokens of each response."""
    found = contrast.scores(both(trial.parts.held_out))
    scores = torch.stack([one.scores for one in found if isinstance(one, Scored)])
    per_token = scores / tokens(trial.annotator, trial.parts.held_out)
    return {"margins": _difference(scores).tolist(), "per_token": _difference(per_token).tolist()}


def _direction(trial: Trial, annotator: Annotator, direction: SafetyDirection) -> dict[str, Any]:
    groups = [annotator.template.encode(pair.messages, (pair.chosen, pair.rejected)) for pair in trial.parts.held_out]
    read = torch.stack(read_all(annotator, groups, direction.reads))
    scores = direction.scores(read.flatten(0, 1)).view(-1, 2)
    card = direction.card
    sides = {"should_respond": card.should_respond, "should_refuse": card.should_refuse}
    known = {name: figure.model_dump() for name, figure in sides.items() if figure is not None}
    return {"margins": _difference(scores).tolist(), **known}


def _mean(trial: Trial, name: str) -> Tensor:
    run = trial.run(name)
    run.instruct()
    return run.collect().mean()


def _taught(trial: Trial, name: str) -> tuple[Annotator, SafetyDirection]:
    run, mean = trial.run(name), _mean(trial, name)
    return run.taught[0], _contrast_direction(trial, run.taught[0], mean, run.blocks)


def _own(trial: Trial, models: Sequence[Annotator], mean: Tensor, name: str) -> dict[str, Any]:
    """Of the patterns that the held-out responses show themselves, on the mean pattern of the others.

    Layers count alike: their projections are divided by their spread over the held-out pairs, which knows no label.
    """
    run = trial.run(name)
    learners = [Learner.reading(model) for model in models]
    how = run.settings.collect.model_copy(update={"responses": "both", "response": _WHOLE})
    showing = Showing(trial.annotator.template, instructions_of(run.method), None, None)
    admitted = showing.admit(both(trial.parts.held_out))
    with TemporaryDirectory() as folder:
        sides = (learners[0], learners[-1])
        own = collect(sides, showing, admitted, run.blocks, how, Path(folder), lambda _done, _total, _loss: None)
        margins = torch.stack(
            [_projected(own.of(item), showing.show(one), mean) for item, one in enumerate(admitted.items)]
        )
    layers = margins / margins.square().mean(dim=0).sqrt()
    by_layer = {str(block + 1): read_accuracy(trial, own) for block, own in zip(run.blocks, layers.T, strict=True)}
    return {"margins": layers.mean(dim=1).tolist(), "layers": by_layer}


def _projected(own: Tensor, shown: Shown, mean: Tensor) -> Tensor:
    """[L] of the mean over the tokens of the chosen response, less that of the rejected one."""
    lengths = [len(branch.tokens) for branch in shown.groups[0].branches]
    chosen, rejected = torch.split(own.double(), lengths)
    return ((chosen.mean(dim=0) - rejected.mean(dim=0)) * mean).sum(dim=1)


def _untaught(trial: Trial) -> SafetyDirection:
    """What the taught model's direction would be if nothing had been taught."""
    return _contrast_direction(trial, trial.annotator, _untaught_mean(trial), trial.run(SCIT).blocks)


def _untaught_mean(trial: Trial) -> Tensor:
    run, learner = trial.run(SCIT), Learner.reading(trial.annotator)
    how = run.settings.collect
    showing = Showing(trial.annotator.template, (PREFERRED, DISPREFERRED), run.settings.query, how.response)
    admitted = showing.admit(either(trial.parts.others, run.settings.seed))
    folder = trial.folder / "untaught"
    patterns = collect(
        (learner, learner), showing, admitted, run.blocks, how, folder, lambda _done, _total, _loss: None
    )
    return patterns.mean()


def _contrast_direction(trial: Trial, model: Annotator, mean: Tensor, blocks: Sequence[int]) -> SafetyDirection:
    return contrast_direction(model, mean, blocks, trial.parts.others, "contrast", cache=trial.folder / "cache")


def _recipe(trial: Trial) -> SafetyDirection:
    """What `safemargin fit` makes of the other pairs' responses without their labels."""
    items = both(trial.parts.others)
    responses = [PlainResponse(prompt=list(item.messages), response=text) for item in items for text in item.responses]
    source = ContrastSource(recipe="contrast", responses=responses)
    request = FitRequest(id="recipe", sources=[source], estimator="mean")
    return fit(trial.annotator, request, cache=trial.folder / "cache").direction


def _difference(scores: Tensor) -> Tensor:
    return scores[:, 0] - scores[:, 1]


def read_accuracy(trial: Trial, margins: Sequence[float] | Tensor) -> dict[str, Any]:
    """Of margins of the held-out pairs."""
    return accuracy(torch.as_tensor(margins, dtype=torch.double), trial.parts.families).model_dump()
