"""Defines the generative adversarial network (Goodfellow et al., 2014, arXiv:1406.2661).

It uses the non-saturating loss and the gradient penalty R1 (Mescheder et al., 2018, arXiv:1801.04406).

B batch, D latent units, (C, H, W) an image.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from aemodels.config import Range, Space
from aemodels.models.base import ADVERSARIAL_MOMENTUM, GenerativeModel, Loss, ModelConfig
from aemodels.models.start import start_at_mean
from aemodels.nn import noise
from aemodels.nn.batch import Batch
from aemodels.nn.distributions import BernoulliHead
from aemodels.nn.linear_code import LinearCode
from aemodels.nn.objectives import gradient_penalty, is_drawn, is_real
from aemodels.nn.trunks import Discriminator, ImageShape, MLPConfig, TrunkConfig


class GANConfig(ModelConfig):
    """Holds the settings of a generative adversarial network.

    The generator is built as an autoencoder's decoder, the discriminator as its encoder with one output.

    Example:
        >>> GANConfig(latent_dim=8).build((1, 28, 28), num_classes=0).sample(3).shape
        torch.Size([3, 1, 28, 28])
    """

    only_in_loss: ClassVar[tuple[str, ...]] = ("gradient_penalty",)
    has_encoder: ClassVar[bool] = False

    name: Literal["gan"] = "gan"
    """Chooses the model."""
    latent_dim: int = Field(64, ge=1)
    """Sets how many numbers an image is made from."""
    gradient_penalty: float = Field(10.0, ge=0)
    """Weighs R1 in the discriminator's loss: half the squared gradient of its logit by real pixels in [0, 1]."""
    trunk: TrunkConfig = MLPConfig()
    """Sets the networks; the generator is built as their decoder."""

    def build(self, image_shape: ImageShape, num_classes: int) -> GAN:
        return GAN(self, image_shape, num_classes)

    def search_space(self) -> Space:
        return {"model.latent_dim": Range(low=8, high=128, log=True)}


class GAN(GenerativeModel):
    """A GAN has two parts that play against each other; it has no encoder, so it cannot reconstruct or embed.

    Example:
        >>> model = GAN(GANConfig(latent_dim=8), (1, 28, 28), num_classes=0)
        >>> model.parts()
        {'generator': ('generator',), 'discriminator': ('discriminator',)}
    """

    selection: ClassVar[str | None] = None
    momentum: ClassVar[float] = ADVERSARIAL_MOMENTUM
    unit_mask: Tensor

    def __init__(self, config: GANConfig, image_shape: ImageShape, num_classes: int) -> None:
        super().__init__(image_shape, num_classes, config.latent_dim)
        self.generator = config.trunk.decoder(image_shape, config.latent_dim)
        self.discriminator = Discriminator(config.trunk.encoder(image_shape))
        self.gradient_penalty = config.gradient_penalty
        self.register_buffer("unit_mask", torch.ones(config.latent_dim))

    def start_at(self, linear_code: Callable[[int], LinearCode]) -> None:
        start_at_mean(self.generator, linear_code(0).mean, BernoulliHead())

    def parts(self) -> dict[str, tuple[str, ...]]:
        return {"generator": ("generator",), "discriminator": ("discriminator",)}

    def losses(self, batch: Batch, step: Tensor) -> dict[str, Loss]:
        # The images go through one kind after the other: the generator's gradient passes the drawn images alone.
        real, gradient = self.discriminator.with_gradient(batch.x)
        drawn = self.discriminator(self.sample(len(batch.x))).logits
        fooled, caught, known = is_real(drawn), is_drawn(drawn), is_real(real.logits)
        penalty = gradient_penalty(gradient)
        return {
            "generator": Loss(fooled, {"drawn_as_real": fooled}),
            "discriminator": Loss(
                known + caught + self.gradient_penalty * penalty,
                {"real_as_real": known, "drawn_as_drawn": caught, "gradient_penalty": penalty},
            ),
        }

    def bound(self, batch: Batch) -> dict[str, Tensor]:
        return {"real_as_real": is_real(self.discriminator(batch.x).logits)}

    def sample(self, n: int, y: Tensor | None = None) -> Tensor:
        z = noise.noise_like(self.unit_mask.expand(n, -1)) * self.unit_mask
        images: Tensor = self.generator(z).to(z.dtype).sigmoid()  # densities are float32, whatever the layers ran in
        return images
