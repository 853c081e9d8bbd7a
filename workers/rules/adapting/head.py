"""The cheap rule adapter: a multi-label head on activations that are read anyway.

A response is projected to z, and which rules are critical for a pair is read from |z_c − z_r| and z_c + z_r alone. Both
are the same with the responses exchanged, so that their order cannot change anything: for every pair, not only on
average as where swapped pairs are added to what is learned from.
"""

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

_COMPONENTS, _RANK = 512, 64
_SAMPLE, _BLOCK = 2048, 128
_ROUNDS = 2
_STEPS = 64
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
        activations: [N, 2, S, d] float32; they may lie in a file, and only some are in memory at a time.
        members: [P] which of them are the pairs'.
        targets: [P, R] 1 where a rule is critical.
    """

    activations: Tensor
    members: Tensor
    targets: Tensor

    def __len__(self) -> int:
        return len(self.members)

    def blocks(self) -> Iterator[Tensor]:
        """[b, 2, S·d] of some pairs after others."""
        for members in torch.split(self.members, _BLOCK):
            yield self.activations[members].flatten(2)


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
        seed: of everything that is drawn, from a generator of its own.
        beat: called every now and then; may raise to end it.
    """
    source = torch.Generator().manual_seed(seed)
    space = _Space.of(taught, source, beat)
    rows, held = space.coordinates(taught, beat), space.coordinates(validation, beat)
    telling = _telling(rows.flatten(0, 1), ratings.flatten(0, 1), beat)
    model = _Model(len(telling), width, taught.targets, source)
    lessons = (rows @ telling.T, taught.targets), (held @ telling.T, validation.targets)
    best = _descend(model, *lessons, epochs, source, beat)
    projection = model.project.weight.detach() @ telling @ space.axes.T / space.scale
    shift = projection @ space.mean - model.project.bias.detach()
    shape = taught.activations.shape[2:]
    numbers = (projection.view(-1, *shape), shift, model.read.weight.detach(), model.read.bias.detach())
    return Head(*(number.float().contiguous() for number in numbers)), best


@dataclass(frozen=True)
class _Space:
    """The q directions in which D standardised activations vary most, by a sample of the responses.

    Attributes:
        mean, scale: [D] of the activations.
        axes: [D, q], orthonormal.
    """

    mean: Tensor
    scale: Tensor
    axes: Tensor

    @classmethod
    def of(cls, taught: Taught, source: torch.Generator, beat: Callable[[], None]) -> "_Space":
        some = taught.members[torch.randperm(len(taught), generator=source)[:_SAMPLE]]
        rows = taught.activations[some].flatten(2).flatten(0, 1).float()
        mean, scale = rows.mean(dim=0), rows.std(dim=0).clamp(min=1e-6)
        rows.sub_(mean).div_(scale)
        return cls(mean, scale, _axes(rows, min(_COMPONENTS, *rows.shape), source, beat))

    def coordinates(self, taught: Taught, beat: Callable[[], None]) -> Tensor:
        """[P, 2, q]."""
        found = torch.empty(len(taught), 2, self.axes.shape[1])
        for part, block in zip(torch.split(found, _BLOCK), taught.blocks(), strict=True):
            part.copy_((block.float() - self.mean) / self.scale @ self.axes)
            beat()
        return found


def _axes(rows: Tensor, count: int, source: torch.Generator, beat: Callable[[], None]) -> Tensor:
    """[D, count] of the span in which [n, D] rows vary most (randomized subspace iteration, arXiv 0909.4061, 4.4)."""
    axes = torch.randn(rows.shape[1], count, generator=source)
    for _ in range(1 + _ROUNDS):
        beat()
        basis = torch.linalg.qr(rows @ axes).Q
        beat()
        axes = torch.linalg.qr(rows.T @ basis).Q
    return axes


class _Model(nn.Module):
    def __init__(self, rank: int, width: int, targets: Tensor, source: torch.Generator) -> None:
        super().__init__()
        self._source = source
        self.project = nn.Linear(rank, width, device="meta").to_empty(device="cpu")  # draws nothing
        self.read = nn.Linear(2 * width, targets.shape[1], device="meta").to_empty(device="cpu")
        often, bound = targets.float().mean(dim=0).clamp(_EDGE, 1 - _EDGE), 1 / math.sqrt(rank)
        with torch.no_grad():
            self.project.weight.uniform_(-bound, bound, generator=source)
            self.project.bias.uniform_(-bound, bound, generator=source)
            self.read.weight.zero_()
            self.read.bias.copy_(torch.logit(often))

    def forward(self, rows: Tensor) -> Tensor:
        features = symmetric(self.project(self._dropped(rows)))
        logits: Tensor = self.read(self._dropped(features))
        return logits

    def _dropped(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        return x * (torch.rand(x.shape, generator=self._source) >= _DROPOUT) / (1 - _DROPOUT)


def _telling(rows: Tensor, ratings: Tensor, beat: Callable[[], None]) -> Tensor:
    """[t, q] reduced-rank ridge regression of [n, Q] ratings on [n, q] rows; what it gives has a variance of one."""
    count, (q, outputs) = len(rows), (rows.shape[1], ratings.shape[1])
    mean, scale = ratings.double().mean(dim=0), ratings.double().std(dim=0).clamp(min=1e-3)
    inner, outer, total = torch.zeros(q, q).double(), torch.zeros(q, outputs).double(), torch.zeros(q).double()
    for some, said in zip(torch.split(rows, 2 * _BLOCK), torch.split(ratings, 2 * _BLOCK), strict=True):
        x = some.double()
        inner += x.T @ x
        outer += x.T @ ((said.double() - mean) / scale)
        total += x.sum(dim=0)
        beat()
    solution = torch.linalg.solve(inner + _PENALTY * count * torch.eye(q, dtype=torch.double), outer)
    main = torch.linalg.eigh(solution.T @ inner @ solution).eigenvectors.flip(1)[:, : min(_RANK, q)]
    telling = (solution @ main).T
    variance = (((telling @ inner) * telling).sum(dim=1) - (telling @ total).square() / count) / max(1, count - 1)
    scaled: Tensor = telling / variance.clamp(min=0).sqrt().clamp(min=1e-6)[:, None]
    return scaled.float()


def _descend(
    model: _Model,
    taught: tuple[Tensor, Tensor],
    validation: tuple[Tensor, Tensor],
    epochs: int,
    source: torch.Generator,
    beat: Callable[[], None],
) -> int:
    """Fit until validation gets no better; leaves the model as it was when it was the best, and returns when."""
    rows, targets = taught[0], taught[1].float()
    optimizer = torch.optim.AdamW(model.parameters(), lr=_RATE, weight_decay=_DECAY)
    best, least, kept = 0, _loss(model, *validation), copy.deepcopy(model.state_dict())
    for epoch in range(1, epochs + 1):
        model.train()
        for step, batch in enumerate(torch.split(torch.randperm(len(rows), generator=source), _BATCH)):
            if step % _STEPS == 0:
                beat()
            optimizer.zero_grad()
            torch.autograd.backward(binary_cross_entropy_with_logits(model(rows[batch]), targets[batch]))
            optimizer.step()
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
