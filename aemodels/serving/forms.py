"""Brings images and classes from the form in which people hold them into that of networks, and back.

N images, (C, H, W) an image as networks take it: C channels (1 grey, 3 colour), H x W pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aemodels.config import UserError
from aemodels.nn.trunks import ImageShape
from aemodels.runtime.arrays import as_images, require_range


def taken(images: Any, image_shape: ImageShape) -> NDArray[Any]:
    """Returns images with their channels in front, as the network takes them; whether they fit is checked later.

    Raises:
        UserError: they are no array, one image alone, or integers that are all 0 or 1.
    """
    if isinstance(images, str | Path):
        raise UserError(
            f"images={images}: give an array of images; `images, files = model.read(path)` makes one of files"
        )
    array = as_images(images)
    require_range(array)
    channels, *side = image_shape
    if array.shape in ((*side,), (*side, channels)) or (array.shape == image_shape and channels > 1):
        raise UserError(f"images of shape {array.shape}: this is one image alone; give images[None]")
    if array.shape[1:] == (*side, channels) and array.shape[1:] != image_shape:
        array = np.moveaxis(array, -1, 1)
    return array


def shown(images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Brings images (N, C, H, W) into the form in which people hold them: (N, H, W) if grey, else (N, H, W, C)."""
    return images[:, 0] if images.shape[1] == 1 else np.ascontiguousarray(np.moveaxis(images, 1, -1))


def is_whole(number: object) -> bool:
    """Tells whether it is a whole number, also one of numpy's; True and False are none."""
    return isinstance(number, Integral) and not isinstance(number, bool)


def whole(**numbers: Any) -> tuple[int, ...]:
    """Returns whole numbers as Python's own.

    Raises:
        UserError: one is no whole number.
    """
    if not all(map(is_whole, numbers.values())):
        raise UserError(f"{', '.join(f'{name}={number}' for name, number in numbers.items())}: give whole numbers")
    return tuple(map(int, numbers.values()))


def numbers_of(classes: Sequence[str], labels: Sequence[Any]) -> Mapping[Any, int]:
    """Returns the number of each class by what a person calls it in these labels: its name, or a number.

    Where the names are numbers, as those of labels 1 to 4 are, a number is a name too, and else an index.

    Example:
        >>> dict(numbers_of(("1", "2"), [2])), dict(numbers_of(("cat", "dog"), [1]))
        ({1: 0, 2: 1}, {0: 0, 1: 1})
    """
    if all(isinstance(label, str) for label in labels):
        return {name: number for number, name in enumerate(classes)}
    try:
        return {int(name): number for number, name in enumerate(classes)}
    except ValueError:
        return {number: number for number in range(len(classes))}
