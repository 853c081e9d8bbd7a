"""The cheap rule adapter: a multi-label head on activations that are read anyway.

A response is projected to z, and which rules are critical for a pair is read from |z_c − z_r| and z_c + z_r alone. Both
are the same with the responses exchanged, so that their order cannot change anything: for every pair, not only on
average as where swapped pairs are added to what is learned from.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, dropout

_COMPONENTS, _RANK = 512, 64
_PENALTY = 1.0
_RATE, _DECAY, _DROPOUT, _BATCH, _PATIENCE = 1e-3, 0.01, 0.2, 32, 15
_EDGE = 1e-3


@dataclass(frozen=True)
class Head:
    """z = W · h − b of a response, and log-odds of R rules V · (|z_c − z_r|, z_c + z_r) + a.

    Attributes:
        projection: [m, S, d] float32, W.
        shift: [m] float32, b.
        weights: [R, 2m] float32, V.
        offsets: [R] float32, a.
    """

    projection: Tensor
    shift: Tensor
    weights: Tensor
    offsets: Tensor

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Its numbers by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @property
    def holds_together(self) -> bool:
        """Whether the shapes of its numbers go together."""
        if self.projection.ndim != 3 or self.offsets.ndim != 1:
            return False
        width, rules = len(self.projection), len(self.offsets)
        return self.shift.shape == (width,) and self.weights.shape == (rules, 2 * width)

    def scores(self, activations: Tensor) -> Tensor:
        """[n, m] float32 z of n responses from their [n, S, d] activations."""
        flat = activations.float().flatten(1)
        return flat @ self.projection.to(flat).flatten(1).T - self.shift.to(flat)

    def likely(self, projected: Tensor) -> Tensor:
        """[P, R] float64 how likely each rule is critical, from the [P, 2, m] z of both responses."""
        features = symmetric(projected.double())
        return torch.sigmoid(features @ self.weights.to(features).T + self.offsets.to(features))


@dataclass(frozen=True)
class Taught:
    """What a head is fitted to: P pairs.

    Attributes:
        activations: [P, 2, S, d] float32.
        targets: [P, R] 1 where a rule is critical.
    """

    activations: Tensor
    targets: Tensor


def symmetric(projected: Tensor) -> Tensor:
    """[P, 2m] features of [P, 2, m] that do not know which response is which."""
    first, second = projected.unbind(dim=1)
    return torch.cat([(first - second).abs(), first + second], dim=1)


def fit_head(
    taught: Taught,
    ratings: Tensor,
    validation: Taught,
    *,
    width: int,
    epochs: int,
    seed: int,
    beat: Callable[[], None] = lambda: None,
) -> tuple[Head, int]:
    """Fit a head by cross-entropy; returns it and after which epoch it was the best on `validation`, 0 at the least.

    z stays within the space that tells best, linearly, what the rater said of a response: a hundred graded ratings
    teach more of where to look than five ones among ninety-five zeros. Within it everything is fitted to the targets.

    Args:
        taught: what to fit to.
        ratings: [P, 2, Q] what the rater said of both responses, on any scale.
        validation: pairs of other prompts that decide when to stop.
        width: m.
        epochs: at most.
        seed: of orders and dropout.
        beat: called after every epoch; may raise to end it.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        space = _Space.of(taught.activations)
        rows, held = space.coordinates(taught.activations), space.coordinates(validation.activations)
        telling = _telling(rows.flatten(0, 1), ratings.flatten(0, 1))
        model = _Model(len(telling), width, taught.targets)
        best = _descend(model, (rows @ telling.T, taught.targets), (held @ telling.T, validation.targets), epochs, beat)
    projection = model.project.weight.detach() @ telling @ space.axes.T / space.scale
    shift = projection @ space.mean - model.project.bias.detach()
    shape = taught.activations.shape[2:]
    numbers = (projection.view(-1, *shape), shift, model.read.weight.detach(), model.read.bias.detach())
    return Head(*(number.float().contiguous() for number in numbers)), best


@dataclass(frozen=True)
class _Space:
    """The q directions in which D standardised activations vary most.

    Attributes:
        mean, scale: [D] of the activations.
        axes: [D, q].
    """

    mean: Tensor
    scale: Tensor
    axes: Tensor

    @classmethod
    def of(cls, activations: Tensor) -> "_Space":
        flat = activations.flatten(2).flatten(0, 1).float()
        mean, scale = flat.mean(dim=0), flat.std(dim=0).clamp(min=1e-6)
        rows = (flat - mean) / scale
        _, _, axes = torch.svd_lowrank(rows, q=min(_COMPONENTS, *rows.shape), niter=2)
        return cls(mean, scale, axes)

    def coordinates(self, activations: Tensor) -> Tensor:
        """[P, 2, q] of [P, 2, S, d]."""
        return (activations.flatten(2).float() - self.mean) / self.scale @ self.axes


class _Model(nn.Module):
    def __init__(self, rank: int, width: int, targets: Tensor) -> None:
        super().__init__()
        self.project = nn.Linear(rank, width)
        self.read = nn.Linear(2 * width, targets.shape[1])
        often = targets.float().mean(dim=0).clamp(_EDGE, 1 - _EDGE)
        with torch.no_grad():
            self.read.weight.zero_()
            self.read.bias.copy_(torch.logit(often))

    def forward(self, rows: Tensor) -> Tensor:
        features = symmetric(self.project(dropout(rows, _DROPOUT, self.training)))
        logits: Tensor = self.read(dropout(features, _DROPOUT, self.training))
        return logits


def _telling(rows: Tensor, ratings: Tensor) -> Tensor:
    """[t, q] reduced-rank ridge regression of [n, Q] ratings on [n, q] rows; what it gives has a variance of one."""
    x, y = rows.double(), ratings.double()
    y = (y - y.mean(dim=0)) / y.std(dim=0).clamp(min=1e-3)
    solution = torch.linalg.solve(x.T @ x + _PENALTY * len(x) * torch.eye(x.shape[1], dtype=torch.double), x.T @ y)
    _, _, main = torch.linalg.svd(x @ solution, full_matrices=False)
    telling = (solution @ main[:_RANK].T).T
    scaled: Tensor = telling / (x @ telling.T).std(dim=0).clamp(min=1e-6)[:, None]
    return scaled.float()


def _descend(
    model: _Model,
    taught: tuple[Tensor, Tensor],
    validation: tuple[Tensor, Tensor],
    epochs: int,
    beat: Callable[[], None],
) -> int:
    """Fit until validation gets no better; leaves the model as it was when it was the best, and returns when."""
    rows, targets = taught[0], taught[1].float()
    optimizer = torch.optim.AdamW(model.parameters(), lr=_RATE, weight_decay=_DECAY)
    best, least, kept = 0, _loss(model, *validation), copy.deepcopy(model.state_dict())
    for epoch in range(1, epochs + 1):
        model.train()
        for batch in torch.split(torch.randperm(len(rows)), _BATCH):
            optimizer.zero_grad()
            torch.autograd.backward(binary_cross_entropy_with_logits(model(rows[batch]), targets[batch]))
            optimizer.step()
        beat()
        loss = _loss(model, *validation)
        if loss < least:
            best, least, kept = epoch, loss, copy.deepcopy(model.state_dict())
        elif epoch - best >= _PATIENCE:
            break
    model.load_state_dict(kept)
    return best


@torch.no_grad()
def _loss(model: _Model, rows: Tensor, targets: Tensor) -> float:
    model.eval()
    return float(binary_cross_entropy_with_logits(model(rows), targets.float()))
