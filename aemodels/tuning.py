"""What a search varies and tells: its settings, trials, events and result; tuning_search.py runs it."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain, islice, product
from typing import Any, Literal, NamedTuple

import torch
from pydantic import Field, ValidationError, field_validator

from aemodels.config import Choice, Config, Range, SettingsError, Space, demand
from aemodels.data.prepared import PreparedData
from aemodels.evaluation import COMING, check_likelihood, check_primary, direction, lacking
from aemodels.experiment import Experiment
from aemodels.leaving_out import named
from aemodels.training import new_model

SHAPES = '{"low": NUMBER, "high": NUMBER, "log": true or false} or {"choices": [...]}'  # of what a search varies
CHECKED_COMBINATIONS = 1_000  # of the ends of all ranges, before a search starts
SMALLEST_GENERATION, GENERATIONS = 4, 4  # where no size is given: rounds enough for the sampler to learn from


class TuningConfig(Config):
    """What a search varies, and how long it may take."""

    trials: int = Field(12, ge=1)
    """Models that the search trains; the pipeline then trains the best of them in full. The first has the experiment's
    own settings, if they lie in the space. No two have the same settings: a space that holds fewer ends the search."""
    generation: int | None = Field(None, ge=1)
    """Trials that are chosen and trained together, from the results of those before them: as many cores, stacked models
    or machines find work at a time. null: a quarter of all, at least 4."""
    epochs: int | None = Field(10, ge=1)
    """Passes of a trial over its images, at most training.epochs; null takes training.epochs."""
    images: int | None = Field(10_000, ge=1)
    """Training images of a trial, at most training.images; null takes training.images."""
    space: dict[str, Range | Choice] = Field(default_factory=dict)
    """What varies beside, or in other ranges than, the model's own search space: {"training.learning_rate": {"low":
    1e-4, "high": 1e-2, "log": true}, "model.beta": {"choices": [1, 4]}, "model.trunk.widths": {"choices": [[128],
    [256, 128]]}}. A range whose ends are both whole numbers holds whole numbers only; a choice may be any value that
    the setting takes: a number, a text, true or false, null, a list, or a section such as {"name": "conv"}."""
    pareto: tuple[str, str] | None = None
    """Search by two metrics, such as ["mse", "frechet_samples"], for their Pareto front; null: evaluation.primary."""
    prune: bool = True
    """Stop a trial that does worse than half of the earlier trials did at its age; never done for a Pareto front."""
    prune_after: float = Field(0.4, gt=0, le=1)
    """Share of its epochs that every trial gets: before, the order of the trials says little."""

    @property
    def generation_size(self) -> int:
        """Trials of a full generation. The same on every machine: else a search that goes on elsewhere, or that
        machines of other sizes join, would come to other trials.
        """
        chosen = self.generation or max(SMALLEST_GENERATION, math.ceil(self.trials / GENERATIONS))
        return min(chosen, self.trials)

    @field_validator("pareto")
    @classmethod
    def _two_goals(cls, metrics: tuple[str, str] | None) -> tuple[str, str] | None:
        for metric in metrics or ():
            direction(metric)
        if metrics is not None and metrics[0] == metrics[1]:
            raise ValueError("the two metrics are the same; leave tuning.pareto out to search by one")
        return metrics

    @field_validator("space", mode="before")
    @classmethod
    def _dotted(cls, space: Any) -> Any:
        if not isinstance(space, Mapping):
            raise ValueError(
                f"{space!r}: give {{KEY: {SHAPES}}}, such as {{'model.latent_dim': {{'low': 2, 'high': 32}}}}"
            )
        return {key: _varied(key, leaf) for key, leaf in _leaves(space)}


def _leaves(space: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted key -> range or choices, of keys that are dotted or nested."""
    for key, value in space.items():
        if isinstance(value, Mapping) and not value.keys() & {"low", "high", "log", "choices"}:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _varied(key: str, values: Any) -> Range | Choice:
    if isinstance(values, Range | Choice):
        return values
    if not isinstance(values, Mapping):
        raise ValueError(f"{key}={values}: give {SHAPES}")
    try:
        return (Choice if "choices" in values else Range).model_validate(values)
    except ValidationError as error:
        wrong = error.errors()[0]
        place = ".".join(map(str, [key, *wrong["loc"][:1]]))
        if wrong["type"] == "extra_forbidden":
            raise ValueError(f"{place}: unknown; give {SHAPES}") from None
        raise ValueError(f"{place}: {demand(wrong)}") from None


# ---------------------------------------------------------------- trials and events


@dataclass(frozen=True)
class Trial:
    """One model of a search, as the study has it."""

    index: int  # from 0, in the order of the search; it keeps it when it is run again
    params: dict[str, Any]  # dotted key -> value
    state: Literal["waiting", "running", "interrupted", "complete", "pruned", "failed"]
    values: tuple[float, ...] = ()  # of the objectives, on validation images; empty unless complete
    metrics: dict[str, float] = field(default_factory=dict)  # of its evaluation on validation images
    curve: dict[int, float] = field(default_factory=dict)  # epoch -> objective, where the search prunes
    seconds: float = 0.0
    error: str = ""  # why it failed

    @property
    def ended(self) -> bool:
        return self.state in ("complete", "pruned", "failed")


class TrialStarted(NamedTuple):
    """A trial begins; told again with the same index when it is run again after an interruption."""

    trial: Trial
    experiment: Experiment
    replayed: bool = False  # it ended in an earlier process, or in another worker


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
    """Another worker has taken a trial over, because this process was silent for too long; it counts there. Where it
    comes after the trial's end, that end does not count.
    """

    index: int


class Waiting(NamedTuple):
    """Other workers run these trials; the next generation depends on them."""

    indices: tuple[int, ...]


Event = TrialStarted | TrialEpoch | TrialEnded | TrialLost | Waiting


class SearchResult(NamedTuple):
    """What a search found."""

    name: str
    space: Space
    objectives: tuple[str, ...]
    directions: tuple[str, ...]  # "minimize" or "maximize", one per objective
    trials: list[Trial]
    front: list[Trial]  # the best trial, or those of the Pareto front by their first objective
    best: Trial  # of the front, the one with the best evaluation.primary
    importances: dict[str, float]  # key -> share of the first objective's variation; empty where few trials tell


# ---------------------------------------------------------------- what varies


def search_space(experiment: Experiment, config: TuningConfig) -> Space:
    """The model's own search space and that of the settings, checked.

    Raises:
        SettingsError: a key does not exist, cannot vary, or a value of it is out of range.
    """
    space = {**experiment.model.search_space(), **config.space}
    if not space:
        raise SettingsError(
            'tuning.space: this model has nothing that varies; name something, such as tuning.space={"training.'
            'learning_rate": {"low": 1e-4, "high": 1e-2, "log": true}}, or use `aemodels train`'
        )
    for key in space:
        if not key.startswith(("model.", "training.")):
            raise SettingsError(f"tuning.space: {key} cannot vary within a search; only model.* and training.* can")
    combinations = (dict(zip(space, values, strict=True)) for values in product(*map(_extremes, space.values())))
    for settings in chain(_single(space), islice(combinations, CHECKED_COMBINATIONS)):
        try:
            experiment.override(settings)
        except SettingsError as error:
            raise SettingsError(*(f"tuning.space: {line}" for line in error.args)) from None
    return space


def _single(space: Space) -> Iterator[dict[str, Any]]:
    """Each end of each range, by itself."""
    return ({key: value} for key, varied in space.items() for value in _extremes(varied))


def _extremes(varied: Range | Choice) -> tuple[Any, ...]:
    return varied.choices if isinstance(varied, Choice) else (varied.low, varied.high)


def check_models(experiment: Experiment, data: PreparedData, config: TuningConfig, space: Space) -> None:
    """Builds the models at the ends of each range; takes a moment.

    Raises:
        SettingsError: one does not fit the images, or has not what an objective needs.
    """
    for settings in _single(space):
        try:
            with torch.device("meta"):
                experiment.override(settings).model.build(data.image_shape, data.num_classes)
        except SettingsError as error:
            raise SettingsError(*(f"tuning.space: {line}" for line in error.args)) from None
    model = new_model(experiment.model, data, experiment.seed)
    check_primary(model, data, experiment.evaluation)
    check_likelihood(model, data, experiment.evaluation)  # of the training that follows
    evidence = experiment.evaluation.evidence(model, data, None, "val")
    for metric in config.pareto or ():
        if missing := " and ".join(named(need, evidence) for need in lacking(metric, evidence, COMING)):
            raise SettingsError(
                f"tuning.pareto: {metric} needs {missing}, which this model, these data or these settings do not have"
            )


def trial_experiment(experiment: Experiment, config: TuningConfig, params: Mapping[str, Any]) -> Experiment:
    """The experiment of a trial. All trials share the seed, so that they differ by their parameters alone."""
    epochs = filter(None, (experiment.training.epochs, config.epochs))
    images = filter(None, (experiment.training.images, config.images))
    limits = {"training.epochs": min(epochs), "training.images": min(images, default=None)}
    return experiment.override({**limits, **params})


def search_identity(experiment: Experiment, config: TuningConfig, digest: str) -> str:
    """What names a search's study and folder: a hash of all settings and of the prepared data."""
    text = f"{experiment.model_dump_json()}{config.model_dump_json()}{digest}"
    return f"search-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
