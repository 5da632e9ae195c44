"""Finds the linear code of images: principal components, the best that a linear autoencoder can do.

N images, K numbers in a code, P = C * H * W pixels in [0, 1].
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from aemodels.runtime.randomness import seeded

SPARE, PASSES = 16, 6  # columns beside those that are wanted, and passes: the error is then within 0.1 % of the best


class LinearCode(NamedTuple):
    """Holds the K leading principal components of images, and their mean.

    Example:
        >>> images = torch.rand(100, 1, 8, 8)
        >>> code = linear_code(images, 3)
        >>> code.encode(images).shape, code.decode(code.encode(images)).shape
        (torch.Size([100, 3]), torch.Size([100, 1, 8, 8]))
    """

    mean: Tensor  # (C, H, W)
    components: Tensor  # (K, P), orthonormal rows, the one with the largest variance first
    variances: Tensor  # (K,), of the images along each component
    rest: float  # the mean variance of a pixel that the components leave

    def first(self, numbers: int) -> LinearCode:
        """Returns the code of fewer numbers; it keeps all where there are no more."""
        left = float(self.variances[numbers:].sum()) / self.components.shape[1]
        return LinearCode(self.mean, self.components[:numbers], self.variances[:numbers], self.rest + left)

    def encode(self, x: Tensor) -> Tensor:
        """Maps images (N, C, H, W) to codes (N, K) of variance 1."""
        codes: Tensor = (x - self.mean).flatten(1) @ self.components.T / self.variances.clamp(min=1e-12).sqrt()
        return codes

    def decode(self, z: Tensor) -> Tensor:
        """Maps codes (N, K) to images (N, C, H, W), which may leave [0, 1]."""
        pixels: Tensor = ((z * self.variances.sqrt()) @ self.components).unflatten(1, self.mean.shape)
        return self.mean + pixels


def linear_code(images: Tensor, numbers: int, seed: int = 0) -> LinearCode:
    """Returns the leading principal components of images (N, C, H, W), in float32; there are at most N - 1.

    They are found by random projections and power iterations (Halko et al., 2011, arXiv:0909.4061, algorithm 5.1).
    """
    return linear_code_over(images.clone(), numbers, seed)


def linear_code_over(images: Tensor, numbers: int, seed: int = 0) -> LinearCode:
    """Returns the same, and overwrites the images, so that they are in memory once."""
    flat = images.flatten(1)  # (N, P)
    mean, most = flat.mean(0), min(numbers, len(flat) - 1, flat.shape[1])
    centred = flat.sub_(mean)
    with seeded(seed):
        _, scales, columns = torch.svd_lowrank(centred, q=min(most + SPARE, *flat.shape), niter=PASSES)
    variances = scales[:most].square() / len(flat)
    rest = float((centred.square_().mean() - variances.sum() / flat.shape[1]).clamp(min=0))
    return LinearCode(mean.view(images.shape[1:]), columns[:, :most].T.contiguous(), variances, rest)
