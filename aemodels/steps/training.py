"""Provides what all trainings need, tracked or not: the model at its start, the state to go on from, and notes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from aemodels.checkpoints.checkpoint import load_state
from aemodels.checkpoints.longer_training import shorter_training
from aemodels.data import PreparedData
from aemodels.evaluation.evaluate import check_likelihood, check_primary
from aemodels.experiment import Experiment
from aemodels.models.base import GenerativeModel
from aemodels.runtime.progress import Progress, Steps
from aemodels.steps.start import starting_weights
from aemodels.training.models import new_model
from aemodels.training.state import Epoch, TrainingState
from aemodels.training.train import first_state


class Untrained(NamedTuple):
    """Holds a model before its first update."""

    model: GenerativeModel
    start: Mapping[str, Tensor] | None = None  # the weights that were given; None where they are drawn


class Beginning(NamedTuple):
    """Holds what the epochs that are left start from."""

    state: TrainingState
    note: str = ""  # says after which epoch it goes on, and why
    shorter: bool = False  # whether a shorter training has left the state


def untrained_model(experiment: Experiment, data: PreparedData) -> Untrained:
    """Returns the model before its first update; what does not fit the images is refused before any work.

    Raises:
        SettingsError: the model, its starting weights or what it is measured by does not fit.
        UserError: the starting weights cannot be read.
    """
    start = starting_weights(experiment, data)
    model = new_model(experiment.model, data, experiment.seed, start, experiment.training.images)
    check_primary(model, data, experiment.evaluation)
    check_likelihood(model, data, experiment.evaluation)
    return Untrained(model, start)


def choices(given: Experiment, experiment: Experiment, data: PreparedData) -> Steps[None]:
    """Tells what was chosen from the images, where the given experiment leaves something open."""
    if chosen := experiment.chosen(given, data):
        yield Progress(experiment.model.name, 1, 1, chosen)


def beginning(folder: Path, experiment: Experiment, data: PreparedData, resume: bool) -> Steps[Beginning]:
    """Finds the state that the folder holds, else that of the same shorter training, else makes the first one.

    Args:
        resume: False leaves the shorter training aside.
    """
    saved, note, shorter = load_state(folder), "", False
    if saved is not None:
        note = f"going on after epoch {saved.epoch} in {folder}"
    elif resume and (saved := shorter_training(experiment, data)) is not None:
        note, shorter = f"going on after epoch {saved.epoch} of the same shorter training", True
    state = yield from first_state(experiment.model, data, experiment.training, experiment.seed, saved)
    return Beginning(state, note, shorter)


def work_of(experiment: Experiment) -> str:
    """Returns what the progress of a training is shown under."""
    return f"training {experiment.model.name}"


def end_of(state: TrainingState, total: int) -> str:
    """Says which weights are kept, and whether a training of so many epochs stopped early."""
    best = f"best epoch {state.best_epoch} of {state.epoch}" if state.best_epoch else "the start stays best"
    return best if state.epoch >= total else f"{best}; stopped early, {total - state.epoch} epochs are left out"


def note_of(epoch: Epoch) -> str:
    """Says in short how an epoch went."""
    selection = epoch.model.selection
    bound = f"val/{selection} {epoch.metrics[f'val/{selection}']:.1f}, " if selection else ""
    return f"{bound}{epoch.metrics['train/images_per_second']:,.0f} images/s"
