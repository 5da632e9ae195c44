"""Defines what Python programs use: `import aemodels` gives the names below, and imports this module on first use."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aemodels.checkpoints.checkpoint import STATE, load_state, save_card
from aemodels.checkpoints.going_on import shorter_training
from aemodels.checkpoints.model_files import CHECKSUMS
from aemodels.checkpoints.result_keys import result_key
from aemodels.checkpoints.training import save_best, saved_epochs
from aemodels.config import SettingsError, UserError
from aemodels.data import PreparedData
from aemodels.data.prepared import prepare
from aemodels.evaluation.evaluate import check_likelihood, check_primary
from aemodels.evaluation.features import Features, feature_network
from aemodels.experiment import Experiment
from aemodels.models.base import ModelConfig
from aemodels.runtime.bars import watched
from aemodels.runtime.devices import best_device
from aemodels.runtime.environment import cache_folder
from aemodels.runtime.files import at_path
from aemodels.runtime.locks import wait_for
from aemodels.runtime.progress import Driven, Progress, Steps
from aemodels.serving.model import Model
from aemodels.settings import Settings
from aemodels.steps.given import changes_of, check_flags, check_used, settings_of
from aemodels.steps.start import starting_weights
from aemodels.steps.train import Trained
from aemodels.steps.train import train as tracked_training
from aemodels.steps.tune import tune as tracked_search
from aemodels.tracking.catalog import find
from aemodels.training.models import new_model
from aemodels.tuning.events import SearchResult, TrialEnded
from aemodels.tuning.search import search as events_of
from aemodels.tuning.space import keeping
from aemodels.tuning.study import Study, forget_study, open_study

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
            images or of pairs of an image and a label; or the path of a folder of images, or of a `.npy`, `.npz` or
            `.parquet` file.
        model: the name of the model, such as "ae", "vae" or "cvae", or its settings, such as `VAEConfig(beta=2)`; None
            for that of `start_from`, else "vae".
        start_from: the model whose weights the training starts from: one that was fitted or loaded, a registered one
            ("digits@champion", "digits/3"), or a folder. Where no settings of the model are given, they are its own.
        labels: the class of each image (N,), as numbers or names; for a folder the path of a CSV file of files and
            labels, if class folders do not tell.
        track: records the training in MLflow and registers the model, as `aemodels train` does.
        resume: False begins anew. A tracked training goes on where the same one was killed, and else begins anew.
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
        check_used(changes_of(model, settings), track)
        chosen = settings_of(images, model, labels, start_from, settings)
        return watched(_tracked(chosen) if track else _untracked(chosen.experiment, resume))


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
        return watched(_trained(settings))


@dataclass(frozen=True)
class Found:
    """Holds what a search has found."""

    best: dict[str, Any]
    """The settings of the best trial, by their dotted keys."""
    settings: Settings
    """All settings, with those of the best trial."""
    trials: tuple[Mapping[str, Any], ...]
    """The settings of each trial, with its `state` and what was measured of it on the validation images."""


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
        resume: False begins anew. A tracked search goes on where the same one was killed, and else begins anew.

    Raises:
        SettingsError: a setting does not exist, or does not fit.
        UserError: the images cannot be used, or every trial failed.
    """
    with at_path():
        check_flags(track=track, resume=resume)
        given = settings | ({} if trials is None else {"tuning__trials": trials})
        chosen = settings_of(images, model, labels, start_from, given)
        by_name = changes_of(model, given)
        chosen = chosen.model_copy(update={"tuning": keeping(chosen, chosen.tuning, by_name)})
        best, tried = watched(_tracked_search(chosen) if track else _untracked_search(chosen, resume))
    return Found(best, chosen.override(best), tried)


# ---------------------------------------------------------------- work


def _trained(settings: Settings) -> Steps[Trained]:
    data = yield from prepare(settings.data)
    return (yield from tracked_training(settings, data, group=""))


def _tracked(settings: Settings) -> Steps[Model]:
    trained = yield from _trained(settings)
    return Model.open(trained.folder, f"{trained.version.name}/{trained.version.version}")


def _untracked(experiment: Experiment, resume: bool) -> Steps[Model]:
    data = yield from prepare(experiment.data)
    experiment = experiment.for_data(data)
    untrained = new_model(experiment.model, data, experiment.seed)
    check_primary(untrained, data, experiment.evaluation)
    check_likelihood(untrained, data, experiment.evaluation)
    folder = cache_folder() / "fits" / result_key(experiment.model_dump(mode="json"), data)
    folder.mkdir(parents=True, exist_ok=True)
    work = f"training {experiment.model.name}"
    lock = yield from wait_for(
        folder / "lock", Progress(work, 0, 1, "waiting for another process that trains the same")
    )
    try:
        if resume and (folder / CHECKSUMS).exists():
            with suppress(UserError):  # a file of the cache was damaged: it is trained again
                return Model.open(folder)
        yield from _train_in(folder, experiment, data, work, resume)
        return Model.open(folder)
    finally:
        lock.release()


def _train_in(folder: Path, experiment: Experiment, data: PreparedData, work: str, resume: bool) -> Steps[None]:
    epochs = experiment.training.number_of_epochs
    (folder / CHECKSUMS).unlink(missing_ok=True)
    save_card(folder, experiment, data)
    state = (load_state(folder) or shorter_training(experiment, data)) if resume else None
    start = starting_weights(experiment, data)
    yield Progress(work, 0 if state is None else state.epoch, epochs)
    for epoch in saved_epochs(folder, experiment, data, state, start):
        state = epoch.state
        yield Progress(work, epoch.index, epochs)
    assert state is not None  # there is at least one epoch
    save_best(folder, experiment, data, state)
    (folder / STATE).unlink(missing_ok=True)


Searched = tuple[dict[str, Any], tuple[Mapping[str, Any], ...]]  # the best settings, and all trials


def _tracked_search(settings: Settings) -> Steps[Searched]:
    data = yield from prepare(settings.data)
    tuned = yield from tracked_search(settings, data, group="")
    return tuned.best, tuple({**trial.params, "state": trial.state, **trial.values} for trial in tuned.trials)


def _untracked_search(settings: Settings, resume: bool) -> Steps[Searched]:
    data = yield from prepare(settings.data)
    experiment, config = settings.experiment.for_data(data), settings.tuning
    features = yield from feature_network(data, best_device())
    folder = cache_folder() / "searches"
    folder.mkdir(parents=True, exist_ok=True)
    identity = result_key([experiment.model_dump(mode="json"), config.model_dump(mode="json")], data)
    waiting = Progress("searching", 0, config.trials, "waiting for another process that searches the same")
    lock = yield from wait_for(folder / f"{identity}.lock", waiting)
    try:
        if not resume:
            forget_study(identity, folder)
        study = open_study(identity, experiment, config, folder)
        try:
            result = yield from _followed(experiment, data, features, study)
        finally:
            study.close()
    finally:
        lock.release()
    return result.best.params, tuple({**t.params, "state": t.state, **t.metrics} for t in result.trials)


def _followed(experiment: Experiment, data: PreparedData, features: Features, study: Study) -> Steps[SearchResult]:
    """Runs the trials that are left, and tells how many have ended."""
    ended, start = 0, starting_weights(experiment, data)
    with study, Driven(events_of(experiment, data, features, study, start)) as driven:
        for event in driven:
            ended += isinstance(event, TrialEnded)
            yield Progress("searching", ended, study.config.trials)
    return driven.result
