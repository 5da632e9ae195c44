"""How a model is looked at without a trace."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from aemodels.nn.distributions import seeded


@contextmanager
def undisturbed(model: nn.Module, seed: int) -> Iterator[None]:
    """Evaluation mode, no gradients, noise that is a function of the seed; leaves modes and noise as they were."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad(), seeded(seed):
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode
