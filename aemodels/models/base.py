"""Says what every model has: parts with losses, and samples; an autoencoder also encodes and decodes.

B batch, D latent units, (C, H, W) an image. Images are in [0, 1] wherever they cross a method of a model.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from typing import Annotated, ClassVar, NamedTuple, Self

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.distributions import Distribution

from aemodels.config import Config, Range, Space
from aemodels.models.start import start_at_code, start_at_mean
from aemodels.nn.batch import Batch, at_once
from aemodels.nn.distributions import (
    AnyLikelihoodConfig,
    AutoLikelihoodConfig,
    BernoulliConfig,
    DiagonalNormalHead,
    GaussianConfig,
    LikelihoodConfig,
    LikelihoodHead,
    PointHead,
)
from aemodels.nn.linear_code import LinearCode
from aemodels.nn.photo import PhotoConfig, PhotoDecoder, PhotoEncoder
from aemodels.nn.trunks import AnyTrunkConfig, AutoTrunkConfig, ImageShape, MLPConfig
from aemodels.priors.base import FittedPrior
from aemodels.priors.fitting import fitted_to_few

ADVERSARIAL_MOMENTUM = 0.5  # two parts that chase each other swing with more (Radford et al., 2016, arXiv:1511.06434)
PHOTO_FROM = 9  # pixels of an image's shorter side from which on `auto` takes the trunk for photos
LEAST_CODES = 50  # the number of codes, at least, to which a distribution of images is fitted

LatentDim = Annotated[int, Field(ge=1, description="Sets how many numbers a code has.")]


class Loss(NamedTuple):
    """A loss is what one part minimises on a batch; the training loop takes the mean, in one place.

    Example:
        >>> cost, rate = torch.tensor([80.0, 90.0]), torch.tensor([20.0, 25.0])
        >>> Loss(cost + rate, {"distortion": cost, "rate": rate}).total.mean()
        tensor(107.5000)
    """

    total: Tensor  # (B,)
    terms: dict[str, Tensor]  # (B,) each, nats per image


class ModelConfig(Config):
    """Provides the base of the models' settings."""

    stacked: ClassVar[tuple[str, ...]] = ("latent_dim",)
    """Names the settings that may differ between the members of a population: they only size or fill tensors."""

    only_in_loss: ClassVar[tuple[str, ...]] = ()
    """Names the settings of the loss alone: with others of them a training may start from this model's weights."""

    has_encoder: ClassVar[bool] = True
    """Tells whether its model is an `Autoencoder`, which images can be shown to."""

    name: str
    """Chooses the model."""

    def build(self, image_shape: ImageShape, num_classes: int) -> GenerativeModel:
        """Returns a new model for images of that shape; `num_classes` is 0 for data without labels.

        Raises:
            SettingsError: the networks do not fit the images.
        """
        raise NotImplementedError

    def search_space(self) -> Space:
        """Returns what a search varies, unless it is told otherwise: dotted key -> range or choices."""
        raise NotImplementedError

    def for_images(self, image_shape: ImageShape, black_and_white: bool) -> Self:
        """Returns the settings for some images, with everything settled that is chosen from them.

        Args:
            black_and_white: tells whether the pixels have no other values, as after binarisation.
        """
        return self


class GenerativeModel(nn.Module, ABC):
    """A generative model draws images; each of its parts has its own optimiser and its own loss.

    Example:
        >>> from aemodels.models import GANConfig
        >>> model = GANConfig(latent_dim=8).build((1, 8, 8), num_classes=0)
        >>> {part: len(list(model.part_parameters(part))) for part in model.parts()}
        {'generator': 4, 'discriminator': 4}
    """

    selection: ClassVar[str | None]
    """Names the entry of `bound` that selects the best weights and stops a training early.

    It is None for adversarial models, which have no such entry.
    """

    conditional: ClassVar[bool] = False
    """Tells whether the model can be asked for images of a class."""

    momentum: ClassVar[float] = 0.9
    """Sets the decay of Adam's running mean of the gradients."""

    warmup_steps: int = 0
    """Counts the updates until the loss has its final weights; a training does not stop early before."""

    def __init__(self, image_shape: ImageShape, num_classes: int, latent_dim: int) -> None:
        super().__init__()
        self.image_shape, self.num_classes, self.latent_dim = image_shape, num_classes, latent_dim

    @property
    def at_once(self) -> int:
        """Returns how many images or codes are evaluated at once."""
        return at_once(self.image_shape)

    def start_at(self, linear_code: Callable[[int], LinearCode]) -> None:
        """Moves the new weights to where the training images are, before the first update; here they stay.

        Args:
            linear_code: returns the linear code of training images, of as many numbers as it is asked for.
        """

    @abstractmethod
    def parts(self) -> dict[str, tuple[str, ...]]:
        """Returns part -> the names of the submodules that it trains."""

    @abstractmethod
    def losses(self, batch: Batch, step: Tensor) -> dict[str, Loss]:
        """Returns part -> its loss, all from one forward pass. `step` counts updates, a 0-dimensional tensor.

        On a GPU an update is captured once and replayed. So nothing may differ from one update to the next but torch's
        noise and tensors: the batch, the step, weights, and buffers that are changed in place.
        """

    @abstractmethod
    def bound(self, batch: Batch) -> dict[str, Tensor]:
        """Returns the terms (B,) on held-out images, in nats per image, with their final weights.

        They are reported, and one of them selects the weights (`selection`).
        """

    @abstractmethod
    def sample(self, n: int, y: Tensor | None = None) -> Tensor:
        """Returns new images (n, C, H, W)."""

    def fit_prior(self, batches: Iterable[Batch], seed: int) -> None:
        """Fits what is fitted after training, on training images only."""

    def part_parameters(self, part: str) -> Iterator[nn.Parameter]:
        """Yields the parameters that a part's optimiser owns."""
        for module in self.parts()[part]:
            yield from self.get_submodule(module).parameters()

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device


class Networks(NamedTuple):
    """Holds the networks that an autoencoder is composed of."""

    encoder: nn.Module  # images (B, C, H, W) -> features
    posterior: nn.Module  # features -> q(z|x)
    decoder: nn.Module  # codes (B, D) -> (B, C, H, W)
    likelihood: LikelihoodHead  # the decoder's output -> p(x|z)


class AutoencoderConfig(ModelConfig):
    """Provides the base of autoencoders' settings; the networks of all autoencoders are composed here, by `networks`.

    A variant has its own settings, says in `module` which class it makes, and overrides what it does in another way.

    Example:
        >>> from aemodels.models import VAEConfig
        >>> networks = VAEConfig(latent_dim=3, trunk="mlp", likelihood="bernoulli").networks((1, 28, 28), num_classes=0)
        >>> networks.decoder(torch.zeros(6, 3)).shape
        torch.Size([6, 1, 28, 28])
    """

    module: ClassVar[type[Autoencoder]]
    """Names the class of the models."""

    latent_dim: LatentDim = 20
    trunk: AnyTrunkConfig = AutoTrunkConfig()
    """Sets the networks between images and codes; `auto` takes photo, but mlp if a side has only 8 pixels."""
    likelihood: AnyLikelihoodConfig = AutoLikelihoodConfig()
    """Sets how pixels are distributed around a reconstruction.

    `auto` is bernoulli for black and white pixels, and gaussian with an optimal sigma for all others. For an `ae` it is
    gaussian with a fixed sigma."""

    def build(self, image_shape: ImageShape, num_classes: int) -> Autoencoder:
        return self.module(self, image_shape, num_classes)

    def for_images(self, image_shape: ImageShape, black_and_white: bool) -> Self:
        chosen: dict[str, Config] = {}
        if isinstance(self.trunk, AutoTrunkConfig):
            chosen["trunk"] = PhotoConfig() if min(image_shape[1:]) >= PHOTO_FROM else MLPConfig()
        if isinstance(self.likelihood, AutoLikelihoodConfig):
            chosen["likelihood"] = self.likelihood_for(black_and_white)
        return self.model_copy(update=chosen) if chosen else self

    def likelihood_for(self, black_and_white: bool) -> LikelihoodConfig:
        """Returns the likelihood that `auto` stands for: coin flips of black and white pixels, else Gaussians."""
        return BernoulliConfig() if black_and_white else GaussianConfig(sigma="optimal", output="linear")

    def networks(self, image_shape: ImageShape, num_classes: int) -> Networks:
        """Returns new networks for images of that shape."""
        # The same seed gives the same weights as long as the layers are made in this order.
        decoder = self.trunk.decoder(image_shape, self.decoder_inputs(num_classes))
        encoder = self.trunk.encoder(image_shape, self.latent_dim)
        return Networks(encoder, self.posterior_head(encoder.features), decoder, self.likelihood.build())

    def fitted_prior(self) -> FittedPrior | None:
        """Returns what new codes are drawn from in place of the prior, to be fitted after training; here nothing is."""
        return None

    def posterior_head(self, features: int) -> nn.Module:
        """Returns what turns the encoder's features into q(z|x): unless it is overridden, a diagonal normal."""
        return DiagonalNormalHead(features, self.latent_dim)

    def decoder_inputs(self, num_classes: int) -> int:
        """Returns how many numbers the decoder makes an image from: unless it is overridden, those of the code."""
        return self.latent_dim

    def search_space(self) -> Space:
        return {"model.latent_dim": Range(low=2, high=64, log=True)}


class Autoencoder(GenerativeModel):
    """An autoencoder has an encoder to q(z|x), a decoder to p(x|z) and a prior p(z).

    Example:
        >>> from aemodels.models import AEConfig
        >>> model = AEConfig(latent_dim=3).build((1, 8, 8), num_classes=0)
        >>> model(torch.rand(6, 1, 8, 8)).shape
        torch.Size([6, 1, 8, 8])
    """

    stochastic: ClassVar[bool] = False
    """Tells whether q(z|x) has a spread; if not, it is a point."""

    def __init__(self, config: AutoencoderConfig, image_shape: ImageShape, num_classes: int) -> None:
        super().__init__(image_shape, num_classes, config.latent_dim)
        settled = config.for_images(image_shape, black_and_white=False)
        self.encoder, self.posterior, self.decoder, self.likelihood = settled.networks(image_shape, num_classes)
        self.fitted_prior = config.fitted_prior()

    def start_at(self, linear_code: Callable[[int], LinearCode]) -> None:
        if isinstance(self.encoder, PhotoEncoder) and isinstance(self.decoder, PhotoDecoder):
            assert isinstance(self.posterior, DiagonalNormalHead | PointHead)
            code = linear_code(self.latent_dim)
            start_at_code(self.encoder, self.posterior, self.decoder, self.likelihood, code)
        else:
            start_at_mean(self.decoder, linear_code(0).mean, self.likelihood)

    def parts(self) -> dict[str, tuple[str, ...]]:
        return {"autoencoder": ("encoder", "posterior", "decoder", "likelihood")}

    def encode(self, x: Tensor, y: Tensor | None = None) -> Distribution:
        """Maps images (B, C, H, W) to q(z|x), event (D,)."""
        q: Distribution = self.posterior(self.encoder(self.likelihood.scale(x)))
        return q

    def decode(self, z: Tensor, y: Tensor | None = None) -> Distribution:
        """Maps codes (..., D) to p(x|z), batch (...), event (C, H, W).

        Leading axes before the batch are samples for the same images.
        """
        h = self.decoder(z.flatten(0, -2)).unflatten(0, z.shape[:-1])
        p_x: Distribution = self.likelihood(h)
        return p_x

    @abstractmethod
    def prior(self, y: Tensor | None = None) -> Distribution:
        """Returns p(z), event (D,), or p(z|y), batch (B,), if the model is conditional."""

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Returns the deterministic reconstruction (B, C, H, W): the mean of p(x|z) at the posterior's mean."""
        return self.decode(self.encode(x, y).mean, y).mean

    def sample(self, n: int, y: Tensor | None = None) -> Tensor:
        p_z = self.prior() if self.fitted_prior is None else self.fitted_prior()
        return self.decode(p_z.sample((n,)), y).mean

    @torch.no_grad()
    def fit_prior(self, batches: Iterable[Batch], seed: int) -> None:
        if self.fitted_prior is not None:
            codes = [self.encode(batch.x, batch.y).sample() for batch in batches]
            self.fitted_prior.fit(torch.cat(codes), seed)

    @torch.no_grad()
    def sample_like(self, x: Tensor, n: int, seed: int) -> Tensor:
        """Draws new images (n, C, H, W) like the images x (B, C, H, W)."""
        return self._sample_like(x, None, n, seed)

    def _sample_like(self, x: Tensor, y: Tensor | None, n: int, seed: int) -> Tensor:
        """Draws from a distribution fitted to codes from the posteriors of x; y (1,) is the class of all, if any."""
        # Several codes are drawn of each image if there are few images; one image then has its posterior's spread.
        draws = -(-LEAST_CODES // len(x)) if self.stochastic else 1
        codes = torch.cat([self.encode(part, y).rsample((draws,)).flatten(0, 1) for part in x.split(self.at_once)])
        if not codes.isfinite().all():
            return x.new_full((n, *x.shape[1:]), torch.nan)
        z = fitted_to_few(codes, seed)().sample((n,)).to(x.device)
        return torch.cat([self.decode(part, y).mean for part in z.split(self.at_once)])

    def classify(self, x: Tensor) -> Tensor | None:
        """Returns the classes (B,) that a conditional model sees in images (B, C, H, W); other models return None."""
        return None

    def rate_per_unit(self, x: Tensor, y: Tensor | None = None) -> Tensor | None:
        """Returns KL(q(z|x) || p(z)) of each latent unit (B, D) in nats, or None where it does not exist."""
        return None
