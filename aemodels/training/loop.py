"""Trains with one loop for every model, a generator of epochs.

B batch. All randomness of epoch e is a function of (seed, e): a resumed training equals an uninterrupted one bit for
bit on the CPU, whatever its caller does between two epochs.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import closing

import torch
from torch import Tensor

from aemodels.config import SettingsError
from aemodels.data.batches import Batches
from aemodels.data.prepared import PreparedData
from aemodels.models.base import Autoencoder, ModelConfig
from aemodels.nn.batch import AT_ONCE
from aemodels.nn.corruption import CorruptionConfig
from aemodels.runtime import torchrun
from aemodels.runtime.devices import best_device
from aemodels.runtime.progress import Progress, Steps, finish
from aemodels.runtime.randomness import derived_seed, seeded
from aemodels.training.config import TrainingConfig, TrainingDivergedError
from aemodels.training.graph import updates_of
from aemodels.training.models import new_model
from aemodels.training.pretraining import check_layers, hidden_layers
from aemodels.training.state import Epoch, TrainingState, new_state, state_tensors
from aemodels.training.update import Trainee

LEAST_VALIDATED = 1_000  # images that the validation after an epoch takes, at least


def train(
    model_config: ModelConfig,
    data: PreparedData,
    config: TrainingConfig,
    seed: int,
    resume: TrainingState | None = None,
    start: Mapping[str, Tensor] | None = None,
) -> Iterator[Epoch]:
    """Trains a model; `best_model` of the last epoch is the result.

    Args:
        resume: the state after an earlier epoch of the same training.
        start: the weights before the first update, by their names; those that belong to the seed, if none are given.

    Raises:
        SettingsError: the model does not fit the images.
        TrainingDivergedError: a term of the loss became NaN or infinite.
    """
    state = finish(first_state(model_config, data, config, seed, resume))
    model = new_model(model_config, data, seed, start)
    loop = Loop(model, data, config, seed)
    best = state.section("best")
    if state.tensors:
        model.load_state_dict(state.section("model"))
    if state.epoch:
        loop.updates.load_moments(state.tensors)
    with closing(loop):
        while not ends(state, config, loop.warmup_epochs):
            index = state.epoch + 1
            (metrics,) = loop.epoch(index)
            refuse_non_finite(metrics, index, config)
            if (value := loop.selected(metrics, index)) < state.best:
                state.best, state.best_epoch = value, index
                best = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
            state.epoch = index
            state.history.append(metrics)
            state.tensors = state_tensors(model.state_dict(), best, loop.updates.moments())
            last = ends(state, config, loop.warmup_epochs)
            yield Epoch(index, metrics, last, lambda: model, lambda: state)


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
        model = new_model(model_config, data, seed)
        assert isinstance(model, Autoencoder)  # checked
        work, layers = "pre-training", hidden_layers(model)
        own = config.override({"epochs": config.pretraining_epochs})
        yield Progress(work, 0, len(layers) * own.epochs)
        for number, layer in enumerate(layers, 1):
            with closing(Loop(layer, data, own, derived_seed(seed, "layer", number))) as loop:
                for index in range(1, own.epochs + 1):
                    (metrics,) = loop.epoch(index)
                    refuse_non_finite(metrics, index, own, f"pre-training layer {number}, ")
                    state.pretraining.append({"layer": number, **metrics})
                    note = f"layer {number} of {len(layers)}, squared error {metrics['val/squared_error']:.3g}"
                    yield Progress(work, len(state.pretraining), len(layers) * own.epochs, note)
        state.tensors = state_tensors(model.state_dict(), {}, {})
    return state


class Loop:
    """Runs an epoch of training and its validation, for one model or a population."""

    def __init__(self, model: Trainee, data: PreparedData, config: TrainingConfig, seed: int) -> None:
        self.model, self.seed = model, seed
        device = best_device()
        self.training = Batches(data, "train", device, config.images, shared=True)
        # If a training takes some images only, as in a search, its validation must not take longer than the training.
        few = None if config.images is None else max(LEAST_VALIDATED, config.images // 10)
        self.validation = Batches(data, "val", device, few, shared=True)
        self.updates = updates_of(model, self.training, config, seed)
        self.warmup_epochs = math.ceil(model.warmup_steps / self.updates.steps)

    def epoch(self, index: int) -> list[dict[str, float]]:
        """Trains and validates, and returns the metrics of each member; a single model is one member."""
        started = time.perf_counter()
        first_step = (index - 1) * self.updates.steps
        table = self.updates.epoch(index, first_step)
        seconds = time.perf_counter() - started
        table |= held_out_bound(self.model, self.validation, self.updates.config.corruption, self.seed)
        shared = {
            "train/learning_rate": self.updates.rates(first_step)[-1],
            "train/seconds": seconds,
            "train/images_per_second": len(self.training) / seconds,
        }
        members = len(next(iter(table.values())))
        return [{name: values[m] for name, values in table.items()} | shared for m in range(members)]

    def go_on_with(self, model: Trainee, moments: dict[str, Tensor]) -> None:
        """Goes on with another model on the same images, with the optimisers' state that belongs to it."""
        self.updates.close()
        self.model, self.updates = model, updates_of(model, self.training, self.updates.config, self.seed)
        self.updates.load_moments(moments)

    def close(self) -> None:
        """Lets go of the graph of the updates.

        The graph and the updates hold each other, so their memory would wait for the garbage collector while an
        evaluation needs it.
        """
        self.updates.close()

    def selected(self, metrics: dict[str, float], index: int) -> float:
        """Returns the value that selects the best weights, smaller is better; adversarial models keep the last ones."""
        return metrics[f"val/{self.model.selection}"] if self.model.selection else -index


def ends(state: TrainingState, config: TrainingConfig, warmup_epochs: int) -> bool:
    """Tells whether the training ends, because all epochs are done or its patience is over.

    It is over if the validation bound has not improved for `patience` epochs since the loss had its final weights.
    """
    waited = state.epoch - max(state.best_epoch, warmup_epochs)
    return state.epoch >= config.epochs or (config.patience is not None and waited >= config.patience)


@torch.no_grad()
def held_out_bound(model: Trainee, batches: Batches, corruption: CorruptionConfig, seed: int) -> dict[str, list[float]]:
    """Returns the mean terms of the bound on held-out images, for each member; leaves evaluation mode on.

    The images are shown as in training, with the same noise at every call.
    """
    model.eval()
    totals: dict[str, Tensor] = {}
    left = len(batches)
    with seeded(derived_seed(seed, "validation")):
        for batch in batches.in_order(AT_ONCE):
            with torchrun.sharing(batches.share(min(AT_ONCE, left))):
                terms = model.bound(batch._replace(corrupted=corruption.apply(batch.x)))  # (B,) or (M, B) each
            left -= AT_ONCE
            for name, term in terms.items():
                totals[name] = totals.get(name, 0) + term.sum(-1)
    if not totals:
        return {}
    means = (torchrun.add_up(torch.stack(list(totals.values()))) / len(batches)).tolist()  # one synchronisation
    return {f"val/{name}": m if isinstance(m, list) else [m] for name, m in zip(totals, means, strict=True)}


def refuse_non_finite(metrics: dict[str, float], epoch: int, config: TrainingConfig, stage: str = "") -> None:
    """Raises TrainingDivergedError if a metric is NaN or infinite."""
    bad = {name: value for name, value in metrics.items() if not math.isfinite(value)}
    if bad:
        name, value = next(iter(bad.items()))
        other = " or training.precision=float32" if config.precision != "float32" else ""
        raise TrainingDivergedError(
            f"{stage}epoch {epoch}: {name} is {value}; try a smaller training.learning_rate (it is "
            f"{config.learning_rate:g}), training.gradient_clip=1{other}"
        )
