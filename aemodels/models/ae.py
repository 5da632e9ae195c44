"""Defines the autoencoder: one code per image, no prior in training.

The source is Hinton and Salakhutdinov (2006, Science 313).
"""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import Tensor, nn
from torch.distributions import Distribution

from aemodels.config import Space
from aemodels.models.base import Autoencoder, AutoencoderConfig, Loss
from aemodels.nn.batch import Batch
from aemodels.nn.distributions import GaussianConfig, LikelihoodConfig, PointHead
from aemodels.nn.objectives import distortion
from aemodels.priors import FittedName
from aemodels.priors.base import FittedPrior
from aemodels.priors.fitting import PRIORS


class AE(Autoencoder):
    """An autoencoder minimises the distortion alone, and draws images from what is fitted to its training codes.

    Example:
        >>> import torch
        >>> model = AE(AEConfig(latent_dim=3), (1, 28, 28), num_classes=0)
        >>> images = Batch(torch.rand(6, 1, 28, 28), y=None)
        >>> {name: tuple(term.shape) for name, term in model.bound(images).items()}
        {'distortion': (6,)}
    """

    selection: ClassVar[str | None] = "distortion"
    fitted_prior: FittedPrior

    def prior(self, y: Tensor | None = None) -> Distribution:
        p_z: Distribution = self.fitted_prior()
        return p_z

    def losses(self, batch: Batch, step: Tensor) -> dict[str, Loss]:
        terms = self.bound(batch)
        return {"autoencoder": Loss(terms["distortion"], terms)}

    def bound(self, batch: Batch) -> dict[str, Tensor]:
        z = self.encode(batch.seen, batch.y).mean
        return {"distortion": distortion(self.decode(z, batch.y), batch.x)}


class AEConfig(AutoencoderConfig):
    """Holds the settings of an autoencoder.

    Example:
        >>> model = AEConfig(latent_dim=3).build((1, 28, 28), num_classes=10)
        >>> model.latent_dim
        3
    """

    module: ClassVar[type[AE]] = AE

    name: Literal["ae"] = "ae"
    """Chooses the model."""
    draws_from: FittedName = "mixture"
    """Sets what is fitted to codes of training images, and then draws the codes of new images.

    `gaussian` is one Gaussian, `mixture` up to 10."""

    def posterior_head(self, features: int) -> PointHead:
        direct = self.trunk.direct_code is not None
        return PointHead(nn.Identity() if direct else nn.Linear(features, self.latent_dim), self.latent_dim)

    def fitted_prior(self) -> FittedPrior:
        return PRIORS[self.draws_from](self.latent_dim)

    def likelihood_for(self, black_and_white: bool) -> LikelihoodConfig:
        return GaussianConfig(sigma="fixed", output="linear")  # its sum of squares is all that a sigma could weigh

    def search_space(self) -> Space:
        return super().search_space() if self.trunk.direct_code is None else {}  # the code's size is the trunk's
