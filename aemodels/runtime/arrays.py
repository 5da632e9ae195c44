"""Takes arrays as people hold them: of numpy, of torch, or as lists."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from aemodels.config import UserError


def as_array(values: Any) -> NDArray[Any]:
    """Returns an array of an array, a tensor or a list.

    Raises:
        UserError: the items are of different shapes.
    """
    if hasattr(values, "detach"):  # a tensor; bfloat16 is no type of numpy's
        values = values.detach().cpu()
        values = values.float() if values.dtype.is_floating_point else values
    try:
        return np.asarray(values)
    except (ValueError, TypeError) as error:
        raise UserError(f"images or labels that are no array ({error}); bring all of them to one shape") from None


def as_images(values: Any) -> NDArray[Any]:
    """Returns images as an array of numbers, as `as_array` does.

    Raises:
        UserError: they are of different shapes, or no numbers.
    """
    array = as_array(values)
    if array.dtype.kind not in "biuf":
        kind = type(values).__name__
        remedy = f"give the `dataset` of this {kind}" if hasattr(values, "dataset") else "give an array or a tensor"
        raise UserError(f"images of {kind}, {array.dtype}: give uint8, or numbers from 0 to 1; {remedy}")
    return array


def require_range(images: NDArray[Any]) -> None:
    """Checks that pixels say by their type whether they run from 0 to 1 or to 255.

    Raises:
        UserError: they are integers that are all 0 or 1, which could be either, or integers above 255.
    """
    if images.dtype.kind in "iu" and images.size and (most := int(images.max())) > 255:
        raise UserError(
            f"images of {images.dtype} with pixels up to {most}: whole numbers are read as 0 to 255; divide by the "
            "value of white, such as 65535 for 16 bits, and give numbers from 0 to 1"
        )
    if images.dtype.kind in "iu" and images.size and images.min() >= 0 and images.max() == 1:
        raise UserError(
            f"images of {images.dtype} whose pixels are all 0 or 1: is 1 white, or nearly black? Give bool or float, "
            "or multiply by 255, if 1 is white; divide by 255 if 255 is white"
        )
