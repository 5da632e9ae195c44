"""Defines the views of images in which sets are compared; each maps images to features.

N images, (C, H, W) an image with pixels in [0, 1], F features.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aemodels.nn.efficientnet import HEAD, STAGES, EfficientNetLite0, efficientnet, pooled
from aemodels.runtime.randomness import seeded

View = Callable[[Tensor], Tensor]

SIDES = (32, 48, 64, 128)  # pixels, to which images are brought for the photo network
CHANNELS = (*(stage.outputs for stage in STAGES), HEAD)  # of its maps; the last is the head
WIDTHS = (32, 64, 128)  # of the random network
THUMBNAIL, PLACES_A_SIDE = 8, 4  # pixels a side of the small image, and places a side of the energies, of a pyramid
FILTERS, FILTER_SIDE, PLACES, SCALES = 64, 7, 32, 3  # of the filter responses


@lru_cache(maxsize=1)
def _network() -> EfficientNetLite0:
    return efficientnet()


def photo(side: int) -> View:
    """Returns the view of the photo network: the means, then the spreads, of each map's channels, map after map."""
    return lambda images: pooled(_network(), images, side)


def map_columns(number: int, kind: str) -> slice:
    """Returns the columns of the photo view that are the means or the spreads of a map, which counts from 1."""
    start = 2 * sum(CHANNELS[: number - 1]) + CHANNELS[number - 1] * (kind == "spread")
    return slice(start, start + CHANNELS[number - 1])


@lru_cache(maxsize=2)
def _random_network(channels: int) -> nn.Sequential:
    with seeded(0):
        layers: list[nn.Module] = []
        for inputs, outputs in zip((channels, *WIDTHS), WIDTHS, strict=False):
            layer = nn.Conv2d(inputs, outputs, 3, padding=1)
            nn.init.orthogonal_(layer.weight)
            layers += [nn.Sequential(layer, nn.ReLU(), nn.AvgPool2d(2, ceil_mode=True))]
        return nn.Sequential(*layers).requires_grad_(False)


@torch.no_grad()
def random(images: Tensor) -> Tensor:
    """Returns the means and spreads of the maps of a small network that has learned nothing."""
    found, x = [], 2 * images - 1
    for layer in _random_network(images.shape[1]):
        x = layer(x)
        found += [x.mean((2, 3)), x.std((2, 3), correction=0)]
    return torch.cat(found, 1)


def pyramid(images: Tensor) -> Tensor:
    """Returns a small image, and how much detail of each scale there is at each of 16 places."""
    found = [F.adaptive_avg_pool2d(images, THUMBNAIL).flatten(1)]
    for detail in _details(images):
        places = F.adaptive_avg_pool2d(detail.square(), PLACES_A_SIDE).sqrt()
        found.append(places.flatten(1))
    return torch.cat(found, 1)


def _details(images: Tensor) -> list[Tensor]:
    """Returns what each halving of the images loses: the levels of a Laplacian pyramid."""
    found = []
    for _ in range(SCALES):
        half = F.avg_pool2d(images, 2, ceil_mode=True)
        found.append(images - F.interpolate(half, images.shape[-2:], mode="bilinear", align_corners=False))
        images = half
    return found


def responses(images: Tensor) -> Tensor:
    """Returns what fixed random filters make of random places of each scale, (N, filters, places)."""
    channels = images.shape[1]
    with seeded(0):
        filters = torch.randn(FILTERS, channels, FILTER_SIDE, FILTER_SIDE)
        filters = filters / filters.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        found = []
        for detail in _details(images):
            seen = F.conv2d(detail, filters, padding=FILTER_SIDE // 2).flatten(2)  # (N, filters, H * W)
            at = torch.randint(seen.shape[2], (len(images), 1, PLACES))
            found.append(seen.gather(2, at.expand(-1, FILTERS, -1)))
    return torch.cat(found, 1)
