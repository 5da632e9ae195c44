"""Makes the update that training repeats: one forward pass, the gradient of every part, the step of every part.

B batch, M members of a population (a single model has no such axis), T terms of the losses.
On a CUDA device graph.py replays whole updates.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import ClassVar, Protocol

import torch
from torch import Tensor, nn

from aemodels.data.batches import Batches
from aemodels.models.base import Loss
from aemodels.nn.batch import Batch
from aemodels.nn.schedules import learning_rate_factor
from aemodels.runtime import torchrun
from aemodels.runtime.devices import bfloat16_units
from aemodels.runtime.randomness import derived_seed, seeded
from aemodels.training.adam import FORGETTING, FusedAdam, added_up, clip
from aemodels.training.config import TrainingConfig
from aemodels.training.passes import Stretch, stretches


class Trainee(Protocol):
    """Describes what is trained: a model, or a population of models with one more axis in front."""

    selection: ClassVar[str | None]
    momentum: ClassVar[float]
    warmup_steps: int

    def parts(self) -> dict[str, tuple[str, ...]]: ...
    def part_parameters(self, part: str) -> Iterator[Tensor]: ...
    def losses(self, batch: Batch, step: Tensor) -> dict[str, Loss]: ...
    def bound(self, batch: Batch) -> dict[str, Tensor]: ...
    def modules(self) -> Iterator[nn.Module]: ...
    def train(self, mode: bool = True) -> object: ...
    def eval(self) -> object: ...
    def state_dict(self) -> dict[str, Tensor]: ...


class Updates:
    """Holds a model with its optimisers; `epoch` makes the updates of one epoch."""

    def __init__(self, model: Trainee, batches: Batches, config: TrainingConfig, seed: int) -> None:
        self.model, self.batches, self.config, self.seed = model, batches, config, seed
        self.updates_per_epoch = config.epoch_updates(len(batches))  # the last epoch may have fewer
        self.total = config.all_updates(len(batches))  # updates of the training
        self.rate = torch.zeros((), device=batches.device)  # the learning rate; a tensor, so that a graph reads it
        self.optimizers = {
            part: FusedAdam(list(model.part_parameters(part)), self.rate, model.momentum, config)
            for part in model.parts()
        }
        self.names: list[str] = []  # names of the terms
        self.sums = torch.zeros(0)  # (T,) or (T, M), sums of the terms over an epoch
        device, units = batches.device.type, bfloat16_units(batches.device)
        on = config.precision == "bfloat16" and units != ""
        # The weights of convolutions have four axes, and five in a population.
        convolves = any(p.dim() >= 4 for part in model.parts() for p in model.part_parameters(part))
        self.products_only = on and device == "cpu" and units == "matrix" and not convolves
        self.autocast = torch.autocast(device, torch.bfloat16, enabled=on and not self.products_only)

    def moments(self) -> dict[str, Tensor]:
        """Returns the optimisers' state, live: "optimizer.<part>.<key>", by the keys of `FusedAdam.state`."""
        return {
            f"optimizer.{part}.{key}": tensor
            for part, optimizer in self.optimizers.items()
            for key, tensor in optimizer.state().items()
        }

    def load_moments(self, tensors: Mapping[str, Tensor]) -> None:
        """Goes on from what `moments` returned, on whatever device it lies."""
        for key, own in self.moments().items():
            own.copy_(tensors[key])

    def close(self) -> None:
        """Lets go of what only the updates need."""

    def rates(self, first_step: int) -> list[float]:
        """Returns the learning rates of an epoch's updates."""
        config = self.config
        steps = range(first_step, min(first_step + self.updates_per_epoch, self.total))
        factors = (learning_rate_factor(step, self.total, config.warm_up, config.rates) for step in steps)
        return [config.learning_rate * factor for factor in factors]

    def stretches(self, first_step: int) -> list[Stretch]:
        """Returns the stretches of passes over the images that an epoch takes."""
        last = min(first_step + self.updates_per_epoch, self.total)
        return list(stretches(first_step, last, len(self.batches), self.config.batch_size))

    def images(self, first_step: int) -> int:
        """Returns how many images an epoch shows, the same one several times in several passes."""
        return sum(stretch.stop - stretch.start for stretch in self.stretches(first_step))

    def epoch(self, index: int, first_step: int) -> dict[str, list[float]]:
        """Makes the updates of an epoch, and returns the mean of every term, for each member."""
        self.model.train()
        self.prepare()
        products = products_in_bfloat16() if self.products_only else nullcontext()
        with seeded(derived_seed(self.seed, "epoch", index)), products:
            self.sums.zero_()
            rates, done = self.rates(first_step), 0
            for stretch in self.stretches(first_step):
                self.make(stretch, derived_seed(self.seed, "order", stretch.number), first_step + done, rates[done:])
                done += math.ceil((stretch.stop - stretch.start) / self.config.batch_size)
        shown = self.images(first_step)
        means = (torchrun.add_up(self.sums) / shown).tolist()  # the epoch's one synchronisation
        return {name: mean if isinstance(mean, list) else [mean] for name, mean in zip(self.names, means, strict=True)}

    def prepare(self) -> None:
        """Does what has to be done before an epoch's first random number is drawn: nothing here."""

    def make(self, stretch: Stretch, order_seed: int, first_step: int, rates: Sequence[float]) -> None:
        """Makes the updates of a stretch of a pass, one after the other, at the first of the rates."""
        batch_size, left = self.config.batch_size, stretch.stop - stretch.start
        for i, batch in enumerate(self.batches.shuffled(batch_size, order_seed, stretch.start, stretch.stop)):
            self.rate.fill_(rates[i])
            step = torch.full((), first_step + i, device=self.rate.device)
            self.update(batch, step, min(batch_size, left))
            left -= batch_size
            if (first_step + i) % FORGETTING == 0 and self.rate.device.type == "cpu":
                for optimizer in self.optimizers.values():
                    optimizer.forget()

    def update(self, batch: Batch, step: Tensor, size: int) -> None:
        """Makes one update; `size` counts the batch's images, of which another process may have some."""
        with torchrun.sharing(self.batches.share(size)), self.autocast:
            batch = batch._replace(x=self.config.augmentation.apply(batch.x))
            losses = self.model.losses(batch._replace(corrupted=self.config.corruption.apply(batch.x)), step)
        gradients = self._gradients(losses, size)
        for part, optimizer in self.optimizers.items():
            optimizer.step(gradients[part])
        self._add(losses)

    def _gradients(self, losses: dict[str, Loss], size: int) -> dict[str, list[Tensor]]:
        """Returns all parts' gradients before any part's step, each of its own loss by its own parameters."""
        *_, last = self.optimizers
        result: dict[str, list[Tensor]] = {}
        for part, optimizer in self.optimizers.items():
            total = losses[part].total  # (B,) or (M, B)
            # It is the batch's mean for each member by itself: no member's weights affect another member's loss.
            mean = (total / size).sum()
            result[part] = list(torch.autograd.grad(mean, optimizer.parameters, retain_graph=part != last))
            if torchrun.active():
                result[part] = added_up(result[part])
            if self.config.gradient_clip is not None:
                clip(result[part], self.config.gradient_clip, members=total.dim() == 2)
        return result

    def _add(self, losses: dict[str, Loss]) -> None:
        """Adds the terms of a batch to the sums of the epoch."""
        terms: list[Tensor] = []
        names: list[str] = []
        for part, loss in losses.items():
            prefix = "train/" if len(losses) == 1 else f"train/{part}/"
            names += [f"{prefix}loss", *(prefix + name for name in loss.terms)]
            terms += [loss.total.detach(), *(term.detach() for term in loss.terms.values())]
        added = torch.stack(terms).sum(-1)  # (T,) or (T, M)
        if not self.names:
            self.names, self.sums = names, torch.zeros_like(added)
        self.sums += added


@contextmanager
def products_in_bfloat16() -> Iterator[None]:
    """Rounds the factors of matrix products to bfloat16; sums and results are float32.

    On a CPU with matrix units that is 1.3 times as fast for wide layers. There autocast loses half of the gain to
    conversions.
    """
    matmul = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]  # torch sets it at import
    before, matmul.fp32_precision = matmul.fp32_precision, "bf16"
    try:
        yield
    finally:
        matmul.fp32_precision = before
