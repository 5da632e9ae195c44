"""Brings images to a height and a width: they are squeezed, cut in their middle, or get a border.

An image may still have to be laid on paper: `flat` makes mode L or RGB of any piece of it. Of a large image that is
done a strip of rows at a time, and each strip is averaged at once. So a drawing of 179 megapixels with alpha is in
memory once, and not four times in each process that decodes; its pixels are the same, to the bit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
from PIL import Image

Size = tuple[int, int]  # (height, width) in pixels
Fit = Literal["resize", "crop", "pad"]
Box = tuple[int, int, int, int]  # left, top, right, bottom in pixels; right and bottom are the first outside
Flat = Callable[[Image.Image], Image.Image]

STRIP = 4 * 2**20  # pixels that are laid on paper at a time
# An image is averaged to about so many times its final size before it is resized: Pillow's `reducing_gap`. Pillow
# widens the filter when it shrinks, so nothing aliases.
GAP = 3.0


def as_it_is(image: Image.Image) -> Image.Image:
    """Returns an image that is in mode L or RGB already."""
    return image


def fitted(image: Image.Image, size: Size, fit: Fit = "resize", flat: Flat = as_it_is) -> Image.Image:
    """Brings an image to a height and width, in mode L or RGB."""
    whole = (0, 0, image.width, image.height)
    if fit == "pad":
        return _padded(image, size, flat)
    return _resized(image, _middle(image, size) if fit == "crop" else whole, size, flat)


def laid_out(image: Image.Image, flat: Flat) -> Image.Image:
    """Returns an image in its own size, in mode L or RGB."""
    return image if flat is as_it_is else _averaged(image, (0, 0, image.width, image.height), (1, 1), flat)


def _middle(image: Image.Image, size: Size) -> Box:
    """Returns the largest middle part of the shape that is asked for."""
    height, width = size
    across = min(image.width, max(1, round(image.height * width / height)))
    down = min(image.height, max(1, round(image.width * height / width)))
    left, top = (image.width - across) // 2, (image.height - down) // 2
    return left, top, left + across, top + down


def _resized(image: Image.Image, box: Box, size: Size, flat: Flat) -> Image.Image:
    """Resizes what is in a box; `resize(box=...)` would mix in pixels from outside."""
    height, width = size
    across, down = box[2] - box[0], box[3] - box[1]
    factors = max(1, int(across / width / GAP)), max(1, int(down / height / GAP))
    averaged = 0, 0, across / factors[0], down / factors[1]  # the last column and row may be of fewer pixels
    return _averaged(image, box, factors, flat).resize((width, height), Image.Resampling.BICUBIC, averaged)


def _averaged(image: Image.Image, box: Box, factors: tuple[int, int], flat: Flat) -> Image.Image:
    """Lays on paper what is in a box, and averages so many columns and rows of pixels into one."""
    left, top, right, bottom = box
    if (right - left) * (bottom - top) <= STRIP:
        piece = image if box == (0, 0, image.width, image.height) else image.crop(box)
        return flat(piece).reduce(factors)
    rows = max(1, STRIP // (right - left) // factors[1]) * factors[1]
    cuts = range(top, bottom, rows)
    strips = (flat(image.crop((left, cut, right, min(cut + rows, bottom)))).reduce(factors) for cut in cuts)
    first = next(strips)
    whole = Image.new(first.mode, (first.width, -(-(bottom - top) // factors[1])))
    whole.paste(first)
    for i, strip in enumerate(strips, 1):
        whole.paste(strip, (0, i * rows // factors[1]))
    return whole


def _padded(image: Image.Image, size: Size, flat: Flat) -> Image.Image:
    """Returns the whole image in the middle of a canvas in its own border's colour.

    That is paper's white around a scan. Around a photo one even colour costs a code less than rows that are repeated.
    """
    height, width = size
    scale = min(height / image.height, width / image.width)
    inner = (min(height, max(1, round(image.height * scale))), min(width, max(1, round(image.width * scale))))
    pixels = np.asarray(_resized(image, (0, 0, image.width, image.height), inner, flat))
    ends = (pixels[0], pixels[-1]) if inner[0] < height else (pixels[:, 0], pixels[:, -1])  # where the border meets it
    canvas = np.empty((height, width, *pixels.shape[2:]), np.uint8)
    canvas[:] = np.rint(np.median(np.concatenate(ends), axis=0))
    top, left = (height - inner[0]) // 2, (width - inner[1]) // 2
    canvas[top : top + inner[0], left : left + inner[1]] = pixels
    return Image.fromarray(canvas)
