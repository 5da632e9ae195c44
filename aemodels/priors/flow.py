"""Defines the prior `flow`, a neural spline flow."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from aemodels.priors.base import FittedPrior, Scale
from aemodels.runtime.randomness import seeded

FLOW_STEPS, FLOW_BATCH, FLOW_RATE = 1_000, 500, 3e-3


class FlowPrior(FittedPrior):
    """Represents codes by a neural spline flow (Durkan et al., 2019, arXiv:1906.04032), by zuko."""

    def __init__(self, latent_dim: int) -> None:
        import zuko

        super().__init__()
        self.scale = Scale(latent_dim)
        self.flow: Any = zuko.flows.NSF(latent_dim, transforms=3, hidden_features=(64, 64))

    def forward(self) -> Distribution:
        import zuko

        affine = torch.distributions.AffineTransform(self.scale.center, self.scale.spread, event_dim=1)
        flow: Distribution = self.flow()
        pushed: Distribution = zuko.distributions.NormalizingFlow(affine.inv, flow)
        return pushed

    def fit(self, codes: Tensor, seed: int) -> None:
        """Fits by maximum likelihood on 90 % of the codes, and keeps the weights that are best on the others."""
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
