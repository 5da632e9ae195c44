"""Priors that are fitted to the training codes after training.

N codes, D latent units, M components.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution, MixtureSameFamily, MultivariateNormal

MAX_COMPONENTS = 10
CODES_PER_PARAMETER_ROW = 5  # codes wanted per component and latent unit: fewer make a covariance meaningless


class GaussianMixturePrior(nn.Module):
    """A mixture of Gaussians with full covariances; N(0, I) until it is fitted.

    Its shape is fixed (unused components have weight 0), so that it saves and loads with the model's weights.
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
        """Fits the mixture to codes (N, D) by expectation-maximisation.

        Units are standardised first and their variances floored, so that dead units, or codes of any scale, do no harm.
        """
        from sklearn.mixture import GaussianMixture  # a served model samples without scikit-learn

        if len(codes) == 1:
            codes = codes.repeat(2, 1)  # a covariance needs two
        n, latent_dim = codes.shape
        x = codes.detach().double().cpu()
        center, spread = x.mean(0), x.std(0, correction=0)
        spread = spread.clamp(min=1e-4 * float(spread.max()) + 1e-12)
        count = max(1, min(MAX_COMPONENTS, n // (CODES_PER_PARAMETER_ROW * latent_dim)))
        mixture: Any = GaussianMixture(count, reg_covar=1e-4, random_state=seed % 2**32, max_iter=50, tol=1e-2)
        mixture.fit(((x - center) / spread).numpy())
        tril = torch.linalg.cholesky(torch.from_numpy(mixture.covariances_))  # (M, D, D)
        self.log_weights.fill_(-torch.inf)[:count] = torch.from_numpy(mixture.weights_).log()
        self.means[:count] = (torch.from_numpy(mixture.means_) * spread + center).to(self.means)
        self.scale_tril[:count] = (tril * spread[:, None]).to(self.scale_tril)
