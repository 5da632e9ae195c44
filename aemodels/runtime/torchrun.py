"""Lets several processes train one model, started by `torchrun`: each has its share of every batch.

All of them draw the noise of the whole batch and keep their own rows of it, so the loss is that of one process with the
same batches. Without torchrun there is one process, and everything here does nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import timedelta
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, distributed

from aemodels.config import UserError

T = TypeVar("T")


class Share(NamedTuple):
    """Tells which rows of a batch are this process's."""

    rows: slice
    total: int  # images of the whole batch


_current: ContextVar[Share | None] = ContextVar("share", default=None)


def started() -> bool:
    """Tells whether torchrun started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def on_this_machine() -> int:
    """Returns how many processes torchrun started on this machine, this one among them."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def leads() -> bool:
    """Tells whether this process is the one that writes."""
    return not started() or os.environ.get("RANK") == "0"


def active() -> bool:
    """Tells whether the processes have joined each other."""
    return distributed.is_available() and distributed.is_initialized()


def refuse(work: str) -> None:
    """Refuses work that has to run in one process.

    Raises:
        UserError: this is one of several processes.
    """
    if started():
        raise UserError(f"torchrun: {work} runs in one process; only `aemodels train` is shared between several")


def take_gpu() -> None:
    """Makes the GPU with this process's number on its machine torch's current one.

    Raises:
        UserError: there are fewer GPUs than processes.
    """
    number, gpus = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if number >= gpus:
        raise UserError(
            f"torchrun: process {number} of this machine has no GPU, there are {gpus}; use --nproc-per-node {gpus}, or "
            "AEMODELS_DEVICE=cpu"
        )
    torch.cuda.set_device(number)


@contextmanager
def joined(device: torch.device) -> Iterator[None]:
    """Joins the other processes for the block; each of them has to come here."""
    if not started() or active():
        yield
        return
    # The timeout is long, as the leading process may fit a classifier of real images before the first exchange.
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=timedelta(hours=2))
    try:
        yield
    finally:
        distributed.destroy_process_group()


def share_of(total: int) -> Share | None:
    """Returns the rows of a batch of `total` images that are this process's; None where there is one process."""
    if not active():
        return None
    world, number = distributed.get_world_size(), distributed.get_rank()
    start, stop = (total * i // world for i in (number, number + 1))
    return Share(slice(start, stop), total)


def current() -> Share | None:
    """Returns what `sharing` was given; None where this process has the whole batch."""
    return _current.get()


@contextmanager
def sharing(share: Share | None) -> Iterator[None]:
    """Makes noise and batch means inside the block those of the whole batch."""
    token = _current.set(share)
    try:
        yield
    finally:
        _current.reset(token)


def batch_mean(x: Tensor) -> Tensor:
    """Returns the mean of the whole batch, (B, ...) -> (...); no gradient passes from one process to another."""
    share = _current.get()
    if share is None:
        return x.mean(0)
    total = x.detach().sum(0)
    distributed.all_reduce(total)
    return total / share.total


def add_up(x: Tensor) -> Tensor:
    """Returns the sum over all processes, computed in place."""
    if active():
        distributed.all_reduce(x)
    return x


def agreed(value: T) -> T:
    """Returns to all processes the value that the leading process has."""
    if not active():
        return value
    box: list[Any] = [value]
    distributed.broadcast_object_list(box)
    return box[0]  # type: ignore[no-any-return]
