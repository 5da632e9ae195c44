"""Varies the images that a model is trained on: small changes under which a person sees the same thing.

B is the size of a batch and (C, H, W) the shape of an image, with pixels in [0, 1]; n is a height or a width.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from aemodels.config import Config
from aemodels.nn.noise import uniform_like

DRAWN = 8  # random numbers of an image, whatever is on: so no change alters what the others draw


class AugmentationConfig(Config):
    """Holds how much the images vary in training; each image changes at each pass by itself, and 0 changes nothing."""

    flip: bool = False
    """Mirrors half of the images, left for right; letters, digits and whatever has a handedness are wrong then."""
    shift: int | None = Field(None, ge=0)
    """Moves each image up or down and left or right, by up to so many whole pixels; its edges are repeated.

    With null it is a sixteenth of the shorter side for the trunk for photos and fewer than 10,000 images, else 0."""
    crop: float = Field(0.0, ge=0, lt=1)
    """Cuts up to this share (0 to 1) off each image's height and width, at any side, and enlarges the rest."""
    brightness: float = Field(0.0, ge=0, lt=1)
    """Multiplies each image by a factor between 1 minus and 1 plus this strength (0 to 1)."""
    contrast: float = Field(0.0, ge=0, lt=1)
    """Multiplies the distance of each image's pixels from their mean by a factor between 1 minus and 1 plus this."""

    @property
    def makes_grey(self) -> dict[str, float]:
        """Returns those of the settings that turn black and white pixels into grey ones, where they are on."""
        strengths = {"crop": self.crop, "brightness": self.brightness, "contrast": self.contrast}
        return {name: strength for name, strength in strengths.items() if strength}

    def apply(self, x: Tensor) -> Tensor:
        """Returns varied images (B, C, H, W) in [0, 1]; the images themselves where all is off."""
        if not (self.flip or self.shift or self.crop or self.brightness or self.contrast):
            return x
        u = uniform_like(x.flatten(1)[:, :DRAWN])  # (B, 8)
        if self.flip or self.shift or self.crop:
            x = self._moved(x, u[:, :6])
        if self.contrast:
            mean = x.mean((1, 2, 3), keepdim=True)  # (B, 1, 1, 1)
            x = mean + (x - mean) * _factor(self.contrast, u[:, 6])
        if self.brightness:
            x = x * _factor(self.brightness, u[:, 7])
        return x.clamp(0, 1)

    def _moved(self, x: Tensor, u: Tensor) -> Tensor:
        """Returns images that are flipped, shifted and cropped by one look-up of each pixel; u is (B, 6)."""
        height, width = x.shape[2:]
        kept = 1 - self.crop * u[:, :1]  # (B, 1), of both sides
        rows, columns = self._places(height, kept, u[:, 1:3]), self._places(width, kept, u[:, 3:5])  # (B, n) each
        if self.flip:
            columns = torch.where(u[:, 5:] < 0.5, -columns, columns)
        grid = torch.stack(torch.broadcast_tensors(columns[:, None, :], rows[:, :, None]), -1)  # (B, H, W, 2)
        # Nothing is mixed where all moves are by whole pixels: black and white stay so.
        mode = "bilinear" if self.crop else "nearest"
        return F.grid_sample(x, grid, mode, padding_mode="border", align_corners=True)

    def _places(self, n: int, kept: Tensor, u: Tensor) -> Tensor:
        """Returns where each pixel along an axis is looked up (B, n), from -1 at the first pixel to 1 at the last."""
        first = (1 - kept) * (n - 1) * u[:, :1]
        shift = self.shift or 0
        moved: Tensor = (u[:, 1:] * (2 * shift + 1)).floor() - shift
        pixels = first + moved + kept * torch.arange(n, dtype=u.dtype, device=u.device)
        return pixels * (2 / (n - 1)) - 1


def _factor(strength: float, u: Tensor) -> Tensor:
    """Returns factors (B, 1, 1, 1) between 1 minus and 1 plus a strength, of numbers (B,) in [0, 1)."""
    return (1 + strength * (2 * u - 1))[:, None, None, None]
