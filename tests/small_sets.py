"""Makes eight small sets of images: grey and colour, white on black and black on white, flat, noisy."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

COUNT = 300


def blobs(channels: int, side: int) -> Tensor:
    """Returns smooth random images, (N, C, H, W), as photos are."""
    return torch.sigmoid(F.interpolate(3 * torch.randn(COUNT, channels, 4, 4), size=side, mode="bilinear"))


def strokes(channels: int, side: int) -> Tensor:
    """Returns a bright bar and a bright beam at random places on black."""
    x = torch.zeros(COUNT, channels, side, side)
    for image, (row, column) in zip(x, torch.randint(1, side - 2, (COUNT, 2)).tolist(), strict=True):
        image[:, row : row + 2, 2:-2] = image[:, 2:-2, column : column + 2] = 1
    return x


def flat(channels: int, side: int) -> Tensor:
    """Returns images of one colour each."""
    return torch.rand(COUNT, channels, 1, 1).expand(-1, -1, side, side)


SETS: dict[str, Callable[[int], Tensor]] = {  # the side of an image -> images
    "grey": lambda side: blobs(1, side),
    "colour": lambda side: blobs(3, side),
    "white on black": lambda side: strokes(1, side),
    "black on white": lambda side: 1 - strokes(1, side),
    "colour on white": lambda side: 1 - strokes(3, side) * torch.rand(COUNT, 3, 1, 1),
    "flat": lambda side: flat(1, side),
    "flat colour": lambda side: flat(3, side),
    "noisy": lambda side: (blobs(1, side) + 0.1 * torch.randn(COUNT, 1, side, side)).clamp(0, 1),
}
LEARNABLE = ("white on black", "black on white", "colour on white")  # much more is in them than a linear code holds
