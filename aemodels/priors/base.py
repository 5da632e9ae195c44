"""Provides the base of the priors that are fitted to codes after training, to draw new codes from.

N codes, D latent units, M components. Each prior is a module that is fitted once and then returns a torch Distribution,
with `sample` and `log_prob`. Units are standardised first and their variances have a lower limit, so that dead units,
or codes of any scale, do no harm.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.distributions import Distribution


class FittedPrior(nn.Module, ABC):
    """A fitted prior is a distribution of codes; it is N(0, I), or something as simple, until it is fitted."""

    @abstractmethod
    def forward(self) -> Distribution:
        """Returns p(z), event (D,)."""

    @abstractmethod
    def fit(self, codes: Tensor, seed: int) -> None:
        """Fits the prior to codes (N, D)."""


class Scale(nn.Module):
    """Brings codes to mean 0 and variance 1 in each unit, and keeps what that takes."""

    center: Tensor
    spread: Tensor

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.register_buffer("center", torch.zeros(latent_dim))
        self.register_buffer("spread", torch.ones(latent_dim))

    def fit(self, codes: Tensor) -> Tensor:
        """Takes the scale from codes (N, D) and returns the standardised codes, on the CPU in float64."""
        x = codes.detach().double().cpu()
        center, spread = x.mean(0), x.std(0, correction=0)
        spread = spread.clamp(min=1e-4 * float(spread.max()) + 1e-12)
        self.center.copy_(center)
        self.spread.copy_(spread)
        return (x - center) / spread


def two_at_least(codes: Tensor) -> Tensor:
    """Repeats a single code, because a covariance needs two."""
    return codes.repeat(2, 1) if len(codes) == 1 else codes
