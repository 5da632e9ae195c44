"""Writes the images of each split while they are decoded, with their labels and factors.

N images of a split, each (C, H, W), F known factors.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from aemodels.data.decoding import Block
from aemodels.data.source import Images, Rows
from aemodels.data.stored_arrays import ArrayRecord, ArrayWriter, stored_array

SPLITS = ("train", "val", "test")
PIECE = 16 * 2**20  # bytes of images in memory while they are written again


class Written(NamedTuple):
    """Holds what was written of each split."""

    arrays: dict[str, ArrayRecord]
    image_shape: tuple[int, int, int]
    classes: tuple[str, ...]
    images_by_class: dict[str, dict[str, int]]
    sizes: dict[str, int]
    unknown: Counter[str]  # class without training images -> how many val and test images were left out
    copies: int  # images that are copies of others
    grey: int  # images that are grey, where they are read as colour
    brightest: int  # the highest value of all pixels


class SplitArrays:
    """Writes blocks of images to the arrays of their splits."""

    def __init__(self, folder: Path, images: Images) -> None:
        self.folder, self.images = folder, images
        self.rows: dict[str, list[int]] = {split: [] for split in SPLITS}
        self.keys = bytearray()
        self.grey = self.brightest = 0
        shape = (images.count, *images.shape)
        self.stack = ExitStack()
        self.writers = {
            split: self.stack.enter_context(ArrayWriter(self._images(split), np.dtype(np.uint8), shape))
            for split in SPLITS
        }

    def close(self) -> None:
        self.stack.close()

    def _images(self, split: str) -> Path:
        return self.folder / f"{split}_images.npy"

    def append(self, block: Block, splits: Sequence[str]) -> None:
        """Writes a block's images, each to its split; one without a split is left out."""
        for split, writer in self.writers.items():
            inside = [i for i, name in enumerate(splits) if name == split]
            if inside:
                writer.append(block.pixels if len(inside) == len(block.rows) else block.pixels[inside])
                self.rows[split] += [block.rows[i] for i in inside]
                self.brightest = max(self.brightest, int(block.pixels[inside].max()))
                self.grey += int(block.grey[inside].sum())
                self.keys += b"".join(block.keys[i] for i in inside if block.keys)

    def finish(self) -> Written:
        """Writes labels and factors; leaves out images of classes that have no training images.

        Images of which all are grey are kept as grey ones where the source wants that.
        """
        images = self.images
        rows = {split: np.array(self.rows[split], np.int64) for split in SPLITS}
        total = sum(map(len, rows.values()))
        channels = 1 if images.grey_if_all and self.grey == total else images.shape[0]
        classes, numbers = _trained_on(images, rows["train"])
        arrays: dict[str, ArrayRecord] = {}
        unknown: Counter[str] = Counter()
        counts: dict[str, dict[str, int]] = {}
        for split in SPLITS:
            record = self.writers[split].finish()
            known = np.arange(len(rows[split]))
            if images.labels is not None:
                labels = images.labels[rows[split]]
                known = np.flatnonzero(numbers[labels] >= 0)
                unknown.update(images.classes[label] for label in labels[numbers[labels] < 0])
            if len(known) < len(rows[split]) or channels < images.shape[0]:
                record = _rewritten(self._images(split), record, known, channels)
            arrays[f"{split}_images.npy"] = record
            rows[split] = rows[split][known]
            if images.labels is not None and classes:
                labels = numbers[images.labels[rows[split]]]
                arrays[f"{split}_labels.npy"] = self._write(f"{split}_labels.npy", labels)
                counts[split] = dict(zip(classes, np.bincount(labels, minlength=len(classes)).tolist(), strict=True))
            if images.factors is not None:
                arrays[f"{split}_factors.npy"] = self._write(f"{split}_factors.npy", images.factors[rows[split]])
        sizes = {split: len(rows[split]) for split in SPLITS}
        shape = (channels, *images.shape[1:])
        return Written(arrays, shape, classes, counts, sizes, unknown, self._copies(), self.grey, self.brightest)

    def _copies(self) -> int:
        """Counts the images whose content an earlier one has too."""
        if not self.keys:
            return 0
        count = sum(map(len, self.rows.values()))
        keys = np.frombuffer(self.keys, dtype=f"V{len(self.keys) // count}")
        return count - len(np.unique(keys))

    def _write(self, name: str, array: NDArray[Any]) -> ArrayRecord:
        with ArrayWriter(self.folder / name, array.dtype, array.shape) as writer:
            writer.append(array)
            return writer.finish()


def _trained_on(images: Images, train: Rows) -> tuple[tuple[str, ...], Rows]:
    """Returns the classes that have training images, and the new number of each class, -1 for the others.

    A single class would tell nothing, so there are no labels then. Packaged sources keep all classes.
    """
    everything = np.arange(len(images.classes))
    if images.labels is None or images.content is None:
        return images.classes, everything
    present = np.bincount(images.labels[train], minlength=len(everything)) > 0
    classes = tuple(name for name, there in zip(images.classes, present, strict=True) if there)
    return classes if len(classes) > 1 else (), np.where(present, np.cumsum(present) - 1, -1)


def _rewritten(file: Path, record: ArrayRecord, rows: Rows, channels: int) -> ArrayRecord:
    """Writes images (N, C, H, W) again: these rows alone, and so many of their channels."""
    images = stored_array(file, record).mapped()
    partial = file.with_suffix(".partial")
    with ArrayWriter(partial, images.dtype, (len(rows), channels, *images.shape[2:])) as writer:
        for some in _pieces(rows, max(1, PIECE // math.prod(images.shape[1:]))):
            writer.append(images[some, :channels])
        result = writer.finish()
    partial.replace(file)
    return result


def _pieces(rows: Rows, most: int) -> Iterator[Rows]:
    for start in range(0, len(rows), most):
        yield rows[start : start + most]
