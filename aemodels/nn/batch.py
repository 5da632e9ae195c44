"""Defines a batch: the images, and their labels where there are any, that a model sees at once."""

from __future__ import annotations

import math
from typing import NamedTuple

from torch import Tensor

AT_ONCE = 500  # images or codes that are evaluated or answered at once: enough for speed, little enough for memory
VALUES_AT_ONCE = 2**22  # pixels of all these images: a network holds about ten times as many numbers for them


def at_once(image_shape: tuple[int, ...]) -> int:
    """Returns how many images (C, H, W), or codes of such, are evaluated at once: fewer of large ones."""
    return max(1, min(AT_ONCE, VALUES_AT_ONCE // math.prod(image_shape)))


class Batch(NamedTuple):
    """A batch holds the images that a model sees in one pass, and what is known of them."""

    x: Tensor  # (B, C, H, W), float32 in [0, 1]
    y: Tensor | None  # (B,), int64; None without labels
    corrupted: Tensor | None = None  # (B, C, H, W): what a denoising model is shown of x

    @property
    def seen(self) -> Tensor:
        """Returns the images (B, C, H, W) that an encoder gets; the target of the reconstruction is always x."""
        return self.x if self.corrupted is None else self.corrupted
