"""Trains a model from its first epoch to its last, or from a state in between: a generator of epochs.

B batch. All randomness of epoch e is a function of (seed, e): a resumed training equals an uninterrupted one bit for
bit on the CPU, whatever its caller does between two epochs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing
from functools import partial

from torch import Tensor

from aemodels.config import SettingsError
from aemodels.data.prepared import PreparedData
from aemodels.models.base import Autoencoder, GenerativeModel, ModelConfig
from aemodels.runtime import torchrun
from aemodels.runtime.progress import Steps, finish
from aemodels.training.config import TrainingConfig
from aemodels.training.loop import Loop, refuse_non_finite
from aemodels.training.models import new_model
from aemodels.training.pretraining import check_layers, pretrain
from aemodels.training.state import Epoch, TrainingState, new_state, state_tensors, still


def train(
    model_config: ModelConfig,
    data: PreparedData,
    config: TrainingConfig,
    seed: int,
    resume: TrainingState | None = None,
    start: Mapping[str, Tensor] | None = None,
) -> Iterator[Epoch]:
    """Trains a model; `best_model` of the last epoch is the result.

    The weights before the first update count too, so that a training never ends worse than it started on the validation
    images.

    Args:
        resume: the state after an earlier epoch of the same training.
        start: the weights before the first update, by their names; those that belong to the seed, if none are given.

    Raises:
        SettingsError: the model does not fit the images.
        TrainingDivergedError: a term of the loss became NaN or infinite.
    """
    state = finish(first_state(model_config, data, config, seed, resume))
    model = new_model(model_config, data, seed, start, config.images)
    loop = Loop(model, data, config, seed)
    best = state.section("best")
    if state.tensors:
        model.load_state_dict(state.section("model"))
    if state.epoch:
        loop.updates.load_moments(state.tensors)
    else:
        (state.best,), best = loop.before(), _copied(model)
    with closing(loop):
        while not loop.ended(state):
            index = state.epoch + 1
            (metrics,) = loop.epoch(index)
            state.epoch = index  # from here on the epoch before is over, also if this one is refused
            refuse_non_finite(metrics, index, config)
            if (value := loop.selected(metrics, index)) < state.best:
                state.best, state.best_epoch = value, index
                best = _copied(model)
            state.history.append(metrics)
            state.tensors = state_tensors(model.state_dict(), best, loop.updates.moments())
            last = loop.ended(state)
            yield Epoch(index, metrics, last, partial(still, model, state, index), partial(still, state, state, index))


def _copied(model: GenerativeModel) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def check_model(model: ModelConfig, config: TrainingConfig) -> None:
    """Checks that a model can be trained in this way.

    Raises:
        SettingsError: its layers cannot be pre-trained, or it has no encoder to show corrupted images to.
    """
    check_layers(model, config.pretraining_epochs)
    if config.corruption.name != "none" and not model.has_encoder:
        raise SettingsError(
            f"training.corruption.name={config.corruption.name}: only an encoder is shown corrupted images, and "
            f"{getattr(model, 'name', 'this model')} has none; use training.corruption=none, or a model with an encoder"
        )


def first_state(
    model_config: ModelConfig, data: PreparedData, config: TrainingConfig, seed: int, saved: TrainingState | None = None
) -> Steps[TrainingState]:
    """Returns the state from which a training goes on: what was saved of it, or the one before its first epoch.

    If nothing was saved, the hidden layers are pre-trained as the settings say.

    Raises:
        SettingsError: the model does not fit the images, or cannot be trained in this way.
        TrainingDivergedError: the error of a layer became NaN or infinite.
    """
    if state := torchrun.agreed(saved):
        return state
    state = new_state()
    check_model(model_config, config)
    if config.pretraining_epochs:
        model = new_model(model_config, data, seed, images=config.images)
        assert isinstance(model, Autoencoder)  # checked
        yield from pretrain(model, data, config, seed, state)
        state.tensors = state_tensors(model.state_dict(), {}, {})
    return state
