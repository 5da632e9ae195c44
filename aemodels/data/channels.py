"""Brings pixels to one channel (grey) or three (colour).

(C, H, W): C channels, H x W pixels.
"""

from __future__ import annotations

import numpy as np

from aemodels.data.source import Pixels

WEIGHTS = (19595, 38470, 7471)  # of red, green and blue in 65,536 parts, as Pillow and ITU-R 601-2 weigh them


def is_grey(pixels: Pixels) -> bool:
    """Tells whether an image (C, H, W) shows no colour, however many channels it has."""
    return bool((pixels == pixels[:1]).all())


def in_channels(pixels: Pixels, channels: int) -> Pixels:
    """Returns an image with so many channels: grey is repeated, colour is weighed into grey."""
    if len(pixels) == channels:
        return pixels
    if channels == 3:
        return np.repeat(pixels, 3, axis=0)
    weighed = np.tensordot(np.array(WEIGHTS, np.uint32), pixels.astype(np.uint32), 1)  # (H, W)
    return ((weighed + 2**15) >> 16).astype(np.uint8)[None]
