"""Makes and checks the space of a search, which says what settings vary between what values, before any work."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import chain, islice, product
from typing import Any

import torch

from aemodels.config import Choice, Range, SettingsError, Space, nested
from aemodels.data.prepared import PreparedData
from aemodels.evaluation.evaluate import COMING, check_likelihood, check_primary, lacking
from aemodels.evaluation.evidence import Evidence
from aemodels.evaluation.leaving_out import named
from aemodels.experiment import Experiment
from aemodels.runtime.hashes import hash_of
from aemodels.training.models import new_model
from aemodels.tuning.config import TuningConfig

CHECKED_COMBINATIONS = 1_000  # combinations of the ends of all ranges that are checked before a search starts
LENGTHS = {"training.updates", "training.epochs"}  # either sets the length of a training


def search_space(experiment: Experiment, config: TuningConfig) -> Space:
    """Returns the model's own search space together with that of the settings, checked.

    Raises:
        SettingsError: a key does not exist, cannot vary, or a value of it is out of range.
    """
    own = experiment.model.search_space()
    kept = [key for key, varied in config.space.items() if varied is None]
    if unknown := [key for key in kept if key not in own]:
        raise SettingsError(f"tuning.space: {unknown[0]}=null: does not vary by itself; leave it out")
    space: Space = {key: varied for key, varied in {**own, **config.space}.items() if varied is not None}
    if experiment.start_from is not None:
        space = _free(space, experiment, config)
    if not space:
        why = f"nothing varies, as {' and '.join(kept)} is given" if kept else "this model has nothing that varies"
        raise SettingsError(
            f'tuning.space: {why}; name a setting, such as tuning.space={{"training.learning_rate": {{"low": 1e-4, '
            f'"high": 1e-2, "log": true}}}}, {"leave out what is given, " * bool(kept)}or use `aemodels train`'
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


def keeping(experiment: Experiment, config: TuningConfig, given: Mapping[str, Any]) -> TuningConfig:
    """Keeps fixed in a search what a person gave by name of the model's own search space, but not in `tuning.space`.

    Args:
        given: the settings that the person gave, by dotted keys or nested.
    """
    model = nested(given).get("model")
    named = model if isinstance(model, Mapping) else {}
    own = [key for key in experiment.model.search_space() if key.partition(".")[2] in named]
    fixed = {key: None for key in own if key not in config.space}
    return config.model_copy(update={"space": {**fixed, **config.space}}) if fixed else config


def _free(space: Space, experiment: Experiment, config: TuningConfig) -> Space:
    """Leaves out what the weights settle that a search starts from; what was asked for by name is refused."""
    loss = {f"model.{name}" for name in experiment.model.only_in_loss}
    settled = [key for key in space if key.startswith("model.") and key not in loss]
    if asked := [key for key in settled if key in config.space]:
        raise SettingsError(
            f"tuning.space: {asked[0]} cannot vary, as the weights of start_from={experiment.start_from} settle it; "
            "leave one of the two out"
        )
    return {key: varied for key, varied in space.items() if key not in settled}


def _single(space: Space) -> Iterator[dict[str, Any]]:
    """Yields each end of each range, by itself."""
    return ({key: value} for key, varied in space.items() for value in _extremes(varied))


def _extremes(varied: Range | Choice) -> tuple[Any, ...]:
    return varied.choices if isinstance(varied, Choice) else (varied.low, varied.high)


def check_models(experiment: Experiment, data: PreparedData, config: TuningConfig, space: Space) -> None:
    """Builds the models at the ends of each range; it takes a moment.

    Raises:
        SettingsError: one does not fit the images, or lacks what an objective needs.
    """
    for settings in _single(space):
        try:
            with torch.device("meta"):
                whole_experiment(experiment, settings, data).model.build(data.image_shape, data.num_classes)
        except SettingsError as error:
            raise SettingsError(*(f"tuning.space: {line}" for line in error.args)) from None
        except RuntimeError as error:  # a tensor of more numbers than can be counted
            told = ", ".join(f"{key}={value}" for key, value in settings.items())
            raise SettingsError(f"tuning.space: {told}: no such network can be built ({error})") from None
    own = experiment.for_data(data)
    model = new_model(own.model, data, own.seed, images=own.training.images)
    check_primary(model, data, experiment.evaluation)
    check_likelihood(model, data, experiment.evaluation)  # for the training that follows the search
    evidence = Evidence(model, data, None, experiment.evaluation, "val")
    for metric in config.pareto or ():
        if missing := " and ".join(named(need, evidence) for need in lacking(metric, evidence, COMING)):
            raise SettingsError(
                f"tuning.pareto: {metric} needs {missing}, which this model, these data or these settings do not have"
            )


def whole_experiment(given: Experiment, params: Mapping[str, Any], data: PreparedData) -> Experiment:
    """Returns the experiment of the training that follows a search, with a trial's parameters."""
    return given.override(params).for_data(data)


def trial_experiment(
    given: Experiment, config: TuningConfig, params: Mapping[str, Any], data: PreparedData
) -> Experiment:
    """Returns the experiment of a trial: that of the training with its parameters, only shorter and on fewer images.

    All trials share the seed, so that they differ by their parameters alone.

    Args:
        given: the experiment before anything in it is chosen from the images; what is chosen may follow from `params`.
    """
    whole = whole_experiment(given, params, data)
    images = filter(None, (whole.training.images, config.images))
    limits = {**config.trial_length(whole.training), "training.images": min(images, default=None)}
    varied = params.keys() | (LENGTHS if params.keys() & LENGTHS else set())
    return whole.override({key: value for key, value in limits.items() if key not in varied})


def search_identity(experiment: Experiment, config: TuningConfig, digest: str) -> str:
    """Returns the name of a search's study and folder: a hash of all settings and of the prepared data."""
    settings = [each.model_dump(mode="json") for each in (experiment, config)]
    return f"search-{hash_of([settings, digest])[:12]}"
