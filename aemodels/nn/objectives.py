"""Terms of losses: pure functions on distributions and codes, per image, in nats.

B batch, D latent units, K samples.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor
from torch.distributions import Distribution
from torch.nn import functional as F

from aemodels.runtime.torchrun import batch_mean


def distortion(p_x: Distribution, x: Tensor) -> Tensor:
    """-log p(x|z), (B,): summed over pixels, never averaged, so that beta = 1 is the bound."""
    return -p_x.log_prob(x)


def free_bits(rate_per_unit: Tensor, floor: float) -> Tensor:
    """(B, D) -> (B, D): a unit whose batch mean is under the floor costs the floor and feels no pull to less.

    The batch mean of a unit becomes max(floor, mean_b KL_bd) (Kingma et al., 2016, arXiv:1606.04934, eq. 15).
    """
    used = batch_mean(rate_per_unit) > floor  # (D,)
    return torch.where(used, rate_per_unit, torch.full_like(rate_per_unit, floor))


def importance_bound(log_w: Tensor) -> Tensor:
    """The bound on log p(x) from log weights (K, M, B), (B,): over K samples within one bound, its mean over M of them
    (Burda et al., 2016, arXiv:1509.00519, eq. 8; Rainforth et al., 2018, arXiv:1802.04537, eq. 5).
    """
    return (log_w.logsumexp(0) - math.log(len(log_w))).mean(0)


def is_real(logits: Tensor) -> Tensor:
    """-log D(x) from logits: small where the discriminator takes an image for real. For a generator it is the
    non-saturating loss (Goodfellow et al., 2014, arXiv:1406.2661, section 3).
    """
    return F.softplus(-logits)


def is_drawn(logits: Tensor) -> Tensor:
    """-log (1 - D(x)) from logits: small where the discriminator takes an image for drawn."""
    return F.softplus(logits)


def gradient_penalty(gradient: Tensor) -> Tensor:
    """R1, (B,): half the squared norm of a logit's gradient by the pixels (B, C, H, W) of its real image (Mescheder et
    al., 2018, arXiv:1801.04406, eq. 9). With it the game of generator and discriminator comes to rest.
    """
    return 0.5 * gradient.square().flatten(1).sum(-1)


def log_weights(q: Distribution, p_z: Distribution, p_x: Distribution, z: Tensor, x: Tensor) -> Tensor:
    """Log of p(x|z) p(z) / q(z|x), (K, B), for codes z (K, B, D) from q: its mean over them estimates p(x)."""
    return p_x.log_prob(x) + p_z.log_prob(z) - q.log_prob(z)


def log_mean_exp(chunks: Iterable[Tensor]) -> Tensor:
    """Log of the mean of exp over all rows of chunks (any, B), (B,): no more than one is in memory.

    Of log weights it is the importance bound on log p(x) (Burda et al., 2016, arXiv:1509.00519, eq. 8).
    """
    total, rows = torch.tensor(-torch.inf), 0
    for chunk in chunks:
        total = torch.logaddexp(total.to(chunk), chunk.logsumexp(0))
        rows += len(chunk)
    return total - math.log(rows)
