"""Step -> weight, as pure functions. A step is a 0-dimensional tensor on the device, so that a loop can be captured."""

from __future__ import annotations

import math

from torch import Tensor


def warm_up(step: Tensor, steps: int) -> Tensor | float:
    """Rises linearly from 0 at step 0 to 1 at `steps`; 1 throughout if there are none."""
    return (step / steps).clamp(max=1) if steps else 1.0


def learning_rate_factor(step: int, total: int, warmup: int, cosine: bool) -> float:
    """What the learning rate is multiplied by at a step (from 0): a linear warm-up, then 1 or a half cosine to 0."""
    if step < warmup:
        return (step + 1) / (warmup + 1)
    if not cosine:
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))
