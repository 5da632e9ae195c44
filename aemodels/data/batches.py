"""Batches on the device: images in [0, 1] and labels, from arrays that fit into its memory or stream past it.

N images of a split, B of a batch, (C, H, W) an image.
"""

from __future__ import annotations

from collections.abc import Iterator

import psutil
import torch
from torch import Tensor

from aemodels.data.prepared import PreparedData
from aemodels.models.base import Batch

RESIDENT_SHARE = 0.4  # of the memory that is free: the rest is for weights, activations and other processes


class Batches:
    """A split's images as batches on a device."""

    def __init__(self, data: PreparedData, split: str, device: torch.device, limit: int | None = None) -> None:
        """`limit` keeps the first images only; they are in random order already."""
        arrays = data.split(split)
        self.images = arrays.images[:limit]
        self.labels = None if arrays.labels is None else torch.as_tensor(arrays.labels[:limit]).to(device)
        self.binarize, self.device = data.binarize, device
        self.resident = torch.tensor(self.images).to(device) if fits(self.images.nbytes, device) else None

    def __len__(self) -> int:
        """Images."""
        return len(self.images)

    def shuffled(self, batch_size: int, seed: int) -> Iterator[Batch]:
        """One pass in an order that is a function of the seed; dynamic binarisation draws from torch's generator."""
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))
        for index in order.split(batch_size):
            yield self._batch(index, drawn=True)

    def in_order(self, batch_size: int) -> Iterator[Batch]:
        """One pass as the images lie; binarisation is the same at every pass."""
        for index in torch.arange(len(self)).split(batch_size):
            yield self._batch(index, drawn=False)

    def _batch(self, index: Tensor, drawn: bool) -> Batch:
        """Index (B,), on the CPU."""
        on_device = index.to(self.device)
        if self.resident is None:
            pixels = torch.from_numpy(self.images[index.numpy()]).to(self.device)
        else:
            pixels = self.resident[on_device]
        x = pixels.float().div_(255)
        if self.binarize != "none":
            x = _binarized(x, self.binarize, on_device, drawn)
        return Batch(x, None if self.labels is None else self.labels[on_device])


def fits(size: int, device: torch.device) -> bool:
    """Whether so many bytes may stay in the device's memory."""
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available
    return size < RESIDENT_SHARE * free


def _binarized(x: Tensor, how: str, index: Tensor, drawn: bool) -> Tensor:
    """Grey pixels (B, C, H, W) -> {0, 1}: by a threshold, or as coin flips with the grey value as probability.

    `static` flips are a function of the image's index; `dynamic` ones are drawn anew in training and are static
    elsewhere, so that an evaluation repeats.
    """
    if how == "threshold":
        return (x > 0.5).float()
    uniform = torch.rand_like(x) if how == "dynamic" and drawn else _fixed_uniform(index, x[0].numel()).view_as(x)
    return (uniform < x).float()


def _fixed_uniform(index: Tensor, pixels: int) -> Tensor:
    """Numbers in [0, 1), (B, pixels): a hash of image and pixel (Wellons' triple32), the same on every device."""
    pixel = torch.arange(pixels, device=index.device)
    h = (index[:, None] * 0x9E3779B1 + pixel * 0x85EBCA77) & 0xFFFFFFFF
    for shift, factor in ((17, 0xED5AD4BB), (11, 0xAC4C1B51), (15, 0x31848BAB)):
        h = ((h ^ (h >> shift)) * factor) & 0xFFFFFFFF
    return ((h ^ (h >> 14)) >> 8).float() / 2**24  # 24 bits, as many as a float32 holds exactly
