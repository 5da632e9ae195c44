"""Trains a model in the cache, untracked.

<cache>/fits/<key of the experiment and the images>/      the files of a model, and `lock`
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from aemodels.checkpoints.checkpoint import save_card, save_state
from aemodels.checkpoints.model_files import CHECKSUMS
from aemodels.checkpoints.result_keys import result_key
from aemodels.checkpoints.run_folder import STATE
from aemodels.checkpoints.training import save_best, saved_epochs
from aemodels.config import UserError
from aemodels.data import PreparedData
from aemodels.experiment import Experiment
from aemodels.runtime.environment import cache_folder
from aemodels.runtime.locks import wait_for
from aemodels.runtime.progress import Progress, Steps
from aemodels.serving.model import Model
from aemodels.settings import Settings
from aemodels.steps.training import Beginning, Untrained, beginning, choices, note_of, untrained_model, work_of
from aemodels.training.state import TrainingState


def fit(settings: Settings, data: PreparedData, resume: bool = True) -> Steps[Model]:
    """Trains a model in the cache, goes on where that was killed, or reads the model that is there.

    Args:
        resume: False trains from the start, and replaces what is there.

    Raises:
        SettingsError: the model does not fit the images.
        TrainingDivergedError: a term of the loss is not finite.
    """
    experiment = settings.experiment.for_data(data)
    untrained = untrained_model(experiment, data)
    yield from choices(settings.experiment, experiment, data)
    folder = cache_folder() / "fits" / result_key(experiment.model_dump(mode="json"), data)
    folder.mkdir(parents=True, exist_ok=True)
    waiting = Progress(work_of(experiment), 0, 1, "waiting for another process that trains the same")
    lock = yield from wait_for(folder / "lock", waiting)
    try:
        if resume and (folder / CHECKSUMS).exists():
            with suppress(UserError):  # a file of the cache was damaged: it is trained again
                return Model.open(folder)
        (folder / CHECKSUMS).unlink(missing_ok=True)
        if not resume:
            (folder / STATE).unlink(missing_ok=True)
        save_card(folder, experiment, data)
        begun = yield from beginning(folder, experiment, data, resume)
        if begun.state.tensors:
            save_state(folder, begun.state)
        state = yield from _epochs(folder, experiment, data, begun, untrained)
        save_best(folder, experiment, data, state)
        (folder / STATE).unlink(missing_ok=True)
        return Model.open(folder)
    finally:
        lock.release()


def _epochs(
    folder: Path, experiment: Experiment, data: PreparedData, begun: Beginning, untrained: Untrained
) -> Steps[TrainingState]:
    state, work, total = begun.state, work_of(experiment), experiment.training.number_of_epochs
    yield Progress(work, state.epoch, total, begun.note)
    for epoch in saved_epochs(folder, experiment, data, state, untrained.start):
        state = epoch.state
        yield Progress(work, epoch.index, total, note_of(epoch))
    return state
