"""The Bradley–Terry loss with margins."""

from torch import Tensor
from torch.nn.functional import logsigmoid


def pair_losses(gaps: Tensor, margins: Tensor, weights: Tensor, smoothing: float) -> Tensor:
    """[n] losses of n pairs: w·[(1 − ε)·(−log σ(Δ − m)) + ε·(−log σ(m − Δ))].

    With ε = 0 the margin is what Δ is pushed beyond, with ε > 0 a pair's loss is least at Δ = m + log((1 − ε)/ε): were
    the label wrong, the margin would have the other sign, too.

    Args:
        gaps: [n] Δ = r_chosen − r_rejected.
        margins: [n] m.
        weights: [n] w.
        smoothing: ε, from 0 to one half.
    """
    beyond = gaps - margins
    losses = -logsigmoid(beyond)
    if smoothing:
        losses = (1 - smoothing) * losses - smoothing * logsigmoid(-beyond)
    return weights * losses


def off_centre(chosen: Tensor, rejected: Tensor) -> Tensor:
    """[n] squared sums of rewards, which centring adds (arXiv 2312.09244, eq. 2)."""
    return (chosen + rejected) ** 2
