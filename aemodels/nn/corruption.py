"""What a denoising model is shown instead of its images (Vincent et al., 2010, JMLR 11).

B batch, (C, H, W) an image with pixels in [0, 1].
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor

from aemodels.config import Config
from aemodels.nn.noise import normal_like, uniform_like


class NoCorruption(Config):
    """Images as they are."""

    name: Literal["none"] = "none"
    """How the images that the encoder sees are corrupted; the target is the clean image."""

    def apply(self, x: Tensor) -> Tensor | None:
        """What is shown of images (B, C, H, W) in [0, 1]; None: the images themselves."""
        return None


class GaussianCorruption(Config):
    """Normal noise on every pixel and channel, cut off at black and white."""

    name: Literal["gaussian"] = "gaussian"
    """How the images that the encoder sees are corrupted; the target is the clean image."""
    sigma: float = Field(0.3, gt=0, le=2)
    """Standard deviation of the noise, on pixels in [0, 1]."""

    def apply(self, x: Tensor) -> Tensor:
        return normal_like(x).mul_(self.sigma).add_(x).clamp_(0, 1)


class SaltAndPepperCorruption(Config):
    """Some pixels become black or white, by a coin flip."""

    name: Literal["salt_and_pepper"] = "salt_and_pepper"
    """How the images that the encoder sees are corrupted; the target is the clean image."""
    share: float = Field(0.3, gt=0, le=1)
    """Of the pixels."""

    def apply(self, x: Tensor) -> Tensor:
        u = uniform_like(x[:, :1])  # all channels of a pixel alike
        return x.masked_fill(u < self.share / 2, 0).masked_fill(u > 1 - self.share / 2, 1)


class MaskingCorruption(Config):
    """Some pixels become black."""

    name: Literal["masking"] = "masking"
    """How the images that the encoder sees are corrupted; the target is the clean image."""
    share: float = Field(0.5, gt=0, lt=1)
    """Of the pixels."""

    def apply(self, x: Tensor) -> Tensor:
        return x.masked_fill(uniform_like(x[:, :1]) < self.share, 0)


CorruptionConfig = Annotated[
    NoCorruption | GaussianCorruption | SaltAndPepperCorruption | MaskingCorruption, Field(discriminator="name")
]
