"""Computes from the training images, before any training, their linear code and whether they are black and white."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch

from aemodels.data.prepared import PreparedData
from aemodels.nn.linear_code import LinearCode, linear_code_over

MOST_IMAGES = 10_000
A_FEW = 1_000
MOST_BYTES = 512 * 2**20  # of these images in memory, four bytes a pixel


def linear_code_of(data: PreparedData, numbers: int, seen: int | None) -> LinearCode:
    """Returns the linear code of the first training images, at most 10,000, with so many numbers or fewer; on the CPU.

    Where training binarises the images, the code is that of the grey ones.

    Args:
        seen: how many of the first training images a training sees, of which no others are taken; None for all.
    """
    most = max(2, MOST_BYTES // (4 * math.prod(data.image_shape)))
    return _linear_code(data, numbers, min(MOST_IMAGES, most, seen or MOST_IMAGES, data.sizes["train"]))


@lru_cache(maxsize=8)
def _linear_code(data: PreparedData, numbers: int, count: int) -> LinearCode:
    images = torch.from_numpy(data.stored("train").images.first(count).read()).float()  # (N, C, H, W)
    return linear_code_over(images.div_(255), numbers)


def is_black_and_white(data: PreparedData, seen: int | None, split: str = "train") -> bool:
    """Tells whether pixels have no other values than black and white, as a model sees them, by a split's first images.

    It is true of a split without images.

    Args:
        seen: how many of the first images a training sees, of which no others are looked at; None for all.
    """
    return data.binarize != "none" or _is_black_and_white(data, split, min(A_FEW, seen or A_FEW))


@lru_cache(maxsize=16)
def _is_black_and_white(data: PreparedData, split: str, count: int) -> bool:
    images = data.stored(split).images.first(count).read()
    return bool(np.isin(images, (0, 255)).all())
