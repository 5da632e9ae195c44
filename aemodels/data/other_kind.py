"""Provides images of another kind than those that a model is for.

N images, (C, H, W) an image with pixels in [0, 1].
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from aemodels.data.digits import DigitsConfig
from aemodels.data.prepared import PreparedData
from aemodels.data.source import SMALLEST_SIDE
from aemodels.data.sprites import SpritesConfig

COUNT = 1_000


def images_of_another_kind(data: PreparedData) -> Tensor:
    """Returns sprites (N, C, H, W), or handwritten digits where the data are sprites.

    They are black and white where the data are.
    """
    channels, height, width = data.image_shape
    size = (max(height, SMALLEST_SIDE), max(width, SMALLEST_SIDE))
    other = SpritesConfig if data.name != SpritesConfig().name else DigitsConfig
    source = other(image_size=size).fetch().read()
    pixels = np.stack([source.load(row) for row in range(min(COUNT, source.count))])  # (N, 1, *size)
    x = torch.from_numpy(pixels).float() / 255
    if (height, width) != size:
        x = F.interpolate(x, (height, width), mode="area")
    x = x.expand(-1, channels, -1, -1)
    return x if data.binarize == "none" else (x > 0.5).float()
