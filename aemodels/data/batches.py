"""Provides batches on the device: images in [0, 1] and labels.

The arrays fit into the device's memory, or stream through it. Both ways give the same batches, bit for bit.
N images of a split, B of a batch, (C, H, W) an image.
"""

from __future__ import annotations

import itertools
import resource
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import torch
from torch import Tensor

from aemodels.data import streaming
from aemodels.data.prepared import PreparedData
from aemodels.nn.batch import Batch, at_once
from aemodels.nn.noise import uniform_like
from aemodels.runtime.processes import alike
from aemodels.runtime.torchrun import Share, on_this_machine, share_of, sharing

CGROUP = Path("/sys/fs/cgroup")  # where a container finds its own limits
RESIDENT_SHARE = 0.4  # share of the free memory for images; weights, activations and other processes need the rest


class Batches:
    """Gives a split's images as batches on a device."""

    def __init__(
        self, data: PreparedData, split: str, device: torch.device, limit: int | None = None, shared: bool = False
    ) -> None:
        """Opens the images, and loads them if they fit into the device's memory.

        Args:
            limit: keeps the first images only; they are in random order already.
            shared: gives each of torchrun's processes its own share of every batch.
        """
        stored = data.stored(split)
        self.images = stored.images.first(limit)
        self.labels = None if stored.labels is None else torch.from_numpy(stored.labels[:limit]).to(device)
        self.binarize, self.device, self.shared = data.binarize, device, shared
        self.resident = self._load() if fits(self.images.nbytes, device) else None

    def __len__(self) -> int:
        """Returns the number of images."""
        return len(self.images)

    @property
    def at_once(self) -> int:
        """Returns how many images are evaluated at once."""
        return at_once(self.images.shape[1:])

    def share(self, size: int) -> Share | None:
        """Returns the rows of a batch of that size that are this process's; None where it has them all."""
        return share_of(size) if self.shared else None

    def order(self, seed: int) -> Tensor:
        """Returns the order of a pass (N,), on the CPU: a function of the seed, and the same on every machine."""
        return torch.cat([window.rows for window in self._shuffled(seed).windows])

    def shuffled(self, batch_size: int, seed: int, start: int = 0, stop: int | None = None) -> Iterator[Batch]:
        """Yields one pass in the order of the seed; dynamic binarisation draws from torch's generator.

        Args:
            start, stop: the part of the order that is wanted, as places in it.
        """
        if self.resident is None:
            plan = streaming.part(self._shuffled(seed), start, len(self) if stop is None else stop)
            yield from self._streamed(plan, batch_size, drawn=True)
        else:
            for index in self.order(seed)[start:stop].to(self.device).split(batch_size):
                yield self.gather(index, drawn=True)

    def in_order(self, batch_size: int) -> Iterator[Batch]:
        """Yields one pass in the order of the file; binarisation is the same at every pass."""
        if self.resident is None:
            yield from self._streamed(self._in_order(), batch_size, drawn=False)
        else:
            for index in torch.arange(len(self), device=self.device).split(batch_size):
                yield self.gather(index, drawn=False)

    def gather(self, index: Tensor, drawn: bool) -> Batch:
        """Returns the images of an index (B,) on the device, of a resident split, without a wait for the device.

        `drawn` tells whether dynamic binarisation draws from torch's generator.
        """
        assert self.resident is not None
        return self._batch(self.resident.index_select(0, index), index, drawn)

    def _shuffled(self, seed: int) -> streaming.Plan:
        return streaming.shuffled(len(self), self.images.row_bytes, seed)

    def _in_order(self) -> streaming.Plan:
        return streaming.in_order(len(self), self.images.row_bytes)

    def _load(self) -> Tensor:
        """Returns all images (N, C, H, W), without a second copy in memory."""
        pixels = torch.empty(self.images.shape, dtype=torch.uint8, device=self.device)
        free = pixels
        for _, read in streaming.read_ahead(self.images, self._in_order(), self.device):
            free[: len(read)] = read
            free = free[len(read) :]
        return pixels

    def _streamed(self, plan: streaming.Plan, batch_size: int, drawn: bool) -> Iterator[Batch]:
        parts: list[tuple[Tensor, Tensor]] = []  # pixels and rows of a batch that the next window completes
        room = batch_size
        with closing(streaming.read_ahead(self.images, plan, self.device)) as windows:
            for window, read in windows:
                place, rows = window.place.to(self.device), window.rows.to(self.device)
                for start, stop in itertools.pairwise([0, *range(room, len(rows), batch_size), len(rows)]):
                    parts.append((read.index_select(0, place[start:stop]), rows[start:stop]))
                    room -= stop - start
                    if room == 0:
                        yield self._batch(*_joined(parts), drawn)
                        parts, room = [], batch_size
        if parts:
            yield self._batch(*_joined(parts), drawn)

    def _batch(self, pixels: Tensor, index: Tensor, drawn: bool) -> Batch:
        """Makes a batch of pixels (B, C, H, W), uint8, and of the numbers of their images, (B,), on the device."""
        if share := self.share(len(index)):
            pixels, index = pixels[share.rows], index[share.rows]
        x = pixels.float().div_(255)
        if self.binarize != "none":
            with sharing(share):
                x = _binarized(x, self.binarize, index, drawn)
        return Batch(x, None if self.labels is None else self.labels.index_select(0, index))


def fits(size: int, device: torch.device) -> bool:
    """Tells whether so many bytes may stay in the device's memory."""
    sharers = alike() if device.type == "cuda" else alike() * on_this_machine()  # torchrun gives each its own GPU
    return size < RESIDENT_SHARE / sharers * free_memory(device)


def free_memory(device: torch.device) -> int:
    """Returns the free memory of the device in bytes; of main memory no more than this process may have."""
    if device.type == "cuda":
        # memory that torch keeps for its next need
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + cached
    import psutil  # a bare GPU machine has none

    return max(0, min([int(psutil.virtual_memory().available), *_allowances()]))


def _allowances() -> Iterator[int]:
    """Yields what the limits of this process (`ulimit -v`) and of its container leave, in bytes."""
    import psutil

    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY:
        yield limit - int(psutil.Process().memory_info().vms)
    try:
        limit, used = (int((CGROUP / f"memory.{name}").read_text()) for name in ("max", "current"))
        parts = dict(line.split() for line in (CGROUP / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):  # no such file, or "max": no limit
        return
    yield limit - used + int(parts["inactive_file"])  # files that were read stay until somebody needs their place


def _joined(parts: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    if len(parts) == 1:
        return parts[0]
    pixels, rows = zip(*parts, strict=True)
    return torch.cat(pixels), torch.cat(rows)


def _binarized(x: Tensor, how: str, index: Tensor, drawn: bool) -> Tensor:
    """Turns grey pixels (B, C, H, W) into {0, 1}: by a threshold, or as coin flips with the grey value as probability.

    `static` flips are a function of the image's index; `dynamic` ones are drawn anew in training and are static
    elsewhere, so that an evaluation repeats.
    """
    if how == "threshold":
        return torch.gt(x, 0.5, out=x)  # ten times faster than a comparison that is converted
    uniform = uniform_like(x) if how == "dynamic" and drawn else _fixed_uniform(index, x.shape[1:].numel()).view_as(x)
    return torch.lt(uniform, x, out=uniform)


def _fixed_uniform(index: Tensor, pixels: int) -> Tensor:
    """Returns numbers in [0, 1), (B, pixels), which are the same on every device.

    Each is a hash of image and pixel (Wellons' triple32).
    """
    pixel = torch.arange(pixels, device=index.device, dtype=torch.int32)
    h = (index.int() * _signed(0x9E3779B1))[:, None] + pixel * _signed(0x85EBCA77)  # (B, pixels), modulo 2**32
    for shift, factor in ((17, 0xED5AD4BB), (11, 0xAC4C1B51), (15, 0x31848BAB)):
        h.bitwise_xor_(_shifted(h, shift)).mul_(_signed(factor))
    h.bitwise_xor_(_shifted(h, 14))
    return _shifted(h, 8).float().div_(2**24)  # 24 bits, as many as a float32 holds exactly


def _signed(factor: int) -> int:
    """Returns the same 32 bits as an int32, in which the hash is four times faster than in an int64."""
    return (factor + 2**31) % 2**32 - 2**31


def _shifted(h: Tensor, by: int) -> Tensor:
    """Shifts bits to the right, with zeros from the left."""
    return (h >> by).bitwise_and_(2 ** (32 - by) - 1)
