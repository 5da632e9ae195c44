"""Makes all randomness a function of a seed, and lets a model be looked at without a trace."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def undisturbed(model: nn.Module, seed: int) -> Iterator[None]:
    """Sets evaluation mode, no gradients and seeded noise for the block; modes and noise are as before after it."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad(), seeded(seed):
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Makes torch's global noise inside the block a function of the seed, and leaves it outside as it was."""
    # CUDA is not initialised for this alone: that costs seconds and memory of a GPU that may not be needed. If CUDA
    # starts inside the block, it takes the seed that `manual_seed` left.
    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    try:
        with torch.random.fork_rng(devices=devices):
            if torch.accelerator.is_available():
                torch.manual_seed(seed)
            else:  # without a device torch would keep a stack trace of every call, for a device that may yet come
                torch.default_generator.manual_seed(seed)
            yield
    finally:
        if not devices and torch.cuda.is_available():
            torch.cuda.manual_seed_all(torch.initial_seed())  # the caller's seed, with which CUDA would have begun


def derived_seed(seed: int, purpose: str, index: int = 0) -> int:
    """Returns a seed of its own for each purpose and index.

    All randomness of an experiment is a function of its seed and of where in the work it is used. So nothing has to be
    remembered to resume, and nothing drawn elsewhere disturbs it.
    """
    digest = hashlib.blake2b(f"{seed}/{purpose}/{index}".encode(), digest_size=7).digest()
    return int.from_bytes(digest, "big")
