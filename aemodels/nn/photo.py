"""Defines the trunk for photos: convolutional residual networks, each beside a linear path from images to codes.

The code has the mean P (x - m) + f(x), the output is m + Q z + g(z), with f and g the networks. A new model begins with
f and g silent and with P, Q and m of the linear code (aemodels/models/start.py). So it begins as good as principal
components, and has only to learn what they miss.

B batch, D numbers of a code, F features of the network alone, (C, H, W) an image, P = C * H * W pixels.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from aemodels.config import Config

SMALLEST = 4  # the networks halve the sides of an image until the shorter one has fewer than twice as many pixels
SEEN = 128  # pixels of the shorter side, about as many of which the networks see and draw of a large image
NARROWEST = 16  # channels, at least
FEWER = 8  # times fewer channels than at the smallest level have the features, which spares large dense layers


class PhotoConfig(Config):
    """Describes a trunk for photos: residual networks on a pyramid of the image, and a linear path beside them.

    The number of halvings follows from the size of the images. All levels cost about the same, as channels double where
    pixels are a quarter.
    """

    name: Literal["photo"] = "photo"
    """Chooses the networks between images and codes."""
    width: int = Field(48, ge=8)
    """Sets the channels at the smallest level, which has 4 to 7 pixels a side; each larger level has half as many.

    No level has fewer than 16, unless this number is smaller."""
    blocks: int = Field(1, ge=1)
    """Sets the number of residual blocks at each level."""

    direct_code: ClassVar[int | None] = None

    def encoder(self, image_shape: tuple[int, int, int], numbers: int = 0) -> PhotoEncoder:
        """Returns an encoder whose last features are `numbers` of a linear code; with 0 it has no linear path."""
        return PhotoEncoder(self, image_shape, numbers)

    def decoder(self, image_shape: tuple[int, int, int], latent_dim: int) -> PhotoDecoder:
        return PhotoDecoder(self, image_shape, latent_dim)

    def shrinking(self, image_shape: tuple[int, int, int]) -> int:
        """Returns how many pixels of a large image's row or column are one to the networks.

        It is 2 from 192 pixels on. What is finer is left to the linear path: at 256 pixels the networks would take four
        times the time and memory.
        """
        return max(1, round(min(image_shape[1:]) / SEEN))

    def sides(self, image_shape: tuple[int, int, int]) -> list[tuple[int, int]]:
        """Returns (H, W) of each level of the networks, from the largest to the smallest."""
        height, width = (side // self.shrinking(image_shape) for side in image_shape[1:])
        halvings = max(1, (min(height, width) // SMALLEST).bit_length() - 1)
        return [(height >> i, width >> i) for i in range(halvings + 1)]

    def channels(self, image_shape: tuple[int, int, int]) -> list[int]:
        """Returns the channels of each level, from the image's to the smallest."""
        count = len(self.sides(image_shape)) - 1
        least = min(self.width, NARROWEST)
        return [image_shape[0], *(max(self.width >> i, least) for i in reversed(range(count)))]


class Residual(nn.Module):
    """Computes x + f(x) with two convolutions, the first of which sees normalised channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(math.gcd(8, channels), channels)
        self.conv1 = nn.Conv2d(channels, channels, kernel_size=3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, kernel_size=3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        h: Tensor = self.conv1(F.silu(self.norm(x)))
        h = self.conv2(F.silu(h))
        return x + h


class Larger(nn.Module):
    """Enlarges images to (H, W), each pixel to a square, and changes their channels.

    Transposed convolutions of stride 2 would draw checkerboards (Odena et al., 2016, Distill).
    """

    def __init__(self, inputs: int, outputs: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.size = size
        self.conv = nn.Conv2d(inputs, outputs, kernel_size=3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        h: Tensor = self.conv(F.interpolate(F.silu(x), size=self.size))
        return h


class LinearFeatures(nn.Module):
    """Maps centred images (B, C, H, W) to D numbers, P (x - m).

    The weight is P times the square root of its columns. Adam then moves P by steps that fit images of any size.
    """

    def __init__(self, pixels: int, numbers: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(numbers, pixels))
        self.scale = pixels**-0.5

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x.flatten(1) * self.scale, self.weight)


class PhotoEncoder(nn.Module):
    """Maps images (B, C, H, W) to features: those of the network, (B, F), and behind them P (x - m), (B, D).

    Example:
        >>> PhotoConfig().encoder((3, 32, 48), numbers=20)(torch.rand(6, 3, 32, 48)).shape
        torch.Size([6, 164])
    """

    mean: Tensor

    def __init__(self, config: PhotoConfig, image_shape: tuple[int, int, int], numbers: int) -> None:
        super().__init__()
        channels, (*_, (height, width)) = config.channels(image_shape), config.sides(image_shape)
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(channels):
            layers += [nn.Conv2d(inputs, outputs, kernel_size=4, stride=2, padding=1)]
            layers += [Residual(outputs) for _ in range(config.blocks)]
        self.shrinking = config.shrinking(image_shape)
        few = max(1, config.width // FEWER)
        self.network = nn.Sequential(*layers, nn.SiLU(), nn.Conv2d(channels[-1], few, kernel_size=1), nn.Flatten())
        self.hidden = few * height * width
        self.linear = LinearFeatures(math.prod(image_shape), numbers) if numbers else None
        self.register_buffer("mean", torch.full(image_shape, 0.5))
        self.features = self.hidden + numbers

    def forward(self, x: Tensor) -> Tensor:
        x = x - self.mean
        h: Tensor = self.network(F.avg_pool2d(x, self.shrinking) if self.shrinking > 1 else x)
        return h if self.linear is None else torch.cat([h, self.linear(x)], dim=-1)


class PhotoDecoder(nn.Module):
    """Maps codes (B, D) to m + Q z + g(z), (B, C, H, W).

    Example:
        >>> PhotoConfig().decoder((3, 32, 48), latent_dim=20)(torch.zeros(6, 20)).shape
        torch.Size([6, 3, 32, 48])
    """

    def __init__(self, config: PhotoConfig, image_shape: tuple[int, int, int], latent_dim: int) -> None:
        super().__init__()
        sides, channels = config.sides(image_shape), config.channels(image_shape)
        smallest = (channels[-1], *sides[-1])
        channels[0] = channels[1]
        layers: list[nn.Module] = [nn.Linear(latent_dim, math.prod(smallest)), nn.Unflatten(-1, smallest)]
        for i in reversed(range(len(sides) - 1)):
            layers += [Residual(channels[i + 1]) for _ in range(config.blocks)]
            layers += [Larger(channels[i + 1], channels[i], sides[i])]
        self.network = nn.Sequential(*layers, nn.SiLU())
        self.last = nn.Conv2d(channels[0], image_shape[0], kernel_size=3, padding=1, bias=False)
        self.linear = nn.Linear(latent_dim, math.prod(image_shape))
        self.image_shape = image_shape

    def forward(self, z: Tensor) -> Tensor:
        whole: Tensor = self.linear(z).unflatten(-1, self.image_shape)
        detail: Tensor = self.last(self.network(z))
        if detail.shape[-2:] != self.image_shape[1:]:
            detail = F.interpolate(detail, self.image_shape[1:], mode="bilinear")
        return whole + detail
