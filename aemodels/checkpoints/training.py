"""Trains in a folder: saves the state of each epoch before it yields the epoch, and at the end the best model."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from torch import Tensor

from aemodels.checkpoints.checkpoint import save_state, save_weights
from aemodels.checkpoints.longer_training import keep_state
from aemodels.checkpoints.model_files import HISTORY, KEPT
from aemodels.config import UserError
from aemodels.data import PreparedData
from aemodels.experiment import Experiment
from aemodels.models.base import GenerativeModel
from aemodels.runtime.files import write_whole
from aemodels.runtime.memory import memory_in_words
from aemodels.training.models import best_model, training_codes
from aemodels.training.state import Epoch, TrainingState
from aemodels.training.train import train


def saved_epochs(
    folder: Path,
    experiment: Experiment,
    data: PreparedData,
    state: TrainingState | None,
    start: Mapping[str, Tensor] | None = None,
) -> Iterator[Epoch]:
    """Trains the epochs that are left after a state, or all; each is saved in the folder before it is yielded.

    Args:
        start: the weights that the training starts from, as for `aemodels.training.train.train`.

    Raises:
        SettingsError: the model does not fit the images.
        TrainingDivergedError: a term of the loss became NaN or infinite.
        UserError: memory ran out.
    """
    with memory_in_words():
        for epoch in train(experiment.model, data, experiment.training, experiment.seed, resume=state, start=start):
            save_state(folder, epoch.state)
            yield epoch


def save_best(folder: Path, experiment: Experiment, data: PreparedData, state: TrainingState) -> GenerativeModel:
    """Saves and returns the model with the best weights of a training, which is finished by that.

    The state is kept in the cache, for the same training with more epochs, if there is room.
    """
    config, seed = experiment.training, experiment.seed
    model = best_model(experiment.model, data, config, seed, state)
    history = [{**epoch, KEPT: float(i == state.best_epoch)} for i, epoch in enumerate(state.history, 1)]
    write_whole(folder / HISTORY, lambda path: path.write_text(json.dumps(history)))
    save_weights(folder, model, training_codes(model, data, config, seed))
    with suppress(UserError, OSError):
        keep_state(experiment, data, state)
    return model
