"""Trains what was the judge of the project before: a small network for each data set, and principal components.

With labels it is a convolutional classifier, whose features are the inputs of its last layer, each with mean 0 and
variance 1 over the training images. Without labels it is the whitened principal components of the training images.

N images, F features, (C, H, W) an image with pixels in [0, 1].
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aemodels.data.batches import Batches
from aemodels.data.prepared import PreparedData
from aemodels.nn.schedules import learning_rate_factor
from aemodels.runtime.randomness import derived_seed, seeded

CPU = torch.device("cpu")
MANY_IMAGES = 10_000  # training images from which there are more features
FEW_FEATURES, MORE_FEATURES = 32, 64
IMAGES_PER_FEATURE = 16  # a covariance of F features needs many more images than F
AT_ONCE = 200  # images in a network at once
STANDARDIZED = 2_000  # images of which mean and spread are taken
TRAINING_BATCH = 64
IMAGES_SEEN, MOST_EPOCHS = 120_000, 8  # in all epochs of training together
LEARNING_RATE = 3e-3
SMALLEST_SIDE = 8  # pixels of the last feature map, at most


def own_features(data: PreparedData) -> Callable[[Tensor], Tensor]:
    """Returns the function from images (N, C, H, W) to features (N, F) of a data set, in one thread."""
    network = (_classifier(data) if data.num_classes > 1 else _components(data)).eval().requires_grad_(False)
    return lambda images: torch.cat([network(part) for part in images.split(AT_ONCE)])


def _feature_count(data: PreparedData) -> int:
    images = data.sizes["train"]
    most = FEW_FEATURES if images < MANY_IMAGES else MORE_FEATURES
    return min(most, max(2, images // IMAGES_PER_FEATURE), math.prod(data.image_shape))


class Standardize(nn.Module):
    """Brings pixels to mean 0 and standard deviation 1 in each channel, over some images."""

    def __init__(self, images: Tensor) -> None:
        super().__init__()
        self.mean = images.mean((0, 2, 3))[:, None, None]
        self.std = images.std((0, 2, 3))[:, None, None].clamp(min=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std


def _layers(image_shape: tuple[int, int, int], features: int) -> nn.Sequential:
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


def _classifier(data: PreparedData) -> nn.Module:
    count, batches = _feature_count(data), Batches(data, "train", CPU)
    with seeded(derived_seed(0, "features")):
        network = nn.Sequential(Standardize(next(batches.in_order(STANDARDIZED)).x), _layers(data.image_shape, count))
        model = nn.Sequential(network, nn.Linear(count, data.num_classes)).to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE, fused=True)
    epochs = max(1, min(MOST_EPOCHS, round(IMAGES_SEEN / len(batches))))
    steps = epochs * math.ceil(len(batches) / TRAINING_BATCH)
    orders = (batches.shuffled(TRAINING_BATCH, derived_seed(0, "features", epoch)) for epoch in range(epochs))
    for step, batch in enumerate(itertools.chain.from_iterable(orders)):
        if len(batch.x) == 1 or batch.y is None:
            continue  # a batch of one image has no variance to normalise by
        optimizer.param_groups[0]["lr"] = LEARNING_RATE * learning_rate_factor(step, steps, steps // 10, "cosine")
        optimizer.zero_grad()
        F.cross_entropy(model(batch.x), batch.y).backward()
        optimizer.step()
    return network


def _components(data: PreparedData) -> nn.Module:
    """Returns the whitened principal components, as a linear layer."""
    x = next(Batches(data, "train", CPU).in_order(data.sizes["train"])).x.flatten(1)
    count = min(_feature_count(data), len(x))
    with seeded(derived_seed(0, "features")):
        _, singular, axes = torch.pca_lowrank(x, q=count, niter=4)  # (F,), (C * H * W, F)
    layer = nn.Linear(x.shape[1], count)
    std = (singular / math.sqrt(max(1, len(x) - 1))).clamp(min=1e-3)
    with torch.no_grad():
        layer.weight.copy_((axes / std).T)
        layer.bias.copy_(-(layer.weight @ x.mean(0)))
    return nn.Sequential(nn.Flatten(), layer)
