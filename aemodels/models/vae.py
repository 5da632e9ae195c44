"""Defines the variational autoencoder (Kingma and Welling, 2014, arXiv:1312.6114).

It has a weight on the rate (beta-VAE: Higgins et al., 2017), a linear warm-up of that weight, and free bits (Kingma et
al., 2016, arXiv:1606.04934). B batch, D latent units.
"""

from __future__ import annotations

from typing import ClassVar, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from aemodels.config import Range, Space
from aemodels.models.base import Loss
from aemodels.models.variational import Variational, VariationalConfig
from aemodels.nn.batch import Batch
from aemodels.nn.distributions import DiagonalNormal, kl_per_unit
from aemodels.nn.objectives import distortion, free_bits
from aemodels.nn.schedules import warm_up
from aemodels.nn.trunks import ImageShape


class Pass(NamedTuple):
    """Holds what one forward pass finds of a batch, with one code for each image."""

    q: DiagonalNormal  # q(z|x)
    z: Tensor  # (B, D)
    distortion: Tensor  # -log p(x|z), (B,)
    rates: Tensor  # (B, D); in training at least the free bits

    @property
    def rate(self) -> Tensor:  # (B,)
        return self.rates.sum(-1)


class VAE(Variational):
    """A VAE minimises distortion + beta * rate; a variant overrides `charge`, which is the rate here.

    Example:
        >>> model = VAE(VAEConfig(latent_dim=2), (1, 28, 28), num_classes=0)
        >>> q = model.encode(torch.rand(6, 1, 28, 28))
        >>> q.mean.shape, model.decode(q.rsample()).mean.shape
        (torch.Size([6, 2]), torch.Size([6, 1, 28, 28]))
    """

    selection: ClassVar[str | None] = "objective"
    beta: Tensor

    def __init__(self, config: VAEConfig, image_shape: ImageShape, num_classes: int) -> None:
        super().__init__(config, image_shape, num_classes)
        self.warmup_steps, self.free_bits = config.beta_warmup_steps, config.free_bits
        self.register_buffer("beta", torch.tensor(config.beta))  # a buffer: it may differ within a population

    def charge(self, found: Pass) -> Tensor:
        """Returns what beta weighs in the loss beside the distortion, (B,), in nats per image."""
        return found.rate

    def losses(self, batch: Batch, step: Tensor) -> dict[str, Loss]:
        found = charged = self._pass(batch)
        if self.free_bits:
            charged = found._replace(rates=free_bits(found.rates, self.free_bits) * self.posterior.unit_mask)
        total = found.distortion + self.beta * warm_up(step, self.warmup_steps) * self.charge(charged)
        return {"autoencoder": Loss(total, _terms(found))}

    def bound(self, batch: Batch) -> dict[str, Tensor]:
        """Returns the terms of the bound, in which every nat of the rate counts, with free bits too.

        Free bits are an aid to training. They select nothing, and they are no term of one image, as they depend on the
        other images of its batch.
        """
        found = self._pass(batch)
        # The objective picks weights within this training; it is never compared across betas.
        return {**_terms(found), "objective": found.distortion + self.beta * self.charge(found)}

    def _pass(self, batch: Batch) -> Pass:
        q = self.encode(batch.seen, batch.y)
        z = q.rsample()
        p_x = self.decode(z, batch.y)
        return Pass(q, z, distortion(p_x, batch.x), kl_per_unit(q, self.prior(batch.y)))


def _terms(found: Pass) -> dict[str, Tensor]:
    return {"distortion": found.distortion, "rate": found.rate, "negative_elbo": found.distortion + found.rate}


class VAEConfig(VariationalConfig):
    """Holds the settings of a variational autoencoder; beta is the weight of the rate.

    Example:
        >>> model = VAEConfig(latent_dim=2, beta=4.0).build((1, 28, 28), num_classes=0)
        >>> model.sample(3).shape
        torch.Size([3, 1, 28, 28])
    """

    module: ClassVar[type[VAE]] = VAE
    stacked: ClassVar[tuple[str, ...]] = ("latent_dim", "beta")
    only_in_loss: ClassVar[tuple[str, ...]] = ("beta", "beta_warmup_steps", "free_bits")

    name: Literal["vae"] = "vae"
    """Chooses the model."""
    beta: float = Field(1.0, ge=0)
    """Weighs the rate (KL divergence) in the loss; 1 gives the evidence lower bound."""
    beta_warmup_steps: int = Field(0, ge=0)
    """Sets the updates over which the weight of the rate rises from 0 to beta."""
    free_bits: float = Field(0.0, ge=0)
    """Sets how many nats per latent unit cost nothing, on the mean of a batch.

    They are free in training alone, not in the bound that selects weights."""

    def search_space(self) -> Space:
        return {**super().search_space(), "model.beta": Range(low=0.1, high=10.0, log=True)}
