"""Keeps the last state of a finished training, from which the same settings with more updates or epochs go on.

    <cache>/states/<key without training.updates and training.epochs>/state.safetensors

Only under a constant learning rate are the first epochs of a longer training those of a shorter one, bit for bit on the
CPU; under other schedules every rate depends on how many updates there are. So no state is kept of those, nor of a
training whose last epoch has fewer updates. A state takes four times the space of the weights, and one is kept for
settings that differ in their length alone. To delete it costs nothing but time.
"""

from __future__ import annotations

from pathlib import Path

from aemodels.checkpoints.checkpoint import load_state, save_state
from aemodels.checkpoints.result_keys import result_key
from aemodels.config import UserError
from aemodels.data.prepared import PreparedData
from aemodels.experiment import Experiment
from aemodels.runtime.environment import cache_folder
from aemodels.training.config import EPOCH, TrainingConfig
from aemodels.training.state import TrainingState


def keep_state(experiment: Experiment, data: PreparedData, state: TrainingState) -> None:
    """Keeps the state after the last epoch, unless a longer training has left one or patience was over."""
    config = experiment.training
    if config.rates != "constant" or state.epoch < config.number_of_epochs or _ends_within_an_epoch(config):
        return
    folder = _folder(experiment, data)
    known = _read(folder)
    if known is None or known.epoch < state.epoch:
        folder.mkdir(parents=True, exist_ok=True)
        save_state(folder, state)


def shorter_training(experiment: Experiment, data: PreparedData) -> TrainingState | None:
    """Returns the last state of a training that was shorter and else had the same settings; None if there is none."""
    if experiment.training.rates != "constant":
        return None
    state = _read(_folder(experiment, data))
    return state if state is not None and state.epoch < experiment.training.number_of_epochs else None


def _ends_within_an_epoch(config: TrainingConfig) -> bool:
    return config.epochs is None and config.budget % EPOCH != 0


def _read(folder: Path) -> TrainingState | None:
    try:
        return load_state(folder)
    except UserError:  # a damaged file of the cache counts as none
        return None


def _folder(experiment: Experiment, data: PreparedData) -> Path:
    length = "updates" if experiment.training.epochs is None else "epochs"
    alike = experiment.override({f"training.{length}": 1})
    return cache_folder() / "states" / result_key(alike.model_dump(mode="json"), data)
