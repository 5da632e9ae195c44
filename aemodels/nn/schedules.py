"""Maps the count of updates to weights and learning rates, as pure functions.

The count may be a 0-dimensional tensor on the device, so that a training loop can be captured.
"""

from __future__ import annotations

import math
from typing import Literal

from torch import Tensor

Schedule = Literal["constant", "cosine", "stages"]
STAGES = 8


def warm_up(step: Tensor, steps: int) -> Tensor | float:
    """Returns a weight that rises linearly from 0 at step 0 to 1 at `steps`; it is 1 throughout if `steps` is 0."""
    return (step / steps).clamp(max=1) if steps else 1.0


def learning_rate_factor(step: int, total: int, warmup: int, schedule: Schedule) -> float:
    """Returns what the learning rate is multiplied by at a step (from 0), after a linear warm-up."""
    if step < warmup:
        return (step + 1) / (warmup + 1)
    done = (step - warmup) / max(1, total - warmup)
    match schedule:
        case "constant":
            return 1.0
        case "cosine":
            return 0.5 * (1 + math.cos(math.pi * done))
        case "stages":
            return math.pow(10, -_stage(done) / (STAGES - 1))


def _stage(done: float) -> int:
    """Returns the number of the stage, of which each takes three times as long as the one before.

    `done` is the share of the training that is done (Burda et al., 2016, arXiv:1509.00519, section 5).
    """
    ends = [(3 ** (i + 1) - 1) / (3**STAGES - 1) for i in range(STAGES)]
    return next(i for i, end in enumerate(ends) if done < end or i == STAGES - 1)
