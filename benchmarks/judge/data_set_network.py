"""Trains the small network of a data set, in whose features images may be compared: one candidate of many.

With labels it is a convolutional classifier; its features are the inputs of its last layer, each with mean 0 and
variance 1 over the training images. Without labels it is the whitened principal components of the training images.

N images, F features, (C, H, W) an image with pixels in [0, 1].
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aemodels.data.batches import Batches
from aemodels.data.prepared import PreparedData
from aemodels.nn.batch import AT_ONCE
from aemodels.nn.schedules import learning_rate_factor
from aemodels.runtime.randomness import derived_seed, seeded

T = TypeVar("T", Tensor, nn.Sequential)

CPU = torch.device("cpu")
MANY_IMAGES = 10_000  # training images from which there are more features
FEW_FEATURES, MORE_FEATURES = 32, 64
IMAGES_PER_FEATURE = 16  # a covariance of F features needs many more images than F

EMBEDDED_NUMBERS = 2**20  # pixels embedded at once, at most: the first layer makes 16 of each
STANDARD_IMAGES = 2_000  # of which the mean and the spread of pixels are taken
TRAINING_BATCH = 64
IMAGES_SEEN = 120_000  # images seen in all epochs of training together; 2 of MNIST reach 99 % in 20 s on one core
MOST_EPOCHS = 8
LEARNING_RATE = 3e-3
SMALLEST_SIDE = 8  # pixels of the last feature map, at most


def data_set_network(data: PreparedData) -> Callable[[Tensor], Tensor]:
    """Returns the function from images (N, C, H, W) to the features (N, F) of a data set's network."""
    network = _classifier_of(data) if data.num_classes > 1 else _principal_components(data)
    network.eval().requires_grad_(False)

    @torch.no_grad()
    def embed(images: Tensor) -> Tensor:
        size = max(1, min(AT_ONCE, EMBEDDED_NUMBERS // images[0].numel()))
        return torch.cat([network(_fast(part)) for part in images.split(size)])

    return embed


def _feature_count(data: PreparedData) -> int:
    """Returns how many features suit the number of images: 32 on digits, 64 on MNIST."""
    images = data.sizes["train"]
    most = FEW_FEATURES if images < MANY_IMAGES else MORE_FEATURES
    return min(most, max(2, images // IMAGES_PER_FEATURE), math.prod(data.image_shape))


class _Standardize(nn.Module):
    """Brings pixels to mean 0 and standard deviation 1 in each channel, over images (N, C, H, W)."""

    mean: Tensor
    std: Tensor

    def __init__(self, images: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", images.mean((0, 2, 3))[:, None, None])
        self.register_buffer("std", images.std((0, 2, 3))[:, None, None].clamp(min=1e-3))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std


def _network(image_shape: tuple[int, int, int], features: int) -> nn.Sequential:
    """Builds convolutions with max-pooling, which see blur and noise; strided ones mostly overlook them (measured)."""
    channels, height, width = image_shape
    count = max(2, math.ceil(math.log2(max(height, width) / SMALLEST_SIDE)))
    widths = [channels, *(min(16 * 2**i, 64) for i in range(count))]
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(widths):
        layers += [nn.Conv2d(inputs, outputs, kernel_size=3, padding=1, bias=False)]
        layers += [nn.MaxPool2d(2, ceil_mode=True), nn.BatchNorm2d(outputs), nn.ReLU()]
        height, width = (height + 1) // 2, (width + 1) // 2
    dense = nn.Linear(widths[-1] * height * width, features, bias=False)
    return nn.Sequential(*layers, nn.Flatten(), dense, nn.BatchNorm1d(features, affine=False))


def _classifier_of(data: PreparedData) -> nn.Sequential:
    """Trains the classifier, and returns it without its last layer."""
    count, batches = _feature_count(data), Batches(data, "train", CPU)
    with seeded(derived_seed(0, "features")):
        layers, head = _network(data.image_shape, count), nn.Linear(count, data.num_classes)
    network = _fast(nn.Sequential(_Standardize(next(batches.in_order(STANDARD_IMAGES)).x), layers))
    model = nn.Sequential(network, head)
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE, fused=True)
    epochs = max(1, min(MOST_EPOCHS, round(IMAGES_SEEN / len(batches))))
    steps = epochs * math.ceil(len(batches) / TRAINING_BATCH)
    orders = (batches.shuffled(TRAINING_BATCH, derived_seed(0, "features", epoch)) for epoch in range(epochs))
    for step, batch in enumerate(itertools.chain.from_iterable(orders)):
        if len(batch.x) == 1 or batch.y is None:
            continue  # a batch of one image has no variance to normalise by
        optimizer.param_groups[0]["lr"] = LEARNING_RATE * learning_rate_factor(step, steps, steps // 10, "cosine")
        optimizer.zero_grad()
        F.cross_entropy(model(_fast(batch.x)), batch.y).backward()
        optimizer.step()
    return network


def _fast(x: T) -> T:
    """Puts channels last in memory, with which convolutions on a CPU are three times faster (measured on MNIST)."""
    return x.to(memory_format=torch.channels_last)


def _principal_components(data: PreparedData) -> nn.Sequential:
    """Fits the whitened principal components, as a linear layer."""
    batches = Batches(data, "train", CPU)
    x = torch.cat([batch.x.flatten(1) for batch in batches.in_order(batches.at_once)])
    count = min(_feature_count(data), len(x))
    with seeded(derived_seed(0, "features")):
        _, singular, axes = torch.pca_lowrank(x, q=count, niter=4)  # (F,), (C * H * W, F)
    layer = nn.Linear(x.shape[1], count)
    std = (singular / math.sqrt(max(1, len(x) - 1))).clamp(min=1e-3)
    with torch.no_grad():
        layer.weight.copy_((axes / std).T)
        layer.bias.copy_(-(layer.weight.to(x) @ x.mean(0)))
    return nn.Sequential(nn.Flatten(), layer)
