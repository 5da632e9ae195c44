"""Training: one loop for every model, a generator of epochs.

B batch. All randomness of epoch e is a function of (seed, e): a resumed training equals an uninterrupted one bit for
bit on the CPU, whatever its caller does between two epochs.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.optim import Optimizer

from aemodels.config import Config, UserError
from aemodels.data.batches import Batches
from aemodels.data.prepared import PreparedData
from aemodels.distributions import derived_seed, seeded
from aemodels.environment import device_name
from aemodels.models.base import Batch, GenerativeModel, ModelConfig
from aemodels.schedules import learning_rate_factor

EVALUATION_BATCH = 500  # images; large enough for speed, small enough for any trunk
DEVICES = ("cpu", "cuda", "mps")
PRIOR_IMAGES = 10_000  # enough codes for any mixture


class TrainingConfig(Config):
    """How a model is trained."""

    epochs: int = Field(20, ge=1)
    """Passes over the training images."""
    batch_size: int = Field(128, ge=1)
    """Images per update."""
    optimizer: Literal["adam", "adamw"] = "adam"
    """Adam (weight decay in the gradient) or AdamW (decoupled)."""
    learning_rate: float = Field(1e-3, gt=0)
    """Step size of the optimiser."""
    weight_decay: float = Field(0.0, ge=0)
    """L2 penalty."""
    schedule: Literal["constant", "cosine"] = "constant"
    """Learning rate after its warm-up: constant, or half a cosine down to 0."""
    warmup_steps: int = Field(0, ge=0)
    """Updates over which the learning rate rises from 0."""
    gradient_clip: float | None = Field(None, gt=0)
    """Largest norm of a part's gradient; null clips nothing."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of the layers' arithmetic; densities are always computed in float32."""
    patience: int | None = Field(None, ge=1)
    """Epochs without a better validation bound after which training stops; null trains all epochs."""
    images: int | None = Field(None, ge=1)
    """Train on so many images only; null takes all."""


class TrainingDivergedError(UserError, RuntimeError):
    """A term of the loss is not finite."""


@dataclass
class TrainingState:
    """All that a training needs to go on. Its tensors are the live ones: write them before the next epoch starts."""

    epoch: int
    step: int
    best: float
    best_epoch: int
    history: list[dict[str, float]]  # an entry per epoch
    tensors: dict[str, Tensor]  # "model.*", "best.*", "optimizer.<part>.<i>.*"


@dataclass(frozen=True)
class Epoch:
    """What training yields."""

    index: int  # from 1
    metrics: dict[str, float]  # train/*, val/*; nats per image where no unit is in the name
    model: GenerativeModel  # with this epoch's weights, in evaluation mode
    state: TrainingState


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
    device = best_device()
    model = new_model(model_config, data, seed).to(device)
    optimizers = {part: _optimizer(list(model.part_parameters(part)), config) for part in model.parts()}
    state = resume or TrainingState(epoch=0, step=0, best=math.inf, best_epoch=0, history=[], tensors={})
    best = _restore(model, optimizers, state)
    training, validation = Batches(data, "train", device, config.images), Batches(data, "val", device)
    steps = math.ceil(len(training) / config.batch_size)
    for index in range(state.epoch + 1, config.epochs + 1):
        if stops_early(state, config, math.ceil(model.warmup_steps / steps)):
            return
        started = time.perf_counter()
        with seeded(derived_seed(seed, "epoch", index)):
            metrics = _train_epoch(model, training, optimizers, config, derived_seed(seed, "order", index), state.step)
        seconds = time.perf_counter() - started
        metrics |= {"train/seconds": seconds, "train/images_per_second": len(training) / seconds}
        metrics |= held_out_bound(model, validation, seed)
        _refuse_non_finite(metrics, index, config)
        value = metrics[f"val/{model.selection}"] if model.selection else -index  # adversarial: the last is kept
        if value < state.best:
            state.best, state.best_epoch = value, index
            best = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
        state.epoch, state.step = index, state.step + steps
        state.history.append(metrics)
        state.tensors = _tensors(model, best, optimizers)
        yield Epoch(index, metrics, model, state)


def stops_early(state: TrainingState, config: TrainingConfig, warmup_epochs: int) -> bool:
    """Whether the validation bound has not improved for `patience` epochs since the loss had its final weights."""
    return config.patience is not None and state.epoch - max(state.best_epoch, warmup_epochs) >= config.patience


def new_model(model_config: ModelConfig, data: PreparedData, seed: int) -> GenerativeModel:
    """A model with the initial weights that belong to the seed."""
    with seeded(derived_seed(seed, "weights")):
        return model_config.build(data.image_shape, data.num_classes)


def best_model(
    model_config: ModelConfig, data: PreparedData, config: TrainingConfig, seed: int, state: TrainingState
) -> GenerativeModel:
    """The model with its best weights, on the device and in evaluation mode, its prior fitted."""
    model = new_model(model_config, data, seed).to(best_device())
    model.load_state_dict({k.removeprefix("best."): t for k, t in state.tensors.items() if k.startswith("best.")})
    model.eval()
    fit_prior(model, data, seed, config.images)
    return model


def fit_prior(model: GenerativeModel, data: PreparedData, seed: int, images: int | None) -> None:
    """Fits the prior of a model that has none in training, to images that it was trained on."""
    limit = min(PRIOR_IMAGES, images or PRIOR_IMAGES)

    def batches() -> Iterator[Batch]:  # reads nothing for a model that fits nothing
        yield from Batches(data, "train", model.device, limit).in_order(EVALUATION_BATCH)

    model.fit_prior(batches(), derived_seed(seed, "prior"))


@torch.no_grad()
def held_out_bound(model: GenerativeModel, batches: Batches, seed: int) -> dict[str, float]:
    """Mean terms of the bound on held-out images, with the same noise at every call; leaves evaluation mode on."""
    model.eval()
    totals: dict[str, Tensor] = {}
    with seeded(derived_seed(seed, "validation")):
        for batch in batches.in_order(EVALUATION_BATCH):
            for name, term in model.bound(batch).items():
                totals[name] = totals.get(name, 0) + term.sum()
    return {f"val/{name}": total.item() / len(batches) for name, total in totals.items()}


def best_device() -> torch.device:
    """AEMODELS_DEVICE, or CUDA, MPS, CPU, whichever is first.

    Raises:
        UserError: AEMODELS_DEVICE names none that works here.
    """
    if name := device_name():
        try:
            device = torch.empty(0, device=name).device
        except (RuntimeError, AssertionError):
            device = torch.device("meta")
        if device.type not in DEVICES:
            raise UserError(
                f"AEMODELS_DEVICE={name}: does not work here; give one of {', '.join(DEVICES)}, or unset it"
            )
        return device
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def _optimizer(parameters: list[nn.Parameter], config: TrainingConfig) -> Optimizer:
    kind = torch.optim.AdamW if config.optimizer == "adamw" else torch.optim.Adam
    return kind(parameters, lr=config.learning_rate, weight_decay=config.weight_decay, fused=True)


def _train_epoch(
    model: GenerativeModel,
    batches: Batches,
    optimizers: dict[str, Optimizer],
    config: TrainingConfig,
    order_seed: int,
    first_step: int,
) -> dict[str, float]:
    """One pass over the training images; the mean of every term."""
    model.train()
    total_steps = math.ceil(len(batches) / config.batch_size) * config.epochs
    autocast = torch.autocast(model.device.type, torch.bfloat16, enabled=config.precision == "bfloat16")
    sums: dict[str, Tensor] = {}
    for step, batch in enumerate(batches.shuffled(config.batch_size, order_seed), start=first_step):
        factor = learning_rate_factor(step, total_steps, config.warmup_steps, config.schedule == "cosine")
        with autocast:
            losses = model.losses(batch, torch.tensor(step, device=model.device))
        totals = {part: loss.total.mean() for part, loss in losses.items()}
        _update(totals, optimizers, config.learning_rate * factor, config.gradient_clip)
        for part, loss in losses.items():
            prefix = "train/" if len(losses) == 1 else f"train/{part}/"
            for name, term in {"loss": loss.total, **loss.terms}.items():
                sums[prefix + name] = sums.get(prefix + name, 0) + term.detach().sum()
    means = (torch.stack(list(sums.values())) / len(batches)).tolist()  # the epoch's one synchronisation
    return dict(zip(sums, means, strict=True)) | {"train/learning_rate": config.learning_rate * factor}


def _update(
    totals: dict[str, Tensor], optimizers: dict[str, Optimizer], learning_rate: float, clip: float | None
) -> None:
    """One step of every part: all gradients first, each of its own loss by its own parameters, then all updates."""
    owned = {part: optimizer.param_groups[0]["params"] for part, optimizer in optimizers.items()}
    *_, last = owned
    gradients = {
        part: torch.autograd.grad(totals[part], parameters, retain_graph=part != last)
        for part, parameters in owned.items()
    }
    for part, optimizer in optimizers.items():
        for parameter, gradient in zip(owned[part], gradients[part], strict=True):
            parameter.grad = gradient.contiguous()  # the fused step misreads other strides
        if clip is not None:
            nn.utils.clip_grad_norm_(owned[part], clip)
        optimizer.param_groups[0]["lr"] = learning_rate
        optimizer.step()


def _refuse_non_finite(metrics: dict[str, float], epoch: int, config: TrainingConfig) -> None:
    bad = {name: value for name, value in metrics.items() if not math.isfinite(value)}
    if bad:
        name, value = next(iter(bad.items()))
        other = " or training.precision=float32" if config.precision != "float32" else ""
        raise TrainingDivergedError(
            f"epoch {epoch}: {name} is {value}; try a smaller training.learning_rate (it is {config.learning_rate:g}), "
            f"training.gradient_clip=1{other}"
        )


def _tensors(model: GenerativeModel, best: dict[str, Tensor], optimizers: dict[str, Optimizer]) -> dict[str, Tensor]:
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    tensors |= {f"best.{name}": tensor for name, tensor in best.items()}
    for part, optimizer in optimizers.items():
        for i, moments in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{part}.{i}.{name}": tensor for name, tensor in moments.items()}
    return tensors


def _restore(model: GenerativeModel, optimizers: dict[str, Optimizer], state: TrainingState) -> dict[str, Tensor]:
    """Puts a state's tensors where they belong and returns the best weights so far."""
    best = {k.removeprefix("best."): t for k, t in state.tensors.items() if k.startswith("best.")}
    if not state.tensors:
        return best
    model.load_state_dict({k.removeprefix("model."): t for k, t in state.tensors.items() if k.startswith("model.")})
    for part, optimizer in optimizers.items():
        moments: dict[int, dict[str, Tensor]] = {}
        for key, tensor in state.tensors.items():
            if key.startswith(f"optimizer.{part}."):
                i, name = key.removeprefix(f"optimizer.{part}.").split(".")
                moments.setdefault(int(i), {})[name] = tensor
        optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
    return best
