"""Priors that are fitted to codes after training, to draw new codes from.

N codes, D latent units, M components. Each is a module that is fitted once and then returns a torch Distribution, with
`sample` and `log_prob`. Units are standardised first and their variances floored, so that dead units, or codes of any
scale, do no harm.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution, MixtureSameFamily, MultivariateNormal

from aemodels.config import UserError
from aemodels.nn.distributions import seeded

MAX_COMPONENTS = 10
CODES_PER_PARAMETER_ROW = 5  # codes wanted per component and latent unit: fewer make a covariance meaningless
FLOW_STEPS, FLOW_BATCH, FLOW_RATE = 1_000, 500, 3e-3


class FittedPrior(nn.Module, ABC):
    """N(0, I), or something as simple, until it is fitted."""

    @abstractmethod
    def forward(self) -> Distribution:
        """p(z), event (D,)."""

    @abstractmethod
    def fit(self, codes: Tensor, seed: int) -> None:
        """Fits it to codes (N, D)."""


class _Scale(nn.Module):
    """Codes <-> mean 0 and variance 1 in each unit."""

    center: Tensor
    spread: Tensor

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.register_buffer("center", torch.zeros(latent_dim))
        self.register_buffer("spread", torch.ones(latent_dim))

    def fit(self, codes: Tensor) -> Tensor:
        """The standardised codes, on the CPU in float64."""
        x = codes.detach().double().cpu()
        center, spread = x.mean(0), x.std(0, correction=0)
        spread = spread.clamp(min=1e-4 * float(spread.max()) + 1e-12)
        self.center.copy_(center)
        self.spread.copy_(spread)
        return (x - center) / spread


class GaussianPrior(FittedPrior):
    """One Gaussian with a full covariance, shrunk as far as the codes are few (Ledoit and Wolf, 2004)."""

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

        scale = _Scale(codes.shape[1])
        x = scale.fit(_two_at_least(codes))
        covariance = torch.from_numpy(LedoitWolf(assume_centered=True).fit(x.numpy()).covariance_)
        tril = torch.linalg.cholesky(covariance + 1e-6 * torch.eye(len(covariance), dtype=torch.float64))
        self.mean.copy_(scale.center)
        self.scale_tril.copy_(tril * scale.spread[:, None])


class GaussianMixturePrior(FittedPrior):
    """A mixture of Gaussians with full covariances.

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
        """By expectation-maximisation, with as many components as the codes are enough for."""
        from sklearn.mixture import GaussianMixture

        codes, scale = _two_at_least(codes), _Scale(codes.shape[1])
        x, count = scale.fit(codes), components(*codes.shape)
        mixture: Any = GaussianMixture(count, reg_covar=1e-4, random_state=seed % 2**32, max_iter=50, tol=1e-2)
        mixture.fit(x.numpy())
        tril = torch.linalg.cholesky(torch.from_numpy(mixture.covariances_))  # (M, D, D)
        self.log_weights.fill_(-torch.inf)[:count] = torch.from_numpy(mixture.weights_).log()
        self.means[:count] = torch.from_numpy(mixture.means_) * scale.spread + scale.center
        self.scale_tril[:count] = tril * scale.spread[:, None]


class FlowPrior(FittedPrior):
    """A neural spline flow (Durkan et al., 2019, arXiv:1906.04032), by zuko."""

    def __init__(self, latent_dim: int) -> None:
        import zuko

        super().__init__()
        self.scale = _Scale(latent_dim)
        self.flow: Any = zuko.flows.NSF(latent_dim, transforms=3, hidden_features=(64, 64))

    def forward(self) -> Distribution:
        import zuko

        affine = torch.distributions.AffineTransform(self.scale.center, self.scale.spread, event_dim=1)
        flow: Distribution = self.flow()
        pushed: Distribution = zuko.distributions.NormalizingFlow(affine.inv, flow)
        return pushed

    def fit(self, codes: Tensor, seed: int) -> None:
        """By maximum likelihood, on 90 % of the codes; the weights that are best on the others are kept."""
        with seeded(seed), torch.enable_grad():
            x = self.scale.fit(codes).float()
            x = x[torch.randperm(len(x))]
            held_out, x = x[: len(x) // 10 or 1], x[len(x) // 10 :]
            optimizer = torch.optim.Adam(self.flow.parameters(), FLOW_RATE)
            best, kept = torch.inf, self.flow.state_dict()
            for step in range(FLOW_STEPS):
                loss = -self.flow().log_prob(x[torch.randint(len(x), (FLOW_BATCH,))]).mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                if step % 100 == 99:
                    with torch.no_grad():
                        cost = -self.flow().log_prob(held_out).mean().item()
                    if cost < best:
                        best, kept = cost, {name: t.clone() for name, t in self.flow.state_dict().items()}
            self.flow.load_state_dict(kept)


def _two_at_least(codes: Tensor) -> Tensor:
    """A covariance needs two."""
    return codes.repeat(2, 1) if len(codes) == 1 else codes


def components(codes: int, latent_dim: int) -> int:
    """How many components a mixture of so many codes can have."""
    return max(1, min(MAX_COMPONENTS, codes // (CODES_PER_PARAMETER_ROW * latent_dim)))


PRIORS: dict[str, type[FittedPrior]] = {"gaussian": GaussianPrior, "mixture": GaussianMixturePrior, "flow": FlowPrior}


def fitted(name: str, codes: Tensor, seed: int) -> FittedPrior:
    """The prior of that name, fitted to codes (N, D).

    Raises:
        UserError: there is no such prior.
    """
    if name not in PRIORS:
        raise UserError(f"prior={name}: unknown; choose one of {', '.join(PRIORS)}")
    with seeded(seed):
        prior = PRIORS[name](codes.shape[1])
    prior.fit(codes, seed)
    return prior


def fitted_to_few(codes: Tensor, seed: int) -> FittedPrior:
    """A mixture for many codes, else a shrunk Gaussian."""
    return fitted("mixture" if components(*codes.shape) > 1 else "gaussian", codes, seed)
