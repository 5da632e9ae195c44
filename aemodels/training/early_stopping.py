"""Tells when a training ends early, by its loss on validation images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median

from aemodels.training.config import TrainingConfig

NOISE = 3.5  # typical distances of an epoch from the mean of its neighbours that are no rise and no fall


def ends(since: Sequence[float], epoch: int, config: TrainingConfig, updates_per_epoch: int) -> bool:
    """Tells whether a training, with so many updates an epoch, ends, as all epochs are done or its patience is over.

    It is over if the validation loss has not improved for so many updates since the training loss had its final
    weights, and is not on its way down either: the first updates may disturb a network that started at a linear code,
    and so at a good loss.

    Args:
        since: the validation loss after each epoch since it was best and the training loss had its final weights.
    """
    if epoch >= config.number_of_epochs:
        return True
    if config.waits is None or len(since) * updates_per_epoch < config.waits:
        return False
    return not _falls(since[-math.ceil(config.waits / updates_per_epoch) :])


def _falls(values: Sequence[float]) -> bool:
    half = len(values) // 2
    return len(values) > 2 and min(values[:half]) - min(values[half:]) > noise(values)


def noise(values: Sequence[float]) -> float:
    """Returns how far a loss may change from epoch to epoch without a meaning; a steep slope is no noise."""
    return NOISE * median(abs(b - (a + c) / 2) for a, b, c in zip(values, values[1:], values[2:], strict=False))
