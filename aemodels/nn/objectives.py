"""Defines the terms of the losses: pure functions on distributions and codes, per image, in nats.

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
    """Returns -log p(x|z), (B,): summed over pixels, never averaged, so that beta = 1 gives the bound."""
    return -p_x.log_prob(x)


def free_bits(rate_per_unit: Tensor, floor: float) -> Tensor:
    """Returns the rates (B, D) of which a unit costs at least the floor; below it nothing pulls the rate down.

    The batch mean of a unit becomes max(floor, mean_b KL_bd) (Kingma et al., 2016, arXiv:1606.04934, eq. 15).
    """
    used = batch_mean(rate_per_unit) > floor  # (D,)
    return torch.where(used, rate_per_unit, torch.full_like(rate_per_unit, floor))


def importance_bound(log_w: Tensor) -> Tensor:
    """Returns the bound on log p(x), (B,), from log weights (K, M, B), as a mean over the M repeats.

    Each of the M bounds takes K samples (Burda et al., 2016, arXiv:1509.00519, eq. 8; Rainforth et al., 2018,
    arXiv:1802.04537, eq. 5).
    """
    return (log_w.logsumexp(0) - math.log(len(log_w))).mean(0)


def is_real(logits: Tensor) -> Tensor:
    """Returns -log D(x) from logits, which is small where the discriminator takes an image for real.

    For a generator it is the non-saturating loss (Goodfellow et al., 2014, arXiv:1406.2661, section 3).
    """
    return F.softplus(-logits)


def is_drawn(logits: Tensor) -> Tensor:
    """Returns -log (1 - D(x)) from logits, which is small where the discriminator takes an image for drawn."""
    return F.softplus(logits)


def gradient_penalty(gradient: Tensor) -> Tensor:
    """Returns the penalty R1, (B,): half the squared norm of a logit's gradient by the pixels of its real image.

    The gradient is (B, C, H, W) (Mescheder et al., 2018, arXiv:1801.04406, eq. 9). With the penalty, the game of
    generator and discriminator converges.
    """
    return 0.5 * gradient.square().flatten(1).sum(-1)


def log_weights(q: Distribution, p_z: Distribution, p_x: Distribution, z: Tensor, x: Tensor) -> Tensor:
    """Returns log(p(x|z) p(z) / q(z|x)), (K, B), for codes z (K, B, D) from q.

    The mean of these weights over the K codes estimates p(x).
    """
    return p_x.log_prob(x) + p_z.log_prob(z) - q.log_prob(z)


def log_mean_exp(chunks: Iterable[Tensor]) -> Tensor:
    """Returns the log of the mean of exp over all rows of chunks (any, B), (B,), with one chunk in memory at a time.

    For log weights this is the importance bound on log p(x) (Burda et al., 2016, arXiv:1509.00519, eq. 8).
    """
    total, rows = torch.tensor(-torch.inf), 0
    for chunk in chunks:
        total = torch.logaddexp(total.to(chunk), chunk.logsumexp(0))
        rows += len(chunk)
    return total - math.log(rows)
