"""Terms of losses: pure functions on distributions and codes, per image, in nats.

B batch, D latent units.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Distribution

from aemodels.parallel import batch_mean


def distortion(p_x: Distribution, x: Tensor) -> Tensor:
    """-log p(x|z), (B,): summed over pixels, never averaged, so that beta = 1 is the bound."""
    return -p_x.log_prob(x)


def free_bits(rate_per_unit: Tensor, floor: float) -> Tensor:
    """(B, D) -> (B, D): a unit whose batch mean is under the floor costs the floor and feels no pull to less.

    The batch mean of a unit becomes max(floor, mean_b KL_bd) (Kingma et al., 2016, arXiv:1606.04934, eq. 15).
    """
    used = batch_mean(rate_per_unit) > floor  # (D,)
    return torch.where(used, rate_per_unit, torch.full_like(rate_per_unit, floor))
