"""Training: one loop for every model, a generator of epochs.

B batch. All randomness of epoch e is a function of (seed, e): a resumed training equals an uninterrupted one bit for
bit on the CPU, whatever its caller does between two epochs.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from aemodels.config import Config, SettingsError, UserError
from aemodels.data.batches import Batches
from aemodels.data.prepared import PreparedData
from aemodels.models.base import Autoencoder, Batch, GenerativeModel, ModelConfig
from aemodels.nn.corruption import CorruptionConfig, NoCorruption
from aemodels.nn.distributions import derived_seed, seeded
from aemodels.nn.schedules import Schedule
from aemodels.runtime import torchrun
from aemodels.runtime.devices import best_device
from aemodels.runtime.progress import Progress, Steps, finish
from aemodels.runtime.randomness import undisturbed
from aemodels.training.pretraining import check_layers, hidden_layers
from aemodels.training.update import Trainee, Updates

EVALUATION_BATCH = 500  # images; large enough for speed, small enough for any trunk
LEAST_VALIDATED = 1_000  # images, after each epoch
PRIOR_IMAGES = 10_000  # enough codes for any mixture


class TrainingConfig(Config):
    """How a model is trained."""

    epochs: int = Field(20, ge=1)
    """Passes over the training images."""
    pretraining_epochs: int = Field(0, ge=0)
    """Passes over them for each hidden layer of an MLP trunk, one layer after the other, before `epochs` of all layers
    together; 0 starts with those."""
    batch_size: int = Field(128, ge=1)
    """Images per update."""
    optimizer: Literal["adam", "adamw"] = "adam"
    """Adam (weight decay in the gradient) or AdamW (decoupled)."""
    learning_rate: float = Field(1e-3, gt=0)
    """Step size of the optimiser."""
    weight_decay: float = Field(0.0, ge=0)
    """L2 penalty."""
    schedule: Schedule = "constant"
    """Learning rate after its warm-up: constant, half a cosine down to 0, or down to a tenth in 8 stages, each of them
    three times as long as the one before."""
    warmup_steps: int = Field(0, ge=0)
    """Updates over which the learning rate rises from 0."""
    gradient_clip: float | None = Field(None, gt=0)
    """Largest norm of a part's gradient; null clips nothing."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of the layers' arithmetic, where the processor has instructions for bfloat16 (a GPU since Ampere, AMX, AVX-512
    BF16; others compute in float32); densities and weights are always float32. On an NVIDIA GPU the factors of float32
    products are rounded to TF32, in training and whenever a model is judged."""
    patience: int | None = Field(None, ge=1)
    """Epochs without a better validation bound after which training stops; null trains all epochs. No
    bound says which epoch of an adversarial model (`gan`, `vae_gan`) is better: it always trains all."""
    corruption: CorruptionConfig = NoCorruption()
    images: int | None = Field(None, ge=1)
    """Train on so many images only, and validate each epoch on a tenth as many, at least 1,000; null takes all."""


class TrainingDivergedError(UserError, RuntimeError):
    """A term of the loss is not finite."""


@dataclass
class TrainingState:
    """All that a training needs to go on. Its tensors are the live ones: write them before the next epoch starts."""

    epoch: int
    best: float
    best_epoch: int
    history: list[dict[str, float]]  # an entry per epoch
    tensors: dict[str, Tensor]  # "model.*", "best.*", "optimizer.<part>.*"
    pretraining: list[dict[str, float]] = field(default_factory=list)  # an entry per epoch of each hidden layer

    def section(self, name: str) -> dict[str, Tensor]:
        """The tensors of `model` or `best` by their names there."""
        return {key.removeprefix(f"{name}."): t for key, t in self.tensors.items() if key.startswith(f"{name}.")}


def new_state() -> TrainingState:
    """Before the first epoch."""
    return TrainingState(epoch=0, best=math.inf, best_epoch=0, history=[], tensors={})


@dataclass(frozen=True)
class Epoch:
    """What training yields. Model and state are those of this moment: ask for them before the next epoch."""

    index: int  # from 1
    metrics: dict[str, float]  # train/*, val/*; nats per image where no unit is in the name
    last: bool  # the training ends with it
    take_model: Callable[[], GenerativeModel]
    take_state: Callable[[], TrainingState]

    @cached_property
    def model(self) -> GenerativeModel:
        """With this epoch's weights, in evaluation mode."""
        return self.take_model()

    @cached_property
    def state(self) -> TrainingState:
        """From which training can go on."""
        return self.take_state()


def train(
    model_config: ModelConfig,
    data: PreparedData,
    config: TrainingConfig,
    seed: int,
    resume: TrainingState | None = None,
) -> Iterator[Epoch]:
    """Trains a model; `best_model` of the last epoch is the result.

    Args:
        resume: the state after an earlier epoch of the same training.

    Raises:
        SettingsError: the model does not fit the images.
        TrainingDivergedError: a term of the loss became NaN or infinite.
    """
    state = finish(first_state(model_config, data, config, seed, resume))
    model = new_model(model_config, data, seed)
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
    """Whether a model can be trained in this way.

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
    """Where a training goes on: at what was saved of it, or before its first epoch, with its hidden layers pre-trained.

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
    """An epoch of training and its validation, of one model or a population."""

    def __init__(self, model: Trainee, data: PreparedData, config: TrainingConfig, seed: int) -> None:
        self.model, self.seed = model, seed
        device = best_device()
        self.training = Batches(data, "train", device, config.images, shared=True)
        # of a training on some images only, as a search has them, the validation must not take longer than the training
        few = None if config.images is None else max(LEAST_VALIDATED, config.images // 10)
        self.validation = Batches(data, "val", device, few, shared=True)
        self.updates = Updates(model, self.training, config, seed)
        self.warmup_epochs = math.ceil(model.warmup_steps / self.updates.steps)

    def epoch(self, index: int) -> list[dict[str, float]]:
        """Trains and validates; the metrics of each member, of one for a single model."""
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
        """Another model on the same images, with the optimisers' state that belongs to it."""
        self.updates.close()
        self.model, self.updates = model, Updates(model, self.training, self.updates.config, self.seed)
        self.updates.load_moments(moments)

    def close(self) -> None:
        """Lets go of the updates' graph or recording: they hold the updates and each other, so their memory would wait
        for the garbage collector, while an evaluation needs it.
        """
        self.updates.close()

    def selected(self, metrics: dict[str, float], index: int) -> float:
        """What picks the best weights, smaller is better; of adversarial models the last ones are kept."""
        return metrics[f"val/{self.model.selection}"] if self.model.selection else -index


def ends(state: TrainingState, config: TrainingConfig, warmup_epochs: int) -> bool:
    """Whether all epochs are done, or the validation bound has not improved for `patience` of them since the loss had
    its final weights.
    """
    waited = state.epoch - max(state.best_epoch, warmup_epochs)
    return state.epoch >= config.epochs or (config.patience is not None and waited >= config.patience)


def new_model(model_config: ModelConfig, data: PreparedData, seed: int) -> GenerativeModel:
    """A model with the initial weights that belong to the seed, on the device.

    Channels last in memory: convolutions are up to a third faster so, on CPUs and GPUs.
    """
    with seeded(derived_seed(seed, "weights")):
        model = model_config.build(data.image_shape, data.num_classes)
    return model.to(best_device()).to(memory_format=torch.channels_last)


def best_model(
    model_config: ModelConfig, data: PreparedData, config: TrainingConfig, seed: int, state: TrainingState
) -> GenerativeModel:
    """The model with its best weights, on the device and in evaluation mode, its prior fitted."""
    model = new_model(model_config, data, seed).eval()
    model.load_state_dict(state.section("best"))
    fit_prior(model, data, seed, config.images)
    return model


def fit_prior(model: GenerativeModel, data: PreparedData, seed: int, images: int | None) -> None:
    """Fits the prior of a model that has none in training, to images that it was trained on."""
    limit = min(PRIOR_IMAGES, images or PRIOR_IMAGES)

    def batches() -> Iterator[Batch]:  # reads nothing for a model that fits nothing
        yield from Batches(data, "train", model.device, limit).in_order(EVALUATION_BATCH)

    with undisturbed(model, derived_seed(seed, "codes of the prior")):
        model.fit_prior(batches(), derived_seed(seed, "prior"))


@torch.no_grad()
def training_codes(model: GenerativeModel, data: PreparedData, config: TrainingConfig, seed: int) -> Tensor | None:
    """Samples of the posterior (N, D) of images that it was trained on, on the CPU; None without an encoder."""
    if not isinstance(model, Autoencoder):
        return None
    batches = Batches(data, "train", model.device, min(PRIOR_IMAGES, config.images or PRIOR_IMAGES))
    with seeded(derived_seed(seed, "codes")):
        codes = [model.encode(batch.x, batch.y).rsample().cpu() for batch in batches.in_order(EVALUATION_BATCH)]
    return torch.cat(codes)


@torch.no_grad()
def held_out_bound(model: Trainee, batches: Batches, corruption: CorruptionConfig, seed: int) -> dict[str, list[float]]:
    """Mean terms of the bound on held-out images, shown as in training, for each member, with the same noise at every
    call; leaves evaluation mode on.
    """
    model.eval()
    totals: dict[str, Tensor] = {}
    left = len(batches)
    with seeded(derived_seed(seed, "validation")):
        for batch in batches.in_order(EVALUATION_BATCH):
            with torchrun.sharing(batches.share(min(EVALUATION_BATCH, left))):
                terms = model.bound(batch._replace(corrupted=corruption.apply(batch.x)))  # (B,) or (M, B) each
            left -= EVALUATION_BATCH
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


def state_tensors(model: dict[str, Tensor], best: dict[str, Tensor], moments: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a TrainingState."""
    sections = {"model": model, "best": best}
    return {f"{section}.{name}": t for section, part in sections.items() for name, t in part.items()} | moments
