"""Defines what Python programs use: `import aemodels` gives the names below, and imports this module on first use."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aemodels.config import SettingsError, UserError
from aemodels.data.prepared import prepare
from aemodels.models.base import ModelConfig
from aemodels.runtime.bars import watched
from aemodels.runtime.devices import best_device
from aemodels.runtime.files import at_path
from aemodels.runtime.progress import Steps
from aemodels.serving.model import Model
from aemodels.settings import Settings
from aemodels.steps.fit import fit as untracked_training
from aemodels.steps.python_arguments import changes_of, check_flags, check_used, settings_of
from aemodels.steps.search import search as untracked_search
from aemodels.steps.searching import check as check_untracked_search
from aemodels.steps.start import fixed
from aemodels.steps.train import Trained
from aemodels.steps.train import check as check_tracked_training
from aemodels.steps.train import train as tracked_training
from aemodels.steps.tune import TrialRow
from aemodels.steps.tune import check as check_tracked_search
from aemodels.steps.tune import tune as tracked_search
from aemodels.tracking.catalog import find
from aemodels.tuning.events import Trial
from aemodels.tuning.space import keeping

__all__ = ["Found", "Model", "Settings", "SettingsError", "Trained", "UserError", "fit", "load", "search", "train"]


def fit(
    images: Any,
    model: str | ModelConfig | None = None,
    *,
    labels: Any = None,
    start_from: Model | str | Path | None = None,
    track: bool = False,
    resume: bool = True,
    **settings: Any,
) -> Model:
    """Trains a model on images.

    The same images and settings give the same model: one that was fitted before is read from the cache, and a fit that
    was interrupted goes on after its last epoch. So does one with more `training__updates` or `training__epochs` than a
    fit before, if nothing else differs and the learning rate is constant.

    Args:
        images: an array or tensor (N, H, W), (N, H, W, C) or (N, C, H, W), uint8 or from 0 to 1; a torch Dataset of
            images or of pairs of an image and a label; or the path of a folder of images, a list of such paths, or the
            path of a `.npy`, `.npz` or `.parquet` file.
        model: the name of the model, such as "ae", "vae" or "cvae", or its settings, such as `VAEConfig(beta=2)`; None
            for that of `start_from`, else "vae".
        start_from: the model whose weights the training starts from: one that was fitted or loaded, a registered one
            ("digits@champion", "digits/3"), or a folder. Where no settings of the model are given, they are its own.
        labels: the class of each image (N,), as numbers or names; for a folder the path of a CSV file of files and
            labels, if class folders do not tell.
        track: records the training in MLflow and registers the model, as `aemodels train` does.
        resume: False trains from the start, and replaces what is kept. A tracked training that is finished is kept;
            the same one again is another version.
        settings: other settings. A plain name is one of the model (`latent_dim=16`); two underscores stand for a dot
            (`training__epochs=5`).

    Raises:
        SettingsError: a setting does not exist, or does not fit.
        UserError: the images cannot be used.

    Example:
        >>> import numpy as np, aemodels
        >>> images = np.random.default_rng(0).random((100, 8, 8))
        >>> model = aemodels.fit(images, "ae", latent_dim=2, training__epochs=1)
        >>> model.encode(images).shape
        (100, 2)
    """
    with at_path():
        check_flags(track=track, resume=resume)
        check_used(changes_of(model, settings), track, search=False)
        chosen = settings_of(images, model, labels, start_from, settings)
        if track:
            check_tracked_training(chosen)
            return watched(_tracked(chosen, resume))
        best_device()  # one that does not work is refused
        return watched(_untracked(chosen, resume))


def load(reference: str | Path) -> Model:
    """Loads a model: a registered one ("digits@champion", "digits/3"), or one from its folder.

    Raises:
        UserError: there is no such model, or it is damaged.
    """
    with at_path():
        return Model.open(find(str(reference)), str(reference))


def train(settings: Settings) -> Trained:
    """Trains, evaluates and registers a model, as `aemodels train` does.

    Raises:
        SettingsError: the model does not fit the images.
        UserError: the images or the MLflow store cannot be used.
    """
    if not isinstance(settings, Settings):
        raise SettingsError(f"settings={settings!r}: give aemodels.Settings(), changed by its `override`")
    with at_path():
        settings = fixed(settings)
        check_tracked_training(settings)
        return watched(_trained(settings))


@dataclass(frozen=True)
class Found:
    """Holds what a search has found."""

    best: dict[str, Any]
    """The settings of the best trial, by their dotted keys."""
    settings: Settings
    """All settings, with those of the best trial."""
    trials: tuple[Mapping[str, Any], ...]
    """The settings of each trial, with its `state` and what was measured of it on the validation images.

    The trials are in the order of the search, tracked or not."""


def search(
    images: Any,
    model: str | ModelConfig | None = None,
    *,
    trials: int | None = None,
    labels: Any = None,
    start_from: Model | str | Path | None = None,
    track: bool = False,
    resume: bool = True,
    **settings: Any,
) -> Found:
    """Searches the settings that make the best model; by default the latent size and the weight of the KL term.

    One of these that is given, such as `latent_dim=4`, stays as it is, unless `tuning__space` names it.

    The same images and settings give the same result: trials that were done before are read from the cache.

    Args:
        images, model, labels, start_from, settings: as for `fit`; every trial starts from the same weights.
        trials: how many models are tried.
        track: records the search in MLflow, as `aemodels tune` does.
        resume: False searches from the start, and replaces what is kept. A tracked search that is finished is kept;
            the same one again is another run. What machines share through OPTUNA_STORAGE cannot begin anew.

    Raises:
        SettingsError: a setting does not exist, or does not fit.
        UserError: the images cannot be used, or every trial failed.
    """
    with at_path():
        check_flags(track=track, resume=resume)
        given = settings | ({} if trials is None else {"tuning__trials": trials})
        by_name = changes_of(model, given)
        check_used(by_name, track, search=True)
        chosen = settings_of(images, model, labels, start_from, given)
        chosen = chosen.model_copy(update={"tuning": keeping(chosen, chosen.tuning, by_name)})
        if track:
            check_tracked_search(chosen, resume)
            return watched(_tracked_search(chosen, resume))
        check_untracked_search(chosen)
        return watched(_untracked_search(chosen, resume))


# ---------------------------------------------------------------- work


def _trained(settings: Settings, resume: bool = True) -> Steps[Trained]:
    data = yield from prepare(settings.data)
    return (yield from tracked_training(settings, data, group="", resume=resume))


def _tracked(settings: Settings, resume: bool) -> Steps[Model]:
    trained = yield from _trained(settings, resume)
    return Model.open(trained.folder, f"{trained.version.name}/{trained.version.version}")


def _untracked(settings: Settings, resume: bool) -> Steps[Model]:
    data = yield from prepare(settings.data)
    return (yield from untracked_training(settings, data, resume))


def _tracked_search(settings: Settings, resume: bool) -> Steps[Found]:
    data = yield from prepare(settings.data)
    tuned = yield from tracked_search(settings, data, group="", resume=resume)
    return _found(settings, tuned.best, tuned.trials)


def _untracked_search(settings: Settings, resume: bool) -> Steps[Found]:
    data = yield from prepare(settings.data)
    result = yield from untracked_search(settings, data, resume)
    return _found(settings, result.best.params, result.trials)


def _found(settings: Settings, best: dict[str, Any], trials: Iterable[Trial | TrialRow]) -> Found:
    ordered = sorted(trials, key=lambda trial: trial.index)
    rows = tuple({**trial.params, "state": trial.state, **trial.metrics} for trial in ordered)
    return Found(best, settings.override(best), rows)
