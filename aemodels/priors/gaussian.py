"""Defines the prior `gaussian`, one Gaussian with a full covariance."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Distribution, MultivariateNormal

from aemodels.priors.base import FittedPrior, Scale, two_at_least


class GaussianPrior(FittedPrior):
    """Represents codes by one Gaussian with a full covariance, shrunk if codes are few (Ledoit and Wolf, 2004)."""

    mean: Tensor
    scale_tril: Tensor

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(latent_dim))
        self.register_buffer("scale_tril", torch.eye(latent_dim))

    def forward(self) -> Distribution:
        return MultivariateNormal(self.mean, scale_tril=self.scale_tril, validate_args=False)

    def fit(self, codes: Tensor, seed: int) -> None:
        from sklearn.covariance import LedoitWolf  # a served model samples without scikit-learn

        scale = Scale(codes.shape[1])
        x = scale.fit(two_at_least(codes))
        covariance = torch.from_numpy(LedoitWolf(assume_centered=True).fit(x.numpy()).covariance_)
        tril = torch.linalg.cholesky(covariance + 1e-6 * torch.eye(len(covariance), dtype=torch.float64))
        self.mean.copy_(scale.center)
        self.scale_tril.copy_(tril * scale.spread[:, None])
