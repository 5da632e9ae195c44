"""Defines the prior `standard_normal`, N(0, I), which is what the rate of a VAE is measured to."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Distribution, MultivariateNormal

from aemodels.priors.base import FittedPrior


class StandardNormalPrior(FittedPrior):
    """Draws codes from N(0, I), whatever the codes of images are."""

    eye: Tensor

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.register_buffer("eye", torch.eye(latent_dim))

    def forward(self) -> Distribution:
        return MultivariateNormal(self.eye.new_zeros(len(self.eye)), scale_tril=self.eye, validate_args=False)

    def fit(self, codes: Tensor, seed: int) -> None:
        """Leaves the prior as it is, whatever the codes (N, D) are."""
