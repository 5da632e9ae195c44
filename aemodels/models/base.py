"""What every model is: parts with losses, and samples; an autoencoder also encodes and decodes.

B batch, D latent units, (C, H, W) an image. Images are in [0, 1] wherever they cross a method of a model.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from aemodels.config import Config, Space
from aemodels.nn.batch import AT_ONCE, Batch
from aemodels.nn.distributions import DiagonalNormal, DiagonalNormalHead, LikelihoodHead, kl_per_unit
from aemodels.nn.trunks import ImageShape
from aemodels.priors import fitted_to_few

ADVERSARIAL_MOMENTUM = 0.5  # two parts that chase each other swing with more (Radford et al., 2016, arXiv:1511.06434)
LEAST_CODES = 50  # that a distribution of images is fitted to


class Loss(NamedTuple):
    """What one part minimises on a batch; the loop takes the mean, in one place."""

    total: Tensor  # (B,)
    terms: dict[str, Tensor]  # (B,) each, nats per image


class ModelConfig(Config):
    """Base of the models' settings."""

    stacked: ClassVar[tuple[str, ...]] = ("latent_dim",)
    """What may differ between the members of a population: settings that only size or fill tensors."""

    has_encoder: ClassVar[bool] = True
    """Whether its model is an `Autoencoder`, which images can be shown to."""

    def build(self, image_shape: ImageShape, num_classes: int) -> GenerativeModel:
        """A new model for images of that shape; `num_classes` is 0 for data without labels.

        Raises:
            SettingsError: the networks do not fit the images.
        """
        raise NotImplementedError

    def search_space(self) -> Space:
        """What a search varies, unless it is told otherwise: dotted key -> range or choices."""
        raise NotImplementedError


class GenerativeModel(nn.Module, ABC):
    """A model that draws images; each of its parts has its own optimiser and its own loss."""

    selection: ClassVar[str | None]
    """The key of `bound` that picks the best weights and stops a training early; None for adversarial models."""

    conditional: ClassVar[bool] = False
    """Whether one can ask it for images of a class."""

    momentum: ClassVar[float] = 0.9
    """Decay of Adam's mean of the gradients."""

    warmup_steps: int = 0
    """Steps until the loss has its final weights: no early stop before."""

    def __init__(self, image_shape: ImageShape, num_classes: int, latent_dim: int) -> None:
        super().__init__()
        self.image_shape, self.num_classes, self.latent_dim = image_shape, num_classes, latent_dim

    @abstractmethod
    def parts(self) -> dict[str, tuple[str, ...]]:
        """Part -> the submodules that it trains."""

    @abstractmethod
    def losses(self, batch: Batch, step: Tensor) -> dict[str, Loss]:
        """Part -> its loss, all from one forward pass. `step` counts updates, a 0-dimensional tensor.

        On a GPU an update is captured once and replayed: nothing may differ from one to the next but tensors (the
        batch, the step, weights, buffers that are changed in place) and torch's noise.
        """

    @abstractmethod
    def bound(self, batch: Batch) -> dict[str, Tensor]:
        """Terms (B,) on held-out images, in nats per image, with their final weights; what is reported and selects."""

    @abstractmethod
    def sample(self, n: int, y: Tensor | None = None) -> Tensor:
        """New images (n, C, H, W)."""

    def fit_prior(self, batches: Iterable[Batch], seed: int) -> None:
        """Fits what is fitted after training, on training images only."""

    def part_parameters(self, part: str) -> Iterator[nn.Parameter]:
        """The parameters that a part's optimiser owns."""
        for module in self.parts()[part]:
            yield from self.get_submodule(module).parameters()

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device


class Networks(NamedTuple):
    """What an autoencoder is composed of."""

    encoder: nn.Module  # images (B, C, H, W) -> features
    posterior: nn.Module  # features -> q(z|x)
    decoder: nn.Module  # codes (B, D) -> (B, C, H, W)
    likelihood: LikelihoodHead  # that -> p(x|z)


class Autoencoder(GenerativeModel):
    """An encoder to q(z|x), a decoder to p(x|z) and a prior p(z), composed by a model's config."""

    stochastic: ClassVar[bool] = False
    """Whether q(z|x) has a spread; else it is a point."""

    def __init__(self, image_shape: ImageShape, num_classes: int, latent_dim: int, networks: Networks) -> None:
        super().__init__(image_shape, num_classes, latent_dim)
        self.encoder, self.posterior, self.decoder, self.likelihood = networks

    def parts(self) -> dict[str, tuple[str, ...]]:
        return {"autoencoder": ("encoder", "posterior", "decoder", "likelihood")}

    def encode(self, x: Tensor, y: Tensor | None = None) -> Distribution:
        """Images (B, C, H, W) -> q(z|x), event (D,)."""
        q: Distribution = self.posterior(self.encoder(self.likelihood.scale(x)))
        return q

    def decode(self, z: Tensor, y: Tensor | None = None) -> Distribution:
        """Codes (..., D) -> p(x|z), batch (...), event (C, H, W); more leading axes are samples of the same images."""
        h = self.decoder(z.flatten(0, -2)).unflatten(0, z.shape[:-1])
        p_x: Distribution = self.likelihood(h)
        return p_x

    @abstractmethod
    def prior(self, y: Tensor | None = None) -> Distribution:
        """p(z), event (D,); of a conditional model p(z|y), batch (B,)."""

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """The deterministic reconstruction (B, C, H, W): the mean of p(x|z) at the posterior's mean."""
        return self.decode(self.encode(x, y).mean, y).mean

    def sample(self, n: int, y: Tensor | None = None) -> Tensor:
        return self.decode(self.prior().sample((n,)), y).mean

    @torch.no_grad()
    def sample_like(self, x: Tensor, n: int, seed: int) -> Tensor:
        """New images (n, C, H, W) like the images x (B, C, H, W)."""
        return self._sample_like(x, None, n, seed)

    def _sample_like(self, x: Tensor, y: Tensor | None, n: int, seed: int) -> Tensor:
        """From a distribution fitted to codes from the posteriors of x; y (1,) is the class of all, if any."""
        draws = -(-LEAST_CODES // len(x)) if self.stochastic else 1  # of each: one image has its posterior's spread
        codes = torch.cat([self.encode(part, y).rsample((draws,)).flatten(0, 1) for part in x.split(AT_ONCE)])
        if not codes.isfinite().all():
            return x.new_full((n, *x.shape[1:]), torch.nan)
        z = fitted_to_few(codes, seed)().sample((n,)).to(x.device)
        return torch.cat([self.decode(part, y).mean for part in z.split(AT_ONCE)])

    def classify(self, x: Tensor) -> Tensor | None:
        """The classes (B,) that a conditional model sees in images (B, C, H, W); None for others."""
        return None

    def rate_per_unit(self, x: Tensor, y: Tensor | None = None) -> Tensor | None:
        """KL(q(z|x) || p(z)) of each latent unit (B, D) in nats; None where it does not exist."""
        return None


class Variational(Autoencoder):
    """An autoencoder with a diagonal normal q(z|x), and N(0, I) as prior."""

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
