"""Finds nearest neighbours in a feature space (density and coverage: Naeem et al., 2020, arXiv:2002.09797).

N real images, M samples, F features.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

REACHED = 5  # real images that a ball reaches, beside its own (Naeem et al., 2020)
BLOCK_NUMBERS = 1_000_000  # distances in memory at once: 4 MB stay in the cache, twice as fast as 40 MB


class Balls(NamedTuple):
    """Holds how samples fall into balls around real images; each reaches to its image's fifth nearest real image."""

    held: Tensor  # (M,), balls that a sample lies in
    hit: Tensor  # (N,), whether an image's ball holds a sample
    reached: int  # five, or all other images where there are fewer


def balls(real: Tensor, samples: Tensor) -> Balls | None:
    """Builds the balls from features (N, F) and (M, F).

    It returns None where there is no distance: one real image, or numbers that are not finite.
    """
    if len(real) < 2 or not (real.isfinite().all() and samples.isfinite().all()):
        return None
    real = real.to(samples.device)
    reached = min(REACHED, len(real) - 1)
    held = torch.zeros(len(samples), device=samples.device)
    hit: list[Tensor] = []
    for block in _blocks(real, max(len(real), len(samples))):
        radii = torch.cdist(block, real).topk(reached + 1, largest=False).values[:, -1:]  # the nearest is itself
        inside = torch.cdist(block, samples) <= radii  # (block, M)
        held += inside.sum(0)
        hit.append(inside.any(1))
    return Balls(held.cpu(), torch.cat(hit).cpu(), reached)


def nearest(samples: Tensor, real: Tensor) -> Tensor:
    """Returns for each sample (M, F) which of the real images (N, F) is nearest, (M,)."""
    real = real.to(samples.device)
    return torch.cat([torch.cdist(block, real).argmin(1) for block in _blocks(samples, len(real))])


def _blocks(x: Tensor, others: int) -> Iterator[Tensor]:
    """Yields rows of x, as many at once as their distances to so many others may be in memory."""
    yield from x.split(max(1, BLOCK_NUMBERS // others))
