"""Defines the VAE-GAN, an autoencoder whose distortion is measured in the features of a discriminator.

The source is Larsen et al. (2016, arXiv:1512.09300).

B batch, D latent units, F features, (C, H, W) an image. Each of the three parts has its own loss (algorithm 1), the
discriminator's with the gradient penalty R1 (Mescheder et al., 2018, arXiv:1801.04406).
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from aemodels.config import Range, SettingsError, Space
from aemodels.models.base import ADVERSARIAL_MOMENTUM, Autoencoder, AutoencoderConfig, Loss
from aemodels.models.variational import Variational
from aemodels.nn.batch import Batch
from aemodels.nn.distributions import BernoulliConfig, GaussianConfig, LikelihoodConfig, kl_per_unit
from aemodels.nn.objectives import distortion, gradient_penalty, is_drawn, is_real
from aemodels.nn.trunks import Discriminator, ImageShape, MLPConfig, TrunkConfig


class VAEGAN(Variational):
    """A VAE-GAN has three parts, each with a loss of its own.

    The encoder minimises beta * rate + distortion of features. The decoder minimises gamma times that distortion, and
    fools the discriminator with reconstructions and samples. The discriminator learns to tell these from images.

    Example:
        >>> model = VAEGAN(VAEGANConfig(latent_dim=8), (1, 28, 28), num_classes=0)
        >>> losses = model.losses(Batch(torch.rand(6, 1, 28, 28), y=None), step=torch.tensor(0))
        >>> {part: list(loss.terms) for part, loss in losses.items() if part != "discriminator"}
        {'encoder': ['rate', 'feature_distortion'], 'decoder': ['drawn_as_real']}
    """

    selection: ClassVar[str | None] = None
    momentum: ClassVar[float] = ADVERSARIAL_MOMENTUM
    beta: Tensor
    gamma: Tensor

    def __init__(self, config: VAEGANConfig, image_shape: ImageShape, num_classes: int) -> None:
        super().__init__(config, image_shape, num_classes)
        self.discriminator = Discriminator(config.trunk.encoder(image_shape))
        self.gradient_penalty = config.gradient_penalty
        self.register_buffer("beta", torch.tensor(config.beta))  # buffers: they may differ within a population
        self.register_buffer("gamma", torch.tensor(config.gamma))

    def parts(self) -> dict[str, tuple[str, ...]]:
        return {
            "encoder": ("encoder", "posterior"),
            "decoder": ("decoder", "likelihood"),
            "discriminator": ("discriminator",),
        }

    def losses(self, batch: Batch, step: Tensor) -> dict[str, Loss]:
        """Returns all losses from one forward pass.

        A part's optimiser owns its own parameters alone and takes no other gradient, so nothing is detached.
        """
        q = self.encode(batch.seen, batch.y)
        reconstructions, samples = self.decode(q.rsample(), batch.y).mean, self.sample(len(batch.x), batch.y)
        # The images go through one kind after the other: a part's gradient then passes only those that its loss is
        # about, which is a fifth less work.
        (real, features), gradient = self.discriminator.with_gradient(batch.x)
        again, reconstructed = self.discriminator(reconstructions)
        drawn, _ = self.discriminator(samples)
        rate, cost = kl_per_unit(q, self.prior()).sum(-1), feature_distortion(features, reconstructed)
        penalty = gradient_penalty(gradient)
        fooled, known, caught = is_real(again) + is_real(drawn), is_real(real), is_drawn(again) + is_drawn(drawn)
        return {
            "encoder": Loss(self.beta * rate + cost, {"rate": rate, "feature_distortion": cost}),
            "decoder": Loss(self.gamma * cost + fooled, {"drawn_as_real": fooled}),
            "discriminator": Loss(
                known + caught + self.gradient_penalty * penalty,
                {"real_as_real": known, "drawn_as_drawn": caught, "gradient_penalty": penalty},
            ),
        }

    def bound(self, batch: Batch) -> dict[str, Tensor]:
        q = self.encode(batch.seen, batch.y)
        p_x = self.decode(q.rsample(), batch.y)
        features, reconstructed = self.discriminator(torch.cat([batch.x, p_x.mean])).features.chunk(2)
        rate, cost = kl_per_unit(q, self.prior()).sum(-1), distortion(p_x, batch.x)
        return {
            "distortion": cost,
            "rate": rate,
            "negative_elbo": cost + rate,
            "feature_distortion": feature_distortion(features, reconstructed),
        }


def feature_distortion(a: Tensor, b: Tensor) -> Tensor:
    """Returns -log N(b; a, I) of features (B, F) without its constant, (B,): eq. 7 and 8."""
    return 0.5 * (a - b).square().sum(-1)


class VAEGANConfig(AutoencoderConfig):
    """Holds the settings of a VAE-GAN.

    Example:
        >>> sorted(VAEGANConfig(latent_dim=8).build((1, 28, 28), num_classes=0).parts())
        ['decoder', 'discriminator', 'encoder']
    """

    module: ClassVar[type[VAEGAN]] = VAEGAN
    stacked: ClassVar[tuple[str, ...]] = ("latent_dim", "beta", "gamma")
    only_in_loss: ClassVar[tuple[str, ...]] = ("beta", "gamma", "gradient_penalty")

    name: Literal["vae_gan"] = "vae_gan"
    """Chooses the model."""
    beta: float = Field(0.02, ge=0)
    """Weighs the rate in the encoder's loss, beside the distortion of the features."""
    gamma: float = Field(0.3, ge=0)
    """Weighs the distortion of the features in the decoder's loss, beside what fools the discriminator."""
    gradient_penalty: float = Field(10.0, ge=0)
    """Weighs R1 in the discriminator's loss: half the squared gradient of its logit by real pixels in [0, 1]."""
    trunk: TrunkConfig = MLPConfig()
    """Sets the networks; the discriminator is another encoder of the kind, whose features measure the distortion."""
    likelihood: LikelihoodConfig = BernoulliConfig()
    """Sets what turns the decoder's output into pixels; their distortion is reported, and trains nothing."""

    def build(self, image_shape: ImageShape, num_classes: int) -> Autoencoder:
        if isinstance(self.likelihood, GaussianConfig) and self.likelihood.sigma != "fixed":
            raise SettingsError(
                f"model.likelihood.sigma={self.likelihood.sigma}: a VAE-GAN's losses have no likelihood of pixels to "
                "find it by; use model.likelihood.sigma=fixed, or model.likelihood=bernoulli"
            )
        return super().build(image_shape, num_classes)

    def search_space(self) -> Space:
        return {**super().search_space(), "model.beta": Range(low=0.005, high=0.5, log=True)}
