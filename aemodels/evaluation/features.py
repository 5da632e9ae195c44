"""Makes the fixed feature network of a data set, in whose features images are compared (Frechet distance and others).

With labels it is a small convolutional classifier, trained once; its features are the inputs of its last layer, each
with mean 0 and variance 1 over the training images. Without labels it is the whitened principal components of the
training images. So a Frechet distance means the same on every data set: images that are all alike have one of about
the number of features.

N images, F features, (C, H, W) an image with pixels in [0, 1].
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.nn import functional as F

from aemodels.data.batches import Batches
from aemodels.data.prepared import PreparedData
from aemodels.nn.batch import AT_ONCE
from aemodels.nn.schedules import learning_rate_factor
from aemodels.runtime.files import write_whole
from aemodels.runtime.locks import wait_for
from aemodels.runtime.progress import Progress, Steps
from aemodels.runtime.randomness import derived_seed, seeded

T = TypeVar("T", Tensor, nn.ModuleDict, nn.Sequential)

RECIPE = 1  # goes up with any change of the networks here or of their training; files of older recipes are not read
MANY_IMAGES = 10_000  # training images from which there are more features
FEW_FEATURES, MORE_FEATURES = 32, 64
IMAGES_PER_FEATURE = 16  # a covariance of F features needs many more images than F

EMBEDDED_NUMBERS = 2**20  # pixels embedded at once, at most: the first layer makes 16 of each
STANDARD_NUMBERS = 2**25  # pixels, at most, of which mean and spread are taken
TRAINING_BATCH = 64
IMAGES_SEEN = 120_000  # images seen in all epochs of training together; 2 of MNIST reach 99 % in 20 s on one core
MOST_EPOCHS = 8
LEARNING_RATE = 3e-3
SMALLEST_SIDE = 8  # pixels of the last feature map, at most
PCA_NUMBERS = 2**26  # at most so many pixels (256 MiB) enter the principal components


class Features:
    """Maps images to features, by a fixed network."""

    def __init__(self, name: str, dimensions: int, nets: nn.ModuleDict, accuracy: float | None) -> None:
        self.name = name  # classifier | pca
        self.dimensions = dimensions  # F
        self.nets = _fast(nets).eval().requires_grad_(False)  # network: (N, C, H, W) -> (N, F); head: to logits
        self.accuracy = accuracy  # on the test images
        self.content = save({name: tensor.cpu().contiguous() for name, tensor in nets.state_dict().items()})
        self.hash = _hash(self.content)
        self._real: dict[tuple[str, str, int], Tensor] = {}

    @torch.no_grad()
    def embed(self, images: Tensor) -> Tensor:
        """Maps images (N, C, H, W) to features (N, F), on the images' device."""
        network = self.nets.to(images.device)["network"]
        size = max(1, min(AT_ONCE, EMBEDDED_NUMBERS // images[0].numel()))
        return torch.cat([network(_fast(part)) for part in images.split(size)])

    @torch.no_grad()
    def classify(self, embedded: Tensor) -> Tensor | None:
        """Maps features (N, F) to the classes' probabilities (N, classes); None for data without labels."""
        return self.nets.to(embedded.device)["head"](embedded).softmax(-1) if "head" in self.nets else None

    def probabilities(self, images: Tensor) -> Tensor | None:
        """Maps images (N, C, H, W) to the classes' probabilities (N, classes); None for data without labels."""
        return self.classify(self.embed(images))

    def of_split(self, data: PreparedData, split: str, count: int, device: torch.device) -> Tensor:
        """Returns the features (count, F) of a split's first images, never binarised, computed once on the device."""
        key = (data.digest, split, count)
        if key not in self._real:
            batches = Batches(_grey(data), split, device, count)
            self._real[key] = torch.cat([self.embed(batch.x).cpu() for batch in batches.in_order(batches.at_once)])
        return self._real[key]


def feature_network(data: PreparedData, device: torch.device) -> Steps[Features]:
    """Returns the data set's features: trained once on the device, then read from the prepared folder.

    Later runs on any device read the same file. A damaged file is made again.
    """
    work = "training the feature network"
    waiting = Progress(work, 0, 1, "waiting for another process that trains the same")
    lock = yield from wait_for(data.path / "features.lock", waiting)
    try:
        features = _load(data)
        if features is None:
            trained = _train_classifier(data, device, work) if data.num_classes > 1 else _fit_pca(data, device)
            features = yield from trained
            _save(data.path, features)
    finally:
        lock.release()
    return features


def feature_count(data: PreparedData) -> int:
    """Returns how many features suit the number of images: 32 on digits, 64 on MNIST."""
    images = data.sizes["train"]
    most = FEW_FEATURES if images < MANY_IMAGES else MORE_FEATURES
    return min(most, max(2, images // IMAGES_PER_FEATURE), math.prod(data.image_shape))


# ---------------------------------------------------------------- labelled images


class Standardize(nn.Module):
    """Brings pixels to mean 0 and standard deviation 1 in each channel, over the training images."""

    mean: Tensor
    std: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels, 1, 1))
        self.register_buffer("std", torch.ones(channels, 1, 1))

    def fit(self, images: Tensor) -> None:
        self.mean.copy_(images.mean((0, 2, 3))[:, None, None])
        self.std.copy_(images.std((0, 2, 3))[:, None, None].clamp(min=1e-3))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std


def _classifier(image_shape: tuple[int, int, int], features: int) -> nn.Sequential:
    """Builds convolutions with max-pooling, which see blur and noise; strided ones mostly overlook them (measured)."""
    channels, height, width = image_shape
    count = max(2, math.ceil(math.log2(max(height, width) / SMALLEST_SIDE)))
    widths = [channels, *(min(16 * 2**i, 64) for i in range(count))]
    layers: list[nn.Module] = [Standardize(channels)]
    for inputs, outputs in itertools.pairwise(widths):
        layers += [nn.Conv2d(inputs, outputs, kernel_size=3, padding=1, bias=False)]
        layers += [nn.MaxPool2d(2, ceil_mode=True), nn.BatchNorm2d(outputs), nn.ReLU()]
        height, width = (height + 1) // 2, (width + 1) // 2
    dense = nn.Linear(widths[-1] * height * width, features, bias=False)
    return nn.Sequential(*layers, nn.Flatten(), dense, nn.BatchNorm1d(features, affine=False))


def _new_classifier(data: PreparedData, features: int) -> nn.ModuleDict:
    network = _classifier(data.image_shape, features)
    return nn.ModuleDict({"network": network, "head": nn.Linear(features, data.num_classes)})


def _train_classifier(data: PreparedData, device: torch.device, work: str) -> Steps[Features]:
    count = feature_count(data)
    with seeded(derived_seed(0, "features")):
        nets = _new_classifier(data, count).to(device)
    batches = Batches(_grey(data), "train", device)
    model = _fast(nn.Sequential(nets["network"], nets["head"]))
    _standardize(nets, next(batches.in_order(max(2, min(2_000, STANDARD_NUMBERS // math.prod(data.image_shape))))).x)
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE, fused=True)
    epochs = max(1, min(MOST_EPOCHS, round(IMAGES_SEEN / len(batches))))
    steps = epochs * math.ceil(len(batches) / TRAINING_BATCH)
    orders = (batches.shuffled(TRAINING_BATCH, derived_seed(0, "features", epoch)) for epoch in range(epochs))
    for step, batch in enumerate(itertools.chain.from_iterable(orders)):
        if len(batch.x) == 1 or batch.y is None:
            continue  # a batch of one image has no variance to normalise by
        factor = learning_rate_factor(step, steps, steps // 10, "cosine")
        optimizer.param_groups[0]["lr"] = LEARNING_RATE * factor
        optimizer.zero_grad()
        F.cross_entropy(model(_fast(batch.x)), batch.y).backward()
        optimizer.step()
        if step % 20 == 0:
            yield Progress(work, step, steps)
    features = Features("classifier", count, nets, accuracy=None)
    features.accuracy = _accuracy(features, data, device)
    yield Progress(work, steps, steps, f"accuracy {features.accuracy:.3f}")
    return features


def _fast(x: T) -> T:
    """Puts channels last in memory, with which convolutions on a CPU are three times faster (measured on MNIST)."""
    return x.to(memory_format=torch.channels_last)


def _standardize(nets: nn.Module, images: Tensor) -> None:
    for module in nets.modules():
        if isinstance(module, Standardize):
            module.fit(images)


def _accuracy(features: Features, data: PreparedData, device: torch.device) -> float:
    """Returns the share of test images that are classified rightly."""
    batches = Batches(_grey(data), "test", device)
    right = 0.0
    for batch in batches.in_order(batches.at_once):
        probabilities = features.probabilities(batch.x)
        if probabilities is not None and batch.y is not None:
            right += float((probabilities.argmax(-1) == batch.y).sum())
    return right / len(batches)


# ---------------------------------------------------------------- images without labels


def _fit_pca(data: PreparedData, device: torch.device) -> Steps[Features]:
    """Fits the whitened principal components, as a linear layer."""
    work = "fitting the principal components"
    yield Progress(work, 0, 1)
    batches = Batches(_grey(data), "train", device, max(2, PCA_NUMBERS // math.prod(data.image_shape)))
    x = torch.cat([batch.x.flatten(1) for batch in batches.in_order(batches.at_once)])
    count = min(feature_count(data), len(x))
    with seeded(derived_seed(0, "features")):
        _, singular, axes = torch.pca_lowrank(x, q=count, niter=4)  # (F,), (C * H * W, F)
    layer = nn.Linear(x.shape[1], count)
    std = (singular / math.sqrt(max(1, len(x) - 1))).clamp(min=1e-3)
    with torch.no_grad():
        layer.weight.copy_((axes / std).T)
        layer.bias.copy_(-(layer.weight.to(x) @ x.mean(0)))
    yield Progress(work, 1, 1)
    return Features("pca", count, _new_pca(layer), accuracy=None)


def _new_pca(layer: nn.Linear) -> nn.ModuleDict:
    return nn.ModuleDict({"network": nn.Sequential(nn.Flatten(), layer)})


# ---------------------------------------------------------------- the file


def _load(data: PreparedData) -> Features | None:
    """Returns the saved network, on the CPU; None where there is none, or a damaged one."""
    weights, card = _files(data.path)
    try:
        meta = json.loads(card.read_text())
        name, dimensions, content = meta["name"], meta["dimensions"], weights.read_bytes()
        pixels = math.prod(data.image_shape)
        nets = _new_pca(nn.Linear(pixels, dimensions)) if name == "pca" else _new_classifier(data, dimensions)
        nets.load_state_dict(load(content))
        features = Features(name, dimensions, nets, meta["accuracy"])
        return features if features.hash == meta["hash"] == _hash(content) else None
    except (FileNotFoundError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError):
        return None


def _save(folder: Path, features: Features) -> None:
    """Writes each file whole or not at all; the card holds the hash of the weights, so they cannot be mixed up."""
    weights, card = _files(folder)
    fields = ("name", "dimensions", "accuracy", "hash")
    meta = json.dumps({field: getattr(features, field) for field in fields}, indent=1)
    for path, content in ((weights, features.content), (card, meta.encode())):
        write_whole(path, partial(Path.write_bytes, data=content))


def _files(folder: Path) -> tuple[Path, Path]:
    """Returns the paths of the weights and of their card."""
    return folder / f"features_{RECIPE}.safetensors", folder / f"features_{RECIPE}.json"


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _grey(data: PreparedData) -> PreparedData:
    """Returns the same data with the pixels as they are, whatever the models see."""
    return data.model_copy(update={"binarize": "none"})
