"""Says what variational autoencoders share: q(z|x) has a spread, and p(z) is N(0, I).

B batch, D latent units, (C, H, W) an image.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import Tensor

from aemodels.models.base import Autoencoder, AutoencoderConfig
from aemodels.nn.distributions import DiagonalNormal, DiagonalNormalHead, kl_per_unit
from aemodels.priors import FittedName
from aemodels.priors.base import FittedPrior
from aemodels.priors.fitting import PRIORS

DrawsFrom = Literal[FittedName, "prior"]


class Variational(Autoencoder):
    """A variational autoencoder has a diagonal normal q(z|x), and N(0, I) as its prior.

    Example:
        >>> import torch
        >>> from aemodels.models import VAEConfig
        >>> model = VAEConfig(latent_dim=3).build((1, 8, 8), num_classes=0)
        >>> model.rate_per_unit(torch.rand(6, 1, 8, 8)).shape
        torch.Size([6, 3])
    """

    stochastic: ClassVar[bool] = True
    posterior: DiagonalNormalHead

    def encode(self, x: Tensor, y: Tensor | None = None) -> DiagonalNormal:
        q = super().encode(x, y)
        assert isinstance(q, DiagonalNormal)
        return q

    def prior(self, y: Tensor | None = None) -> DiagonalNormal:
        return self.posterior.prior()

    def rate_per_unit(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        return kl_per_unit(self.encode(x, y), self.prior(y))


class VariationalConfig(AutoencoderConfig):
    """Provides the base of the settings of variational autoencoders that draw images from any prior.

    Example:
        >>> from aemodels.models import VAEConfig
        >>> type(VAEConfig(draws_from="gaussian").fitted_prior()).__name__
        'GaussianPrior'
    """

    draws_from: DrawsFrom = "mixture"
    """Sets where the codes of new images come from.

    `prior` is N(0, I), of which the rate and all bounds are. The others are fitted to codes of training images, and
    their images are nearer to real ones (Ghosh et al., 2020, arXiv:1903.12436). `gaussian` is one Gaussian, `mixture`
    up to 10."""

    def fitted_prior(self) -> FittedPrior | None:
        return None if self.draws_from == "prior" else PRIORS[self.draws_from](self.latent_dim)
