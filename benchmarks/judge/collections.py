"""Provides the collections of images on which yardsticks are judged, and their three disjoint parts.

The reference is what sets are compared with, the others are degraded, and models and feature networks see what is left
for training. Where little is left, training sees the others too.

N images of a part, (C, H, W) an image.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aemodels.data import PreparedData, prepare
from aemodels.data.arrays import ArraysConfig
from aemodels.data.digits import DigitsConfig
from aemodels.data.folder import FolderConfig
from aemodels.data.mnist import MnistConfig
from aemodels.data.source import SourceConfig
from aemodels.data.splits import SPLITS
from aemodels.data.sprites import SpritesConfig
from aemodels.runtime.environment import data_root
from aemodels.runtime.progress import finish

FEW, MANY = 300, 1_000  # images a side
MOST = 10_000  # images of a collection that are used
ENOUGH = 500  # images that training has to itself; with fewer it also sees those that are degraded


class Parts(NamedTuple):
    """Holds the images (N, C, H, W), uint8, of each part, and the labels (N,) of those that have some."""

    reference: NDArray[np.uint8]
    others: NDArray[np.uint8]
    training: NDArray[np.uint8]
    labels: NDArray[np.int64]  # of the others
    training_labels: NDArray[np.int64]
    reference_labels: NDArray[np.int64]


class Collection(NamedTuple):
    """A collection is images that are at hand, or are drawn by the project itself."""

    name: str
    folders: tuple[str, ...]  # below the folder of data; none for those that the project has
    sides: tuple[int, ...]  # numbers of images a side
    image_size: int | None = None

    @property
    def there(self) -> bool:
        """Tells whether its images are at hand."""
        return all((data_root() / folder).exists() for folder in self.folders)

    def source(self) -> SourceConfig:
        """Returns where its images are."""
        if self.name == "digits":
            return DigitsConfig()
        if self.name == "sprites":
            return SpritesConfig(count=4_000)
        if self.name == "mnist":
            return MnistConfig()
        return FolderConfig(path=tuple(data_root() / folder for folder in self.folders), image_size=self.image_size)

    def parts(self) -> Parts:
        """Returns its images, in an order that a seed draws."""
        data = finish(prepare(self.source()))
        splits = [data.split(name) for name in SPLITS]
        images = np.concatenate([split.images for split in splits])
        labels = np.concatenate([split.labels for split in splits if split.labels is not None])
        order = np.random.default_rng(0).permutation(len(images))[:MOST]
        side = max(self.sides)
        reference, others, rest = order[:side], order[side : 2 * side], order[2 * side :]
        training = rest if len(rest) >= ENOUGH else np.concatenate([others, rest])
        return Parts(
            images[reference], images[others], images[training], labels[others], labels[training], labels[reference]
        )

    def prepared(self, parts: Parts, folder: Path, labelled: bool) -> PreparedData:
        """Returns the training images as the project prepares them, with the reference as test images."""
        file = folder / f"{self.name}-{'with' if labelled else 'without'}-labels.npz"
        if not file.exists():
            arrays: dict[str, Any] = {"images": parts.training, "test_images": parts.reference}
            if labelled:
                arrays |= {"labels": parts.training_labels, "test_labels": parts.reference_labels}
            np.savez(file, **arrays)
        return finish(prepare(ArraysConfig(path=(file,))))


COLLECTIONS = (
    Collection("digits", (), (FEW,)),
    Collection("mnist", ("MNIST",), (FEW, MANY)),
    Collection("sign_digits", ("sign_digits",), (FEW, MANY), 64),
    Collection("rgb_folder", ("rgb_folder",), (FEW,)),
    Collection("tiles", ("tiles/train", "tiles/test"), (FEW,), 64),
    Collection("sprites", (), (FEW, MANY)),
)


def as_pixels(images: NDArray[np.uint8]) -> Tensor:
    """Returns images (N, C, H, W) with pixels in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(images)).float() / 255
