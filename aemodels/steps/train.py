"""Trains a model in one tracked run, evaluates it and registers it as a challenger."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

from pydantic import Field

from aemodels.checkpoints.checkpoint import save_card, save_state
from aemodels.checkpoints.run_folder import STATE, RunFolder, claimed
from aemodels.checkpoints.training import save_best, saved_epochs
from aemodels.data import PreparedData
from aemodels.evaluation.advice import advise
from aemodels.evaluation.evaluate import Evaluation, evaluating
from aemodels.evaluation.evidence import Evidence
from aemodels.evaluation.features import Features, features_of
from aemodels.evaluation.leaving_out import as_tags, make_each
from aemodels.experiment import Experiment
from aemodels.models.base import Autoencoder, GenerativeModel
from aemodels.reports.figures.model import reconstruction_grid, sample_grid
from aemodels.reports.page import Subject
from aemodels.reports.pictures import Picture
from aemodels.runtime import torchrun
from aemodels.runtime.devices import best_device
from aemodels.runtime.progress import Progress, Steps, finish
from aemodels.settings import Settings
from aemodels.steps.recording import (
    FINISHED_BEFORE,
    Result,
    changed_first,
    draw_model,
    headline,
    open_run,
    still_there,
    tracked_errors,
    yardstick,
)
from aemodels.steps.start import fixed, origin, starting_weights
from aemodels.steps.training import Untrained, beginning, choices, end_of, note_of, untrained_model, work_of
from aemodels.tracking.catalog import ModelVersion
from aemodels.tracking.lineage import link_start
from aemodels.tracking.registry import register
from aemodels.tracking.run import Run, now
from aemodels.tracking.store import open_store
from aemodels.training.models import fit_prior
from aemodels.training.state import TrainingState
from aemodels.training.train import first_state
from aemodels.training.train import train as train_epochs
from aemodels.tuning.space import search_space

CARDS = 10  # image cards of a training: enough to watch it, few enough not to slow it


class Trained(Result):
    """Holds what a finished training came to, and where its files and run are."""

    run_id: str
    url: str
    pictures_url: str
    """Links to MLflow's page that shows this model beside the others of the data set."""
    version: ModelVersion
    metrics: dict[str, float]
    """Holds the metrics on the test images, by their tracked names."""
    errors: dict[str, float] = Field(default_factory=dict)
    """Holds their standard errors, as far as they are known, by their tracked names, such as `test/mse_error`."""
    seconds: float
    """Counts the seconds of training, without evaluation and figures."""
    images_per_second: float
    folder: Path
    """Holds config.json, weights.safetensors and the figures."""
    figures: tuple[Path, ...]
    report: Path
    """Names one file for a browser, with metrics, settings and figures."""
    left_out: dict[str, str] = Field(default_factory=dict)
    """Maps each metric and figure that could not be made of these images to the reason."""
    advice: tuple[str, ...] = ()
    """Says in a sentence each what is wrong with the model, and which settings help; it is empty for a good one."""


def check(settings: Settings) -> None:
    """Checks what can be known before the images are looked at.

    Raises:
        SettingsError: the model has no name, or the search space does not fit the experiment.
        UserError: the device does not work, or the MLflow server does not answer.
    """
    settings.require_name()
    check_surroundings(settings)


def check_surroundings(settings: Settings) -> None:
    """Checks what a training needs that registers nothing.

    Raises:
        SettingsError: the search space does not fit the experiment.
        UserError: the device does not work, or the MLflow server does not answer.
    """
    best_device()
    if settings.tuning.space:  # not used here, but a mistake in it is one all the same
        search_space(settings.experiment, settings.tuning)
    open_store()


def train(settings: Settings, data: PreparedData, group: str, asker: str = "", resume: bool = True) -> Steps[Trained]:
    """Trains the experiment, or goes on where it was killed, evaluates it and registers it as a challenger.

    Args:
        group: the id of a flow run or pipeline; a tag that its runs share.
        asker: who asks, if it is not the group. The same asker that asks again, because it was killed before it had the
            result, gets the run that was finished for it.
        resume: False trains from the start, and replaces what a killed training has left.

    Raises:
        SettingsError: the model does not fit the images, or has no name.
        TrainingDivergedError: a term of the loss is not finite.
    """
    with torchrun.joined(best_device()):
        return (yield from _train(settings, data, group, asker or group, resume))


def assist(settings: Settings, data: PreparedData) -> None:
    """Trains along under torchrun, in a process beside the one that writes: it computes its share of every batch."""
    with torchrun.joined(best_device()):
        experiment = torchrun.agreed(settings).experiment  # with the weights that the leading process has fixed
        start = starting_weights(experiment, data)
        if torchrun.agreed(False):  # the process that writes has found the result
            return
        finish(first_state(experiment.model, data, experiment.training, experiment.seed))
        for _ in train_epochs(experiment.model, data, experiment.training, experiment.seed, start=start):
            pass


def _train(settings: Settings, data: PreparedData, group: str, asker: str, resume: bool) -> Steps[Trained]:
    given = fixed(settings)
    settings = torchrun.agreed(given.for_data(data))
    experiment, name = settings.experiment, settings.registered_name
    store = open_store()
    untrained = untrained_model(experiment, data)
    yield from choices(given.experiment, experiment, data)
    features = yield from features_of(data, best_device())
    # under another name it is another run
    with claimed(experiment.identity(f"{name}{data.digest}"), asker, still_there(store), resume) as folder:
        torchrun.agreed(folder.finished)
        if folder.result is not None:
            yield Progress("evaluating", 1, 1, FINISHED_BEFORE)
            return Trained.model_validate(folder.result)
        title = _title(experiment)
        tags = {"kind": "training", "pipeline": group, **_started(experiment)}
        with open_run(store, folder, name, title, experiment.seed, tags) as run:
            learned = yield from learn(experiment, data, features, folder, run, untrained)
            result = yield from _register(settings, data, features, folder.path, run, learned)
        folder.finish(result.model_dump(mode="json"), asker)
    yield Progress("evaluating", 1, 1, f"{name} version {result.version.version}")
    return result


def _started(experiment: Experiment) -> dict[str, str]:
    """Returns the tag that says which weights a training started from, if they were not drawn."""
    return {} if experiment.start_from is None else {"start_from": experiment.start_from}


def _link_start(run: Run, version: ModelVersion, experiment: Experiment) -> None:
    """Links the run and its version with the registered version that the training started from, if it did."""
    if experiment.start_from is not None and (parent := origin(experiment.start_from)).registered:
        link_start(run, version, parent.reference)


class Learned(NamedTuple):
    """Holds how a model was evaluated, and what its training took."""

    evaluation: Evaluation
    metrics: dict[str, float]  # of the test images, by their tracked names
    errors: dict[str, float]  # their standard errors, by their tracked names
    seconds: float  # of training alone
    images: float  # seen in them
    advice: tuple[str, ...]  # what is wrong, in a sentence each


def learn(
    experiment: Experiment,
    data: PreparedData,
    features: Features,
    folder: RunFolder,
    run: Run,
    untrained: Untrained,
) -> Steps[Learned]:
    """Trains and evaluates in a run that is open, or goes on where it was killed; leaves the model in the folder."""
    save_card(folder.path, experiment, data)
    run.params(changed_first(experiment))
    run.dataset(data, experiment.data.title)
    run.tags({"features.hash": features.hash, "features.accuracy": features.accuracy})
    with run.system_metrics():
        state = yield from _epochs(experiment, data, folder, run, untrained)
    yield Progress("evaluating", 0, 1)
    evaluation = yield from _evaluate_best(experiment, data, features, state, folder)
    metrics = {f"test/{metric}": value for metric, value in evaluation.metrics.items()}
    errors = tracked_errors(evaluation)
    run.metrics(metrics | errors, at=folder.time("evaluated"))
    course = experiment.course(data, untrained.model.selection, state.history, state.best_epoch)
    lines = advise(course, evaluation.metrics)
    return Learned(evaluation, metrics, errors, *_effort(state), lines)


def _register(
    settings: Settings, data: PreparedData, features: Features, folder: Path, run: Run, learned: Learned
) -> Steps[Trained]:
    """Draws what was measured of a model, registers it, and writes its report."""
    experiment, name, evaluation = settings.experiment, settings.registered_name, learned.evaluation
    drawn = yield from draw_model(evaluation, experiment.evaluation, learned.advice, folder, run)
    digest = yardstick(settings, data, features)
    told = as_tags(evaluation.left_out) | _started(experiment)
    metrics, title = drawn.key | evaluation.metrics, _title(experiment)
    version = register(run, folder, name, metrics, digest, told, f"{title}: {headline(drawn.key)}")
    _link_start(run, version, experiment)
    run.rename(f"{title}, version {version.version}")
    subject = Subject(f"{name}/{version.version}", "trained", run.id, experiment, data, experiment.training.images)
    report = drawn.report(subject, evaluation, learned.advice, folder, run)
    return Trained(
        run_id=run.id,
        url=run.url,
        pictures_url=run.store.pictures_url(run.experiment_id),
        version=version,
        metrics=learned.metrics,
        errors=learned.errors,
        seconds=learned.seconds,
        images_per_second=learned.images / learned.seconds,
        folder=folder,
        figures=drawn.figures,
        report=report,
        left_out=drawn.left_out,
        advice=learned.advice,
    )


def _title(experiment: Experiment) -> str:
    return f"{experiment.model.name} {experiment.model.latent_dim}"


def _evaluate_best(
    experiment: Experiment, data: PreparedData, features: Features, state: TrainingState, folder: RunFolder
) -> Steps[Evaluation]:
    """Saves and measures the best weights of a training."""
    model = save_best(folder.path, experiment, data, state)
    trained_on, rules = experiment.trained_on(data), experiment.evaluation
    return (yield from evaluating(Evidence(model, data, features, rules, "test", trained_on, state.history)))


def _effort(state: TrainingState) -> tuple[float, float]:
    """Returns the seconds of training and the images seen in them, with those of pre-training."""
    epochs = [*state.pretraining, *state.history]
    seconds = sum(epoch["train/seconds"] for epoch in epochs)
    return seconds, sum(epoch["train/seconds"] * epoch["train/images_per_second"] for epoch in epochs)


def _epochs(
    experiment: Experiment, data: PreparedData, folder: RunFolder, run: Run, untrained: Untrained
) -> Steps[TrainingState]:
    """Trains the epochs that are left; each is on disk before it is tracked, and tracked before the next one."""
    new = not (folder.path / STATE).exists()
    if new:
        _cards(untrained.model, 0, data, run, experiment)  # step 0 is where MLflow's slider stands at first
    state, note, shorter = yield from beginning(folder.path, experiment, data, not folder.anew)
    if shorter:
        run.tags({"went_on_after_epoch": state.epoch})
    if new and state.pretraining:
        at = folder.time("pretrained")
        for step, metrics in enumerate(state.pretraining, 1):
            run.metrics({f"pretraining/{key}": value for key, value in metrics.items()}, step, at)
    if new and state.tensors:  # of a pre-training, or of a shorter training that may be gone tomorrow
        save_state(folder.path, state)
    _track_again(state, folder, run)
    work, total = work_of(experiment), experiment.training.number_of_epochs
    every = math.ceil(total / CARDS)
    yield Progress(work, state.epoch, total, note)
    for epoch in saved_epochs(folder.path, experiment, data, state, untrained.start):
        state = epoch.state
        _track(epoch.metrics, epoch.index, folder, run)
        if epoch.index % every == 0 or epoch.index in (1, total):
            _cards(epoch.model, epoch.index, data, run, experiment)
        yield Progress(work, epoch.index, total, note_of(epoch))
    yield Progress(work, total, total, end_of(state, total))
    return state


def _track(metrics: Mapping[str, float], index: int, folder: RunFolder, run: Run) -> None:
    """Tracks an epoch with a time that is noted on disk before; tracked twice, it is one point and not two."""
    at = now()
    folder.note(tracked=[index, at])
    run.metrics(metrics, index, at)


def _track_again(state: TrainingState, folder: RunFolder, run: Run) -> None:
    """Tracks what a killed attempt has trained and perhaps not tracked, which can only be its last epoch."""
    noted = folder.notes().get("tracked") or 0
    last, at = (noted, None) if isinstance(noted, int) else noted  # before 2026-11-30 the epoch alone was noted
    if at is not None:
        run.metrics(state.history[last - 1], last, at)
    for index in range(last + 1, state.epoch + 1):
        _track(state.history[index - 1], index, folder, run)


def _cards(model: GenerativeModel, step: int, data: PreparedData, run: Run, experiment: Experiment) -> None:
    """Shows image cards of the same images and the same codes in every run, so that runs can be compared."""
    fit_prior(model, data, experiment.seed, experiment.training.images)
    grids: dict[str, Callable[[], Picture]] = {"samples": partial(sample_grid, model)}
    if isinstance(model, Autoencoder):
        grids = {"reconstructions": partial(reconstruction_grid, model, data), **grids}
    cards, left_out = make_each(grids)
    for key, picture in cards.items():
        run.image(key, picture, step)
    run.tags(as_tags({f"card of {key}": reason for key, reason in left_out.items()}))
