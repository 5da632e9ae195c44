"""Defines the handwritten digits of scikit-learn: 1,797 grey images of 8 x 8 pixels, which need no network.

The source is Alpaydin and Kaynak (1998).
"""

from __future__ import annotations

from functools import partial
from importlib.metadata import version
from typing import Literal

import numpy as np
from PIL import Image

from aemodels.data.resizing import Size
from aemodels.data.source import Images, ImageSize, Source, WithoutTestConfig, array_images, digest_of, sides_of

INK = 16  # the value of black in the original


class DigitsConfig(WithoutTestConfig):
    """Holds the settings of the 1,797 handwritten digits that come with scikit-learn."""

    name: Literal["digits"] = "digits"
    """Chooses where the images come from."""
    image_size: ImageSize | None = 28
    """Sets the side of the images in pixels, or [height, width]; null keeps the original 8."""

    def fetch(self) -> Source:
        package = f"scikit-learn {version('scikit-learn')}"
        return Source((package,), digest_of(package), partial(_read, self.image_size))


def _read(size: int | Size | None) -> Images:
    from sklearn.datasets import load_digits  # takes half a second: only when they are not prepared yet

    digits = load_digits()
    grey = np.asarray(digits.images, dtype=np.float32) * (255 / INK)  # (N, 8, 8)
    if size is not None:
        # They have 17 levels of grey. They are interpolated before they are rounded, else the steps are seen.
        grey = np.stack([_smooth(image, sides_of(size)) for image in grey])
    pixels = np.clip(np.rint(grey), 0, 255).astype(np.uint8)[:, None]  # (N, 1, H, W)
    return array_images(pixels, None, digits.target.astype(np.int64), tuple("0123456789"))


def _smooth(image: np.ndarray, size: Size) -> np.ndarray:
    return np.asarray(Image.fromarray(image).resize(size[::-1], Image.Resampling.BICUBIC))
