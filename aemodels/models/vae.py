"""Defines the variational autoencoder (Kingma and Welling, 2014, arXiv:1312.6114).

It has a weight on the rate (beta-VAE: Higgins et al., 2017), a linear warm-up of that weight, and free bits (Kingma et
al., 2016, arXiv:1606.04934).
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from aemodels.config import Range, Space
from aemodels.models.base import Loss, ModelConfig, Networks, Variational
from aemodels.nn.batch import Batch
from aemodels.nn.distributions import BernoulliConfig, DiagonalNormalHead, LikelihoodConfig, kl_per_unit
from aemodels.nn.objectives import distortion, free_bits
from aemodels.nn.schedules import warm_up
from aemodels.nn.trunks import ImageShape, MLPConfig, TrunkConfig


class VAEConfig(ModelConfig):
    """Holds the settings of a variational autoencoder; beta is the weight of the rate.

    Example:
        >>> model = VAEConfig(latent_dim=2, beta=4.0).build((1, 28, 28), num_classes=0)
        >>> model.sample(3).shape
        torch.Size([3, 1, 28, 28])
    """

    stacked: ClassVar[tuple[str, ...]] = ("latent_dim", "beta")
    only_in_loss: ClassVar[tuple[str, ...]] = ("beta", "beta_warmup_steps", "free_bits")

    name: Literal["vae"] = "vae"
    """Chooses the model."""
    latent_dim: int = Field(20, ge=1)
    """Sets the number of latent units."""
    beta: float = Field(1.0, ge=0)
    """Weighs the rate (KL divergence) in the loss; 1 gives the evidence lower bound."""
    beta_warmup_steps: int = Field(0, ge=0)
    """Sets the updates over which the weight of the rate rises from 0 to beta."""
    free_bits: float = Field(0.0, ge=0)
    """Sets how many nats per latent unit cost nothing, on the mean of a batch.

    They are free in training alone, not in the bound that selects weights."""
    trunk: TrunkConfig = MLPConfig()
    """Sets the networks between images and codes."""
    likelihood: LikelihoodConfig = BernoulliConfig()
    """Sets how pixels are distributed around a reconstruction."""

    def build(self, image_shape: ImageShape, num_classes: int) -> VAE:
        decoder = self.trunk.decoder(image_shape, self.latent_dim)
        encoder = self.trunk.encoder(image_shape)
        posterior = DiagonalNormalHead(encoder.features, self.latent_dim)
        return VAE(self, image_shape, num_classes, Networks(encoder, posterior, decoder, self.likelihood.build()))

    def search_space(self) -> Space:
        return {
            "model.latent_dim": Range(low=2, high=64, log=True),
            "model.beta": Range(low=0.1, high=10.0, log=True),
        }


class VAE(Variational):
    """A VAE minimises distortion + beta * rate."""

    selection: ClassVar[str | None] = "objective"
    beta: Tensor

    def __init__(self, config: VAEConfig, image_shape: ImageShape, num_classes: int, networks: Networks) -> None:
        super().__init__(image_shape, num_classes, config.latent_dim, networks)
        self.warmup_steps, self.free_bits = config.beta_warmup_steps, config.free_bits
        self.register_buffer("beta", torch.tensor(config.beta))  # a buffer: it may differ within a population

    def losses(self, batch: Batch, step: Tensor) -> dict[str, Loss]:
        cost, rates = self._distortion_and_rates(batch)
        rate = rates.sum(-1)
        weight = self.beta * warm_up(step, self.warmup_steps)
        charged = (free_bits(rates, self.free_bits) * self.posterior.unit_mask).sum(-1) if self.free_bits else rate
        total = cost + weight * charged
        return {"autoencoder": Loss(total, {"distortion": cost, "rate": rate, "negative_elbo": cost + rate})}

    def bound(self, batch: Batch) -> dict[str, Tensor]:
        """Returns the terms of the bound, in which every nat of the rate counts, with free bits too.

        Free bits are an aid to training. They select nothing, and they are no term of one image, as they depend on the
        other images of its batch.
        """
        cost, rates = self._distortion_and_rates(batch)
        rate = rates.sum(-1)
        return {
            "distortion": cost,
            "rate": rate,
            "negative_elbo": cost + rate,
            "objective": cost + self.beta * rate,  # picks weights within this training; never compared across betas
        }

    def _distortion_and_rates(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Returns one sample of -log p(x|z), (B,), and the rate of each unit, (B, D)."""
        q = self.encode(batch.seen, batch.y)
        p_x = self.decode(q.rsample(), batch.y)
        return distortion(p_x, batch.x), kl_per_unit(q, self.prior(batch.y))
