"""Makes the space of a search, which says what settings vary between what values, and checks it without the images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import chain, islice, product
from typing import Any

from aemodels.config import Choice, Range, SettingsError, Space, nested
from aemodels.experiment import Experiment
from aemodels.tuning.config import TuningConfig

CHECKED_COMBINATIONS = 1_000  # combinations of the ends of all ranges that are checked before a search starts


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
    for settings in chain(single_ends(space), combined_ends(space)):
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


def single_ends(space: Space) -> Iterator[dict[str, Any]]:
    """Yields each end of each range, by itself."""
    return ({key: value} for key, varied in space.items() for value in _extremes(varied))


def combined_ends(space: Space) -> Iterator[dict[str, Any]]:
    """Yields combinations of the ends of all ranges, up to a number."""
    combinations = (dict(zip(space, values, strict=True)) for values in product(*map(_extremes, space.values())))
    return islice(combinations, CHECKED_COMBINATIONS)


def _extremes(varied: Range | Choice) -> tuple[Any, ...]:
    return varied.choices if isinstance(varied, Choice) else (varied.low, varied.high)
