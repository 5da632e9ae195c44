"""Defines the settings of a search."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import Field, ValidationError, field_validator

from aemodels.config import Choice, Range, demand
from aemodels.evaluation.evaluate import direction
from aemodels.training.config import LengthConfig, TrainingConfig

# The size of a generation where none is given, so that there are enough rounds for the sampler to learn from.
SMALLEST_GENERATION, GENERATIONS = 4, 4

# The ways to write what a search varies.
SHAPES = '{"low": NUMBER, "high": NUMBER, "log": true or false} or {"choices": [...]}'


# The length of a trial where none is given: most epochs, or a share of the updates.
TRIAL_EPOCHS, TRIAL_SHARE = 10, 0.25


class TuningConfig(LengthConfig):
    """Holds what a search varies, and how long it may take."""

    trials: int = Field(12, ge=1)
    """Sets how many models the search trains; the pipeline then trains the best of them in full.

    The first has the experiment's own settings, if they lie in the space. No two have the same settings: a space that
    holds fewer ends the search."""
    generation: int | None = Field(None, ge=1)
    """Sets how many trials are chosen and trained together, from the results of those before them.

    So many cores, stacked models or machines find work at a time. null takes a quarter of all trials, at least 4."""
    updates: int | None = Field(None, ge=1)
    """Sets the length of a trial, in updates, at most training.updates; null takes a quarter of those."""
    epochs: int | None = Field(None, ge=1)
    """Sets the length of a trial in another way: as passes over its images, at most training.epochs.

    null takes 10 where the length of the training is given in epochs."""
    images: int | None = Field(10_000, ge=1)
    """Sets the training images of a trial, at most training.images; null takes training.images."""
    space: dict[str, Range | Choice | None] = Field(default_factory=dict)
    """Names what varies beside the model's own search space, or in other ranges than there.

    An example is {"training.learning_rate": {"low": 1e-4, "high": 1e-2, "log": true}, "model.beta": {"choices": [1,
    4]}, "model.trunk.widths": {"choices": [[128], [256, 128]]}}. A range whose ends are both whole numbers holds whole
    numbers only. A choice may be any value that the setting takes: a number, a text, true or false, null, a list, or a
    section such as {"name": "conv"}. null instead of a range keeps a setting of the model's own space as it is; so
    does giving it to a command, as in model.latent_dim=4."""
    pareto: tuple[str, str] | None = None
    """Names two metrics, such as ["mse", "frechet_samples"], to search for their Pareto front.

    null searches by evaluation.primary."""
    prune: bool = True
    """Stops a trial that does worse than half of the earlier trials did at its age; never done for a Pareto front."""
    prune_after: float = Field(0.4, gt=0, le=1)
    """Sets the share of its length that every trial gets: before that, the order of the trials says little."""

    @property
    def generation_size(self) -> int:
        """Returns the number of trials of a full generation, which is the same on every machine.

        Otherwise a search that goes on elsewhere, or that machines of other sizes join, would come to other trials.
        """
        chosen = self.generation or max(SMALLEST_GENERATION, math.ceil(self.trials / GENERATIONS))
        return min(chosen, self.trials)

    def trial_length(self, training: TrainingConfig) -> dict[str, int]:
        """Returns the setting of a trial's length, for a search before a training of that length."""
        if self.updates is not None:
            return {"training.updates": min(self.updates, training.updates or self.updates)}
        if self.epochs is not None:
            return {"training.epochs": min(self.epochs, training.epochs or self.epochs)}
        if training.epochs is not None:
            return {"training.epochs": min(TRIAL_EPOCHS, training.epochs)}
        return {"training.updates": math.ceil(TRIAL_SHARE * training.budget)}

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
            raise ValueError(f'{space!r}: give {{KEY: {SHAPES}}}, with keys such as "model.latent_dim"')
        return {key: _varied(key, leaf) for key, leaf in _leaves(space)}


def _leaves(space: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields dotted key -> range or choices, of keys that are dotted or nested."""
    for key, value in space.items():
        if isinstance(value, Mapping) and not value.keys() & {"low", "high", "log", "choices"}:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _varied(key: str, values: Any) -> Range | Choice | None:
    if values is None or isinstance(values, Range | Choice):
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
