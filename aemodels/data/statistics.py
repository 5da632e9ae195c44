"""Computes from the training images, before any training, their linear code and whether they are black and white."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch

from aemodels.data.prepared import PreparedData
from aemodels.nn.linear_code import LinearCode, linear_code

MOST_IMAGES = 10_000
A_FEW = 1_000
MOST_BYTES = 512 * 2**20  # of these images in memory, four bytes a pixel


@lru_cache(maxsize=8)
def linear_code_of(data: PreparedData, numbers: int) -> LinearCode:
    """Returns the linear code of the first training images, at most 10,000, with so many numbers or fewer; on the CPU.

    Where training binarises the images, the code is that of the grey ones.
    """
    count = min(MOST_IMAGES, max(2, MOST_BYTES // (4 * math.prod(data.image_shape))))
    images = torch.from_numpy(data.split("train").images[:count].copy())  # (N, C, H, W)
    return linear_code(images.float() / 255, numbers)


def is_black_and_white(data: PreparedData) -> bool:
    """Tells whether pixels have no other values than black and white, in training at least, by the first images."""
    if data.binarize != "none":
        return True
    images = data.split("train").images[:A_FEW]
    return bool(np.isin(images, (0, 255)).all())
