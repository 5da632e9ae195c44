"""Corrupts the images that a denoising model is shown (Vincent et al., 2010, JMLR 11).

B is the size of a batch and (C, H, W) the shape of an image, with pixels in [0, 1].
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor

from aemodels.config import Config
from aemodels.nn.noise import normal_like, uniform_like


class NoCorruption(Config):
    """Shows the images to the encoder as they are."""

    name: Literal["none"] = "none"
    """Chooses how the images that the encoder sees are corrupted; the target is always the clean image."""

    def apply(self, x: Tensor) -> Tensor | None:
        """Returns corrupted images (B, C, H, W) in [0, 1], or None if the model is shown the images themselves."""
        return None


class GaussianCorruption(Config):
    """Adds normal noise to every pixel and channel, and cuts it off at black and white."""

    name: Literal["gaussian"] = "gaussian"
    """Chooses how the images that the encoder sees are corrupted; the target is always the clean image."""
    sigma: float = Field(0.3, gt=0, le=2)
    """Sets the standard deviation of the noise, on pixels in [0, 1]."""

    def apply(self, x: Tensor) -> Tensor:
        return normal_like(x).mul_(self.sigma).add_(x).clamp_(0, 1)


class SaltAndPepperCorruption(Config):
    """Turns some pixels black or white, each with the same probability."""

    name: Literal["salt_and_pepper"] = "salt_and_pepper"
    """Chooses how the images that the encoder sees are corrupted; the target is always the clean image."""
    share: float = Field(0.3, gt=0, le=1)
    """Sets the share of the pixels that become black or white."""

    def apply(self, x: Tensor) -> Tensor:
        u = uniform_like(x[:, :1])  # all channels of a pixel alike
        return x.masked_fill(u < self.share / 2, 0).masked_fill(u > 1 - self.share / 2, 1)


class MaskingCorruption(Config):
    """Turns some pixels black."""

    name: Literal["masking"] = "masking"
    """Chooses how the images that the encoder sees are corrupted; the target is always the clean image."""
    share: float = Field(0.5, gt=0, lt=1)
    """Sets the share of the pixels that become black."""

    def apply(self, x: Tensor) -> Tensor:
        return x.masked_fill(uniform_like(x[:, :1]) < self.share, 0)


CorruptionConfig = Annotated[
    NoCorruption | GaussianCorruption | SaltAndPepperCorruption | MaskingCorruption, Field(discriminator="name")
]
