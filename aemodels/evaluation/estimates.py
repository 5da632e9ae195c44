"""Says how far a number about a model could lie from what it would be on other images and in other samples.

An influence is how much a number changes, to first order, with the weight of one image among all. Influences add up to
0, and the root of the sum of their squares is the standard error of the number, without drawing anything anew (the
infinitesimal jackknife, Jaeckel, 1972).

N images of a split, M samples.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

NOTHING = torch.zeros(0, dtype=torch.double)


class Estimate(NamedTuple):
    """An estimate is a number about a model, with the influences of images and of samples."""

    value: float
    images: Tensor = NOTHING  # (N,)
    samples: Tensor = NOTHING  # (M,)

    @property
    def error(self) -> float:
        """Returns the standard error; NaN where nothing tells it, such as one image."""
        if len(self.images) + len(self.samples) < 2:
            return math.nan
        return math.sqrt(float(self.images.square().sum() + self.samples.square().sum()))


def mean_of(values: Tensor) -> Estimate:
    """Returns the mean of a number of each image (N,).

    Example:
        >>> estimate = mean_of(torch.tensor([1.0, 2.0, 3.0, 6.0]))
        >>> estimate.value, round(estimate.error, 2)
        (3.0, 0.94)
    """
    values = values.double().cpu()
    mean = values.mean()
    return Estimate(float(mean), (values - mean) / len(values))


def error_of_difference(a: Estimate, b: Estimate) -> float:
    """Returns the standard error of a - b, two numbers of the same images that have samples of their own.

    It is NaN where nothing tells it. What both models find hard of an image cancels, so that models are told apart
    whose own errors overlap.

    Example:
        >>> a, b = mean_of(torch.tensor([1.0, 5.0, 9.0])), mean_of(torch.tensor([1.1, 5.0, 8.9]))
        >>> round(a.error, 2), round(error_of_difference(a, b), 2)
        (1.89, 0.05)
    """
    if math.isnan(a.error + b.error) or len(a.images) != len(b.images):
        return math.nan
    return Estimate(a.value - b.value, a.images - b.images, torch.cat([a.samples, b.samples])).error


def ratio(a: Estimate, b: Estimate) -> Estimate:
    """Returns a over b, two numbers of the same images."""
    value = a.value / b.value
    return Estimate(value, (a.images - value * b.images) / b.value)
