"""Defines the prior `mixture`, a mixture of Gaussians with full covariances."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributions import Categorical, Distribution, MixtureSameFamily, MultivariateNormal

from aemodels.priors.base import FittedPrior, Scale, two_at_least

MAX_COMPONENTS = 10
CODES_PER_PARAMETER_ROW = 5  # codes wanted per component and latent unit: fewer make a covariance meaningless


class GaussianMixturePrior(FittedPrior):
    """Represents codes by a mixture of Gaussians with full covariances.

    The shape of its tensors is fixed (unused components have weight 0), so it saves and loads with the model's weights.
    """

    log_weights: Tensor
    means: Tensor
    scale_tril: Tensor

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.register_buffer("log_weights", torch.full((MAX_COMPONENTS,), -torch.inf).index_fill(0, torch.tensor(0), 0))
        self.register_buffer("means", torch.zeros(MAX_COMPONENTS, latent_dim))
        self.register_buffer("scale_tril", torch.eye(latent_dim).repeat(MAX_COMPONENTS, 1, 1))

    def forward(self) -> Distribution:
        components = MultivariateNormal(self.means, scale_tril=self.scale_tril, validate_args=False)
        weights = Categorical(logits=self.log_weights, validate_args=False)
        return MixtureSameFamily(weights, components, validate_args=False)

    def fit(self, codes: Tensor, seed: int) -> None:
        """Fits by expectation-maximisation, with as many components as the number of codes allows."""
        from sklearn.mixture import GaussianMixture

        codes, scale = two_at_least(codes), Scale(codes.shape[1])
        x, count = scale.fit(codes), components(*codes.shape)
        mixture: Any = GaussianMixture(count, reg_covar=1e-4, random_state=seed % 2**32, max_iter=50, tol=1e-2)
        mixture.fit(x.numpy())
        tril = torch.linalg.cholesky(torch.from_numpy(mixture.covariances_))  # (M, D, D)
        self.log_weights.fill_(-torch.inf)[:count] = torch.from_numpy(mixture.weights_).log()
        self.means[:count] = torch.from_numpy(mixture.means_) * scale.spread + scale.center
        self.scale_tril[:count] = tril * scale.spread[:, None]


def components(codes: int, latent_dim: int) -> int:
    """Returns how many components a mixture that is fitted to so many codes can have."""
    return max(1, min(MAX_COMPONENTS, codes // (CODES_PER_PARAMETER_ROW * latent_dim)))
