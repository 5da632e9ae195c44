"""Defines the task of a search: the experiment, what varies in it, and the images; it makes the trials' experiments."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from aemodels.config import SettingsError, Space, as_written
from aemodels.data.prepared import PreparedData
from aemodels.evaluation.evaluate import COMING, check_likelihood, check_primary, lacking
from aemodels.evaluation.evidence import Evidence
from aemodels.evaluation.features import features_hash
from aemodels.evaluation.leaving_out import named
from aemodels.experiment import Experiment
from aemodels.runtime.hashes import hash_of
from aemodels.training.models import new_model
from aemodels.tuning.config import TuningConfig
from aemodels.tuning.space import combined_ends, search_space, single_ends

LENGTHS = {"training.updates", "training.epochs"}  # either sets the length of a training
# Settings that decide whether a trial ends in its warm-up.
WARM_UP_KEYS = LENGTHS | {"training.batch_size", "training.images", "training.warmup_steps"}


@dataclass(frozen=True)
class Task:
    """Holds all that a search depends on."""

    given: Experiment  # before anything in it is chosen from the images; what is chosen may follow from what varies
    config: TuningConfig
    data: PreparedData

    @cached_property
    def space(self) -> Space:
        """Returns what varies, checked.

        Raises:
            SettingsError: it does not fit the experiment.
        """
        return search_space(self.given, self.config)

    def whole(self, params: Mapping[str, Any]) -> Experiment:
        """Returns the experiment of the training that follows a search, with a trial's parameters."""
        return self.given.override(params).for_data(self.data)

    def trial(self, params: Mapping[str, Any]) -> Experiment:
        """Returns the experiment of a trial: the training with its parameters, only shorter and on fewer images.

        All trials share the seed, so that they differ by their parameters alone. A warm-up that was not given is the
        same share of a trial as of the training: a trial that ends in it tells nothing about learning rates.
        """
        whole = self.whole(params)
        images = filter(None, (whole.training.images, self.config.images))
        limits = {**self.config.trial_length(whole.training), "training.images": min(images, default=None)}
        varied = params.keys() | (LENGTHS if params.keys() & LENGTHS else set())
        trial = whole.override({key: value for key, value in limits.items() if key not in varied})
        if self._warm_up_given(params):
            return trial
        warm_up = math.ceil(whole.training.warm_up * self._updates(trial) / self._updates(whole))
        return trial.override({"training.warmup_steps": warm_up})

    def ends_in_warm_up(self, params: Mapping[str, Any]) -> bool:
        """Tells whether a warm-up that was given lasts as long as the trial, which is shorter than the training."""
        trial = self.trial(params)
        shortened = self._updates(trial) < self._updates(self.whole(params))
        return self._warm_up_given(params) and shortened and trial.training.warm_up >= self._updates(trial)

    def _warm_up_given(self, params: Mapping[str, Any]) -> bool:
        return self.given.override(params).training.warmup_steps is not None

    def _updates(self, experiment: Experiment) -> int:
        return experiment.training.all_updates(experiment.seen(self.data))

    def identity(self, name: str) -> str:
        """Returns the name of the study and the folder of a search that is recorded under the name of a model.

        What is chosen from the images is part of it, and the features in which the trials are measured.
        """
        settings = [each.model_dump(mode="json") for each in (self.given, self.config)]
        chosen = self.given.for_data(self.data).identity(self.data.digest)
        return f"search-{hash_of([settings, name, chosen, features_hash(self.data)])[:12]}"


def check_models(task: Task) -> None:
    """Builds the models at the ends of each range; it takes a moment.

    Raises:
        SettingsError: one does not fit the images, lacks what an objective needs, or would end within its warm-up.
    """
    data = task.data
    _check_warm_up(task)
    for settings in single_ends(task.space):
        try:
            with torch.device("meta"):
                task.whole(settings).model.build(data.image_shape, data.num_classes)
        except SettingsError as error:
            raise SettingsError(*(f"tuning.space: {line}" for line in error.args)) from None
        except RuntimeError as error:  # a tensor of more numbers than can be counted
            told = ", ".join(f"{key}={value}" for key, value in settings.items())
            raise SettingsError(f"tuning.space: {told}: no such network can be built ({error})") from None
    own = task.whole({})
    model = new_model(own.model, data, own.seed, images=own.training.images)
    check_primary(model, data, own.evaluation)
    check_likelihood(model, data, own.evaluation)  # for the training that follows the search
    evidence = Evidence(model, data, None, own.evaluation, "val")
    for metric in task.config.pareto or ():
        if missing := " and ".join(named(need, evidence) for need in lacking(metric, evidence, COMING)):
            raise SettingsError(
                f"tuning.pareto: {metric} needs {missing}, which this model, these data or these settings do not have"
            )


def _check_warm_up(task: Task) -> None:
    """Refuses a warm-up in which trials end: they tell nothing of what is searched at the whole learning rate."""
    for settings in combined_ends({key: varied for key, varied in task.space.items() if key in WARM_UP_KEYS}):
        if task.ends_in_warm_up(settings):
            warm_up = task.trial(settings).training.warm_up
            others = {key: value for key, value in settings.items() if key != "training.warmup_steps"}
            told = ", ".join(f"{key}={as_written(value)}" for key, value in others.items())
            raise SettingsError(
                f"training.warmup_steps={warm_up}: {f'with {told}, ' * bool(told)}no trial would get out of "
                "this warm-up; give a shorter one, or null, or longer trials by tuning.updates or tuning.epochs"
            )
