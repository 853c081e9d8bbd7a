"""Choosing a read-out: which penalty, which layers, and how well the choice reads what it has not seen."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor

from app.schemas.fit import Estimator
from workers.directions.evaluation import folds, likelihoods, platt_slope, quality
from workers.directions.logistic import fit_logistic
from workers.directions.prompted import fit_prompted
from workers.directions.ridge import LayerFit, fit_mean, fit_ridge
from workers.directions.rows import LayerRows, Rows

PROTOCOL = "five-fold cross-validation over prompts; penalty, layers and calibration chosen inside the folds"
"""How `cross_validate` measures."""


@dataclass(frozen=True)
class Method:
    """How read-outs are fitted.

    Attributes:
        estimator: by which criterion.
        by_prompt: whether they may depend on the prompt.
        read_layers: how many layers to average at most.
        threads: how many layers to fit side by side.
        beat: called before every layer that is fitted; what it raises ends the work.
    """

    estimator: Estimator = "ridge"
    by_prompt: bool = False
    read_layers: int = 4
    threads: int = 1
    beat: Callable[[], None] = lambda: None

    def fits(self, rows: LayerRows) -> Sequence[LayerFit]:
        """Read-outs of one layer, one for each penalty."""
        self.beat()
        if self.by_prompt:
            return fit_prompted(rows)
        if self.estimator == "mean":
            return [fit_mean(rows)]
        return fit_logistic(rows) if self.estimator == "logistic" else fit_ridge(rows)


@dataclass(frozen=True)
class ReadOut:
    """An average of z-scored read-outs of some layers.

    Attributes:
        layers: indices into the candidates, ascending.
        fits: the read-out of each.
        held_out: [n] held-out margins of the rows fitted on, the average of each layer's over its own spread.
    """

    layers: tuple[int, ...]
    fits: tuple[LayerFit, ...]
    held_out: Tensor

    @property
    def weights(self) -> list[float]:
        """What each layer's margins are multiplied by."""
        return [1 / (_spread(fit.held_out) * len(self.fits)) for fit in self.fits]

    def margins(self, rows: Rows) -> Tensor:
        """[n] margins of other rows."""
        parts = zip(self.layers, self.fits, self.weights, strict=True)
        return torch.stack(
            [rows.at(layer).margins(fit.vectors, fit.modulation) * weight for layer, fit, weight in parts]
        ).sum(dim=0)


def best_fit(fits: Sequence[LayerFit], weights: Tensor) -> LayerFit:
    """The fit with the best held-out likelihood; one that depends on the prompt has to earn it by a standard error."""
    best = max(fits, key=lambda fit: quality(fit.held_out, weights))
    plain = [fit for fit in fits if not fit.by_prompt]
    if not best.by_prompt or not plain:
        return best
    simpler = best_fit(plain, weights)
    gain = likelihoods(best.held_out, weights) - likelihoods(simpler.held_out, weights)
    return best if float(gain.sum()) > _error(gain) else simpler


def choose(rows: Rows, method: Method) -> ReadOut:
    """The read-out with the best held-out likelihood of the rows fitted on: λ for each layer, then the layers.

    All candidates are averaged to begin with. As long as there are more than `read_layers`, the one that helps least is
    left out; after that one is left out only if that is better by more than its standard error.
    """
    with ThreadPoolExecutor(method.threads) as pool:
        layers = pool.map(lambda i: best_fit(method.fits(rows.at(i)), rows.weights), range(len(rows.layers)))
        best = list(layers)
    scores = torch.stack([fit.held_out / _spread(fit.held_out) for fit in best])
    chosen = list(range(len(best)))
    while len(chosen) > 1:
        kept = likelihoods(scores[chosen].mean(dim=0), rows.weights)
        without = {i: likelihoods(scores[[j for j in chosen if j != i]].mean(dim=0), rows.weights) for i in chosen}
        loser = max(without, key=lambda i: float(without[i].sum()))
        gain = without[loser] - kept
        if len(chosen) <= method.read_layers and float(gain.sum()) <= _error(gain):
            break
        chosen.remove(loser)
    return ReadOut(tuple(chosen), tuple(best[i] for i in chosen), scores[chosen].mean(dim=0))


@dataclass(frozen=True)
class CrossValidation:
    """Margins of rows from read-outs that saw nothing of their families, selection and calibration included.

    Attributes:
        raw: [n] raw margins; each fold's are in units of its own held-out spread.
        log_odds: [n] calibrated margins.
    """

    raw: Tensor
    log_odds: Tensor


def cross_validate(rows: Rows, method: Method, main: int = 0) -> CrossValidation:
    """Five folds over families; calibrated on the rows of the source `main`, as the whole fit is."""
    raw = torch.zeros(len(rows), dtype=torch.double)
    log_odds = torch.zeros_like(raw)
    fold = folds(rows.families)
    for number in range(int(fold.max()) + 1):
        train, test = rows.part(fold != number), rows.part(fold == number)
        read_out = choose(train, method)
        margins = read_out.margins(test)
        raw[fold == number] = margins
        held_out = train.pairs(main).mean(read_out.held_out)
        log_odds[fold == number] = margins * (platt_slope(held_out) or 0.0)
    return CrossValidation(raw, log_odds)


def _error(gains: Tensor) -> float:
    """Standard error of the sum of [n] gains."""
    return float(gains.std() * len(gains) ** 0.5)


def _spread(margins: Tensor) -> float:
    return float(margins.square().mean().sqrt().clamp(min=1e-12))
