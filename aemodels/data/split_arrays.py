"""Writes the images of each split while they are decoded, with their labels and factors.

n images that were read, each (C, H, W), F known factors.
"""

from __future__ import annotations

import math
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from aemodels.data.decoding import Block
from aemodels.data.source import Images, Pixels, Rows
from aemodels.data.splits import LEFT_OUT, SPLITS, TRAIN, Numbers
from aemodels.data.stored_arrays import ArrayRecord, ArrayWriter, write_array
from aemodels.runtime.files import at_path

PIECE = 16 * 2**20  # bytes of images in memory while they are written again


class Written(NamedTuple):
    """Holds what was written of each split."""

    arrays: dict[str, ArrayRecord]
    image_shape: tuple[int, int, int]
    classes: tuple[str, ...]  # none where a single one has training images
    trained: tuple[str, ...]  # classes that have training images
    images_by_class: dict[str, dict[str, int]]
    sizes: dict[str, int]
    unknown: Counter[str]  # class without training images -> how many val and test images were left out
    grey: int  # images that are grey, where they are read as colour
    brightest: int  # the highest value of all pixels


class SplitArrays:
    """Writes blocks of images one after the other, and then each split to its arrays.

    So images are decoded once, though a split follows from all of their contents. Reading them again from front to back
    costs little beside.
    """

    def __init__(self, folder: Path, images: Images) -> None:
        self.folder, self.images = folder, images
        self.blocks: list[Block] = []  # without their pixels
        self.brightest: list[Pixels] = []  # (n,), of each image
        self.path = folder / "all_images"
        self.file = self.path.open("w+b")  # (n, C, H, W), without a header

    def close(self) -> None:
        with at_path(self.path):
            self.file.close()

    @property
    def rows(self) -> Rows:
        """Returns the rows of the images that were read, (n,)."""
        return np.array([row for block in self.blocks for row in block.rows], np.int64)

    @property
    def keys(self) -> NDArray[np.uint64]:
        """Returns the hashes of their pixels, (n,); none where the source does not split by content."""
        return np.concatenate([np.empty(0, np.uint64), *(block.keys for block in self.blocks)])

    def append(self, block: Block) -> None:
        with at_path(self.path):
            self.file.write(np.ascontiguousarray(block.pixels).data)
        self.brightest.append(block.pixels.max((1, 2, 3), initial=0))
        self.blocks.append(block._replace(pixels=block.pixels[:0].copy()))

    def finish(self, splits: Numbers) -> Written:
        """Writes the images, labels and factors of each split.

        It leaves out images of classes that have no training images. Images of which all are grey are kept as grey ones
        where the source wants that.

        Args:
            splits: (n,), numbers of SPLITS, or another number for an image that is left out.
        """
        images, rows = self.images, self.rows
        trained, numbers = _trained_on(images, rows[splits == TRAIN])
        classes = trained if len(trained) > 1 or not images.by_content else ()  # a single class would tell nothing
        used, unknown = splits >= 0, Counter[str]()
        if images.labels is not None:
            lost = used & (numbers[images.labels[rows]] < 0)
            unknown.update(images.classes[label] for label in images.labels[rows[lost]])
            used &= ~lost
        grey = np.concatenate([np.empty(0, np.bool_), *(block.grey for block in self.blocks)])[used]
        shape = (1 if images.grey_if_all and grey.all() else images.shape[0], *images.shape[1:])
        splits = np.where(used, splits, LEFT_OUT).astype(np.int8)
        arrays = self._write_images(splits, shape)
        counts: dict[str, dict[str, int]] = {}
        sizes: dict[str, int] = {}
        for number, split in enumerate(SPLITS):
            inside = np.flatnonzero(splits == number)
            sizes[split] = len(inside)
            if images.labels is not None and classes:
                labels = numbers[images.labels[rows[inside]]]
                arrays[f"{split}_labels.npy"] = write_array(self.folder / f"{split}_labels.npy", labels)
                counts[split] = dict(zip(classes, np.bincount(labels, minlength=len(classes)).tolist(), strict=True))
            if images.factors is not None:
                factors = images.factors[rows[inside]]
                arrays[f"{split}_factors.npy"] = write_array(self.folder / f"{split}_factors.npy", factors)
        self.path.unlink()
        brightest = int(np.concatenate([np.zeros(1, np.uint8), *self.brightest])[1:][used].max(initial=0))
        return Written(arrays, shape, classes, trained, counts, sizes, unknown, int(grey.sum()), brightest)

    def _write_images(self, splits: Numbers, shape: tuple[int, ...]) -> dict[str, ArrayRecord]:
        """Writes each image to its split, with so many channels as the shape has; few are in memory at a time."""
        most = max(1, PIECE // math.prod(self.images.shape))
        names = [f"{split}_images.npy" for split in SPLITS]
        with ExitStack() as stack:
            kind, whole = np.dtype(np.uint8), (len(splits), *shape)
            writers = [stack.enter_context(ArrayWriter(self.folder / name, kind, whole)) for name in names]
            self.file.seek(0)
            for start in range(0, len(splits), most):
                of = splits[start : start + most]
                with at_path(self.path):
                    read = np.fromfile(self.file, np.uint8, len(of) * math.prod(self.images.shape))
                pixels = read.reshape(-1, *self.images.shape)
                for number, writer in enumerate(writers):
                    writer.append(pixels[of == number, : shape[0]])
            return {name: writer.finish() for name, writer in zip(names, writers, strict=True)}


def _trained_on(images: Images, train: Rows) -> tuple[tuple[str, ...], Rows]:
    """Returns the classes that have training images, and the new number of each class, -1 for the others.

    Packaged sources keep all classes.
    """
    everything = np.arange(len(images.classes))
    if images.labels is None or not images.by_content:
        return images.classes, everything
    present = np.bincount(images.labels[train], minlength=len(everything)) > 0
    trained = tuple(name for name, there in zip(images.classes, present, strict=True) if there)
    return trained, np.where(present, np.cumsum(present) - 1, -1)
