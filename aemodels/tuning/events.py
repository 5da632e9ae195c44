"""Defines the events that a search yields: each says what happened to a trial."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from aemodels.config import Space
from aemodels.experiment import Experiment


@dataclass(frozen=True)
class Trial:
    """A trial is one model of a search, as the study has it."""

    index: int  # from 0, in the order of the search; the trial keeps it when it is run again
    params: dict[str, Any]  # dotted key -> value
    state: Literal["waiting", "running", "interrupted", "complete", "pruned", "failed"]
    values: tuple[float, ...] = ()  # values of the objectives, on validation images; empty unless complete
    metrics: dict[str, float] = field(default_factory=dict)  # found by its evaluation on validation images
    curve: dict[int, float] = field(default_factory=dict)  # epoch -> objective, where the search prunes
    seconds: float = 0.0
    error: str = ""  # why it failed

    @property
    def ended(self) -> bool:
        return self.state in ("complete", "pruned", "failed")


class TrialStarted(NamedTuple):
    """A trial begins; the event comes again with the same index when it is run again after an interruption."""

    trial: Trial
    experiment: Experiment
    replayed: bool = False  # whether it ended earlier, or in another process


@dataclass(frozen=True)
class TrialEpoch:
    """A trial passed over its images once."""

    index: int
    epoch: int  # from 1
    metrics: dict[str, float]  # as training has them: train/*, val/*
    value: float | None  # the objective, where the search prunes


class TrialEnded(NamedTuple):
    """A trial is complete, pruned or failed."""

    trial: Trial
    replayed: bool = False


@dataclass(frozen=True)
class TrialLost:
    """Another process has taken a trial over, because this process was silent for too long; it counts there.

    If this event comes after the trial's end, that end does not count.
    """

    index: int


class Waiting(NamedTuple):
    """Other processes run these trials, on which the next generation depends."""

    indices: tuple[int, ...]


Event = TrialStarted | TrialEpoch | TrialEnded | TrialLost | Waiting


class SearchResult(NamedTuple):
    """Holds what a search found."""

    name: str
    space: Space
    objectives: tuple[str, ...]
    directions: tuple[str, ...]  # "minimize" or "maximize", one per objective
    trials: list[Trial]
    front: list[Trial]  # the best trial, or those of the Pareto front by their first objective
    best: Trial  # the trial of the front with the best evaluation.primary
    importances: dict[str, float]  # key -> share of the first objective's variation; empty where few trials tell
