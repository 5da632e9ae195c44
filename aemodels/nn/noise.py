"""Draws all noise of the models."""

from __future__ import annotations

import torch
from torch import Tensor

from aemodels.runtime import torchrun


def noise_like(codes: Tensor) -> Tensor:
    """Returns standard normal noise for codes (..., B, D).

    All noise of the models comes from this module, so that it runs under vmap and a test can replace it.
    """
    share = torchrun.current()
    if share is None:
        return torch.randn_like(codes)
    whole = torch.randn((*codes.shape[:-2], share.total, codes.shape[-1]), dtype=codes.dtype, device=codes.device)
    return whole[..., share.rows, :]


def uniform_like(images: Tensor) -> Tensor:
    """Returns uniform noise in [0, 1) for images (B, ...)."""
    share = torchrun.current()
    if share is None:
        return torch.rand_like(images)
    return torch.rand((share.total, *images.shape[1:]), dtype=images.dtype, device=images.device)[share.rows]


def normal_like(images: Tensor) -> Tensor:
    """Returns standard normal noise for the pixels of images (B, ...)."""
    return noise_like(images.flatten(1)).view_as(images)
