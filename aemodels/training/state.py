"""Defines the epoch that a training yields, with the state from which it can go on."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeVar

from torch import Tensor

from aemodels.models.base import GenerativeModel

T = TypeVar("T")


@dataclass
class TrainingState:
    """Holds all that a training needs to go on; checkpoints/checkpoint.py keeps every field.

    Its tensors are live, so write them before the next epoch starts. A new field has a default, so that the states of
    earlier releases can still be read.
    """

    epoch: int
    best: float
    best_epoch: int
    history: list[dict[str, float]]  # an entry per epoch
    tensors: dict[str, Tensor]  # "model.*", "best.*", "optimizer.<part>.*"
    pretraining: list[dict[str, float]] = field(default_factory=list)  # an entry per epoch of each hidden layer

    def section(self, name: str) -> dict[str, Tensor]:
        """Returns the tensors of `model` or `best` by their names there."""
        return {key.removeprefix(f"{name}."): t for key, t in self.tensors.items() if key.startswith(f"{name}.")}


def new_state() -> TrainingState:
    """Returns the state before the first epoch."""
    return TrainingState(epoch=0, best=math.inf, best_epoch=0, history=[], tensors={})


@dataclass(frozen=True)
class Epoch:
    """Holds what training yields; model and state are those of this moment, so ask for them before the next epoch."""

    index: int  # from 1
    metrics: dict[str, float]  # train/*, val/*; nats per image where no unit is in the name
    last: bool  # the training ends with it
    take_model: Callable[[], GenerativeModel]
    take_state: Callable[[], TrainingState]

    @cached_property
    def model(self) -> GenerativeModel:
        """Returns the model with this epoch's weights, in evaluation mode."""
        return self.take_model()

    @cached_property
    def state(self) -> TrainingState:
        """Returns the state from which training can go on."""
        return self.take_state()


def still(value: T, state: TrainingState, epoch: int) -> T:
    """Returns what an epoch holds, as long as the next one has not changed it.

    Raises:
        RuntimeError: the training that the state belongs to has gone on.
    """
    if state.epoch != epoch:
        raise RuntimeError(f"epoch {epoch} is over; take its model and its state before the next one")
    return value


def state_tensors(model: dict[str, Tensor], best: dict[str, Tensor], moments: dict[str, Tensor]) -> dict[str, Tensor]:
    """Joins the tensors of a TrainingState under their names there."""
    sections = {"model": model, "best": best}
    return {f"{section}.{name}": t for section, part in sections.items() for name, t in part.items()} | moments
