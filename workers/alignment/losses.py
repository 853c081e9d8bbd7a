"""What is minimised: contrastive instruction tuning, maximum likelihood, alignment (arXiv 2312.15997, eq. 1, 2, 3, 6).

P is log π(r | p, q) as the equations write it: a sum over the tokens of the response, its end of turn included.
"""

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, softplus


def log_probabilities(logits: Tensor, tokens: Tensor) -> Tensor:
    """[m] float32 log-probabilities of m tokens, from the [m, V] logits at the place before each."""
    return -cross_entropy(logits.float(), tokens, reduction="none")


def per_response(values: Tensor, owners: Tensor, count: int) -> Tensor:
    """[n] sums of the [m] values of each response's tokens; `owners` [m] says whose they are."""
    return torch.zeros(count, dtype=values.dtype, device=values.device).index_add(0, owners, values)


def scit(likelihoods: Tensor) -> Tensor:
    """Contrastive instruction tuning (eq. 1): the sum over items of −P⁺ + softplus(P⁻ − P⁺).

    The items of a pair are its chosen response under p+ and its rejected one under p−; P⁻ is that of the same response
    under the other instruction.

    Args:
        likelihoods: [k, 2, 2] log π of k pairs, by instruction (p+, p−) and response (chosen, rejected).
    """
    good = torch.stack([likelihoods[:, 0, 0], likelihoods[:, 1, 1]])
    bad = torch.stack([likelihoods[:, 1, 0], likelihoods[:, 0, 1]])
    return (softplus(bad - good) - good).sum()


def negative_likelihood(likelihoods: Tensor) -> Tensor:
    """Maximum likelihood (eq. 2, 3): minus the sum of [n] log π."""
    return -likelihoods.sum()


def misalignment(hidden: Tensor, base: Tensor, patterns: Tensor, alpha: float) -> Tensor:
    """Alignment (eq. 6): the sum over layers and tokens of ‖h − (h_base + α v)‖₂.

    Args:
        hidden: [m, L, d] activations of the model being aligned, at m response tokens.
        base: [m, L, d] those of the model it began as.
        patterns: [m, L, d] activity patterns v.
        alpha: how much of them.
    """
    off = hidden.float() - (base.float() + alpha * patterns.float())
    distances: Tensor = torch.linalg.vector_norm(off, dim=-1)
    return distances.sum()
