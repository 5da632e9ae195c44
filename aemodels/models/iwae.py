"""Defines the importance weighted autoencoder (Burda et al., 2016, arXiv:1509.00519).

With several bounds averaged it is MIWAE, with a share of the evidence lower bound CIWAE (Rainforth et al., 2018,
arXiv:1802.04537). K samples, M repeats, B batch, D latent units.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from aemodels.models.base import LatentDim, Loss
from aemodels.models.variational import Variational, VariationalConfig
from aemodels.nn.batch import Batch
from aemodels.nn.distributions import DiagonalNormal, kl_per_unit
from aemodels.nn.objectives import distortion, importance_bound
from aemodels.nn.trunks import ImageShape


class IWAE(Variational):
    """An IWAE minimises a bound on -log p(x) that falls with the number of samples.

    A variant overrides `objective`.

    Example:
        >>> model = IWAE(IWAEConfig(samples=5), (1, 28, 28), num_classes=0)
        >>> list(model.bound(Batch(torch.rand(6, 1, 28, 28), y=None)))
        ['distortion', 'rate', 'negative_elbo', 'negative_importance_bound', 'objective']
    """

    selection: ClassVar[str | None] = "objective"

    def __init__(self, config: IWAEConfig, image_shape: ImageShape, num_classes: int) -> None:
        super().__init__(config, image_shape, num_classes)
        self.samples, self.repeats, self.elbo_share = config.samples, config.repeats, config.elbo_share

    def objective(self, log_w: Tensor, terms: dict[str, Tensor]) -> Tensor:
        """Returns what is minimised, (B,), in nats per image, from log-weights (K, M, B) and the terms of the bound."""
        return (1 - self.elbo_share) * terms["negative_importance_bound"] + self.elbo_share * terms["negative_elbo"]

    def losses(self, batch: Batch, step: Tensor) -> dict[str, Loss]:
        terms = self._terms(batch, self.samples * self.repeats)
        return {"autoencoder": Loss(terms.pop("objective"), terms)}

    def bound(self, batch: Batch) -> dict[str, Tensor]:
        """Returns the terms of the bound, and decodes no more codes at once than `at_once` or the number of images."""
        return self._terms(batch, max(1, self.at_once // len(batch.x)))

    def _terms(self, batch: Batch, at_once: int) -> dict[str, Tensor]:
        q = self.encode(batch.seen, batch.y)
        log_w, cost = self._log_weights(q, batch, at_once)
        rate = kl_per_unit(q, self.prior(batch.y)).sum(-1)
        terms = {
            "distortion": cost,
            "rate": rate,
            "negative_elbo": cost + rate,
            "negative_importance_bound": -importance_bound(log_w),
        }
        return {**terms, "objective": self.objective(log_w, terms)}

    def _log_weights(self, q: DiagonalNormal, batch: Batch, at_once: int) -> tuple[Tensor, Tensor]:
        """Returns log(p(x|z) p(z) / q(z|x)), (K, M, B), and the mean distortion, (B,).

        `at_once` is how many codes of each image are decoded at once.
        """
        z = q.rsample((self.samples, self.repeats))  # (K, M, B, D)
        parts = z.flatten(0, 1).split(at_once)  # (at_once, B, D) each: pixels take far more memory than codes
        costs = torch.cat([distortion(self.decode(part, batch.y), batch.x) for part in parts]).view(z.shape[:-1])
        return self.prior(batch.y).log_prob(z) - q.log_prob(z) - costs, costs.mean((0, 1))


class IWAEConfig(VariationalConfig):
    """Holds the settings of an importance weighted autoencoder.

    Its bound is tighter than the VAE's, because it takes several samples for each image.

    Example:
        >>> IWAEConfig(samples=50).build((1, 28, 28), num_classes=0).latent_dim
        50
    """

    module: ClassVar[type[IWAE]] = IWAE
    only_in_loss: ClassVar[tuple[str, ...]] = ("samples", "repeats", "elbo_share")

    name: Literal["iwae"] = "iwae"
    """Chooses the model."""
    latent_dim: LatentDim = 50
    samples: int = Field(5, ge=1)
    """Sets the number of samples in one bound (K); with 1 it is the VAE's bound."""
    repeats: int = Field(1, ge=1)
    """Sets the number of bounds that are averaged (M); with more than 1 the model is MIWAE."""
    elbo_share: float = Field(0.0, ge=0, le=1)
    """Sets the share of the evidence lower bound in the loss: between 0 and 1 is CIWAE, 1 is the VAE."""
