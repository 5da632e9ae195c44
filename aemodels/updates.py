"""The update that training repeats: one forward pass, the gradient of every part, the step of every part.

B batch, M members of a population (a single model has no such axis), T terms of the losses, S full batches of an epoch.
On a CUDA device whole updates are replayed as a graph: small models are bound by the launches of their kernels.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar, Protocol

import torch
from torch import Tensor
from torch.optim import Adam, Optimizer
from torch.optim.adam import adam

from aemodels import parallel
from aemodels.data.batches import Batches
from aemodels.distributions import derived_seed, seeded
from aemodels.models.base import Batch, Loss
from aemodels.schedules import learning_rate_factor

if TYPE_CHECKING:
    from aemodels.training import TrainingConfig

FORGETTING = 256  # updates between two looks for moments that have become too small
TINY = 1e-25  # a moment; Adam adds 1e-8 to what it divides by
WARM_UPS = 3  # updates before a graph is captured, in which libraries make their choices; undone afterwards


class Trainee(Protocol):
    """A model, or a population of models with one more axis in front."""

    selection: ClassVar[str | None]
    warmup_steps: int

    def parts(self) -> dict[str, tuple[str, ...]]: ...
    def part_parameters(self, part: str) -> Iterator[Tensor]: ...
    def losses(self, batch: Batch, step: Tensor) -> dict[str, Loss]: ...
    def bound(self, batch: Batch) -> dict[str, Tensor]: ...
    def train(self, mode: bool = True) -> object: ...
    def eval(self) -> object: ...
    def state_dict(self) -> dict[str, Tensor]: ...


class Updates:
    """A model with its optimisers; `epoch` passes over the training images once."""

    def __init__(self, model: Trainee, batches: Batches, config: TrainingConfig, seed: int) -> None:
        self.model, self.batches, self.config, self.seed = model, batches, config, seed
        self.steps = math.ceil(len(batches) / config.batch_size)  # of an epoch
        self.rate = torch.zeros((), device=batches.device)  # the learning rate; a tensor, so that a graph reads it
        owned = {part: list(model.part_parameters(part)) for part in model.parts()}
        self.optimizers = {part: self._optimizer(parameters) for part, parameters in owned.items()}
        self.names: list[str] = []  # of the terms
        self.sums = torch.zeros(0)  # (T,) or (T, M), of an epoch
        self.autocast = torch.autocast(batches.device.type, torch.bfloat16, enabled=config.precision == "bfloat16")
        self._graph: Graph | None = None

    def _optimizer(self, parameters: list[Tensor]) -> Optimizer:
        kind = torch.optim.AdamW if self.config.optimizer == "adamw" else torch.optim.Adam
        capturable = self.rate.device.type == "cuda"
        decay = self.config.weight_decay
        return kind(parameters, lr=self.rate, weight_decay=decay, fused=True, capturable=capturable)

    def moments(self) -> dict[str, Tensor]:
        """The optimisers' state, live: "optimizer.<part>.<number of the parameter>.<name>"; empty before an update."""
        return {
            f"optimizer.{part}.{i}.{name}": tensor
            for part, optimizer in self.optimizers.items()
            for i, parameter in enumerate(optimizer.param_groups[0]["params"])
            for name, tensor in optimizer.state.get(parameter, {}).items()
        }

    def load_moments(self, tensors: dict[str, Tensor]) -> None:
        """Goes on from `moments`."""
        for part, optimizer in self.optimizers.items():
            for i, parameter in enumerate(optimizer.param_groups[0]["params"]):
                prefix = f"optimizer.{part}.{i}."
                own = {key.removeprefix(prefix): t for key, t in tensors.items() if key.startswith(prefix)}
                optimizer.state[parameter] = {
                    name: laid_out_as(t, parameter) if t.shape == parameter.shape else t for name, t in own.items()
                }

    def rates(self, first_step: int) -> list[float]:
        """The learning rates of an epoch's updates."""
        config, total = self.config, self.steps * self.config.epochs
        cosine = config.schedule == "cosine"
        factors = (learning_rate_factor(first_step + i, total, config.warmup_steps, cosine) for i in range(self.steps))
        return [config.learning_rate * factor for factor in factors]

    def epoch(self, index: int, first_step: int) -> dict[str, list[float]]:
        """Passes over the images; the mean of every term, for each member."""
        self.model.train()
        graph = self._captured()
        with seeded(derived_seed(self.seed, "epoch", index)):
            order_seed = derived_seed(self.seed, "order", index)
            self.sums.zero_()
            if graph is None:
                self._eager(order_seed, first_step)
            else:
                graph.epoch(self.batches.order(order_seed), first_step)
        means = (parallel.add_up(self.sums) / len(self.batches)).tolist()  # the epoch's one synchronisation
        return {name: mean if isinstance(mean, list) else [mean] for name, mean in zip(self.names, means, strict=True)}

    def _eager(self, order_seed: int, first_step: int) -> None:
        batch_size, left = self.config.batch_size, len(self.batches)
        rates = self.rates(first_step)
        for i, batch in enumerate(self.batches.shuffled(batch_size, order_seed)):
            self.rate.fill_(rates[i])
            self.update(batch, torch.full((), first_step + i, device=self.rate.device), min(batch_size, left))
            left -= batch_size
            if (first_step + i) % FORGETTING == 0 and self.rate.device.type == "cpu":
                forget(self.moments())

    def update(self, batch: Batch, step: Tensor, size: int) -> None:
        """One update; `size` counts the batch's images, of which another process may have some."""
        with parallel.sharing(self.batches.share(size)), self.autocast:
            losses = self.model.losses(batch, step)
        gradients = self._gradients(losses, size)
        for part, optimizer in self.optimizers.items():
            apply(optimizer, gradients[part])
        self._add(losses)

    def _gradients(self, losses: dict[str, Loss], size: int) -> dict[str, list[Tensor]]:
        """All parts' gradients before any part's step, each of its own loss by its own parameters."""
        *_, last = self.optimizers
        result: dict[str, list[Tensor]] = {}
        for part, optimizer in self.optimizers.items():
            total = losses[part].total  # (B,) or (M, B): the sum over members has each member's own gradient
            owned = optimizer.param_groups[0]["params"]
            result[part] = list(torch.autograd.grad(total.sum() / size, owned, retain_graph=part != last))
            if parallel.active():
                result[part] = _added_up(result[part])
            if self.config.gradient_clip is not None:
                clip(result[part], self.config.gradient_clip, members=total.dim() == 2)
        return result

    def _add(self, losses: dict[str, Loss]) -> None:
        """To the epoch's sums."""
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

    # ---------------------------------------------------------------- the graph

    def _captured(self) -> Graph | None:
        """The update as a graph, where the device can replay one; captured before the first epoch."""
        possible = self.rate.device.type == "cuda" and self.batches.resident is not None and not parallel.active()
        first = not self.names and len(self.batches) >= self.config.batch_size
        if possible and first:
            with seeded(0):
                self._graph = captured(self)
        return self._graph


class Graph:
    """The full batches of an epoch, for a device that is told nothing in between: order, learning rates and steps lie
    in its memory, and each update moves on to the next.
    """

    def __init__(self, updates: Updates) -> None:
        device, batch_size = updates.rate.device, updates.config.batch_size
        self.updates, self.full = updates, len(updates.batches) // batch_size
        self.order = torch.zeros(self.full, batch_size, dtype=torch.int64, device=device)  # (S, B)
        self.rates = torch.zeros(self.full, device=device)  # (S,)
        self.done = torch.zeros(1, dtype=torch.int64, device=device)  # batches of this epoch
        self.step = torch.zeros((), dtype=torch.int64, device=device)  # updates of the training
        self.replay = self.advance

    def advance(self) -> None:
        """The next update; without any value that the host would have to know."""
        updates = self.updates
        updates.rate.copy_(self.rates.index_select(0, self.done)[0])
        batch = updates.batches.gather(self.order.index_select(0, self.done)[0], drawn=True)
        updates.update(batch, self.step, updates.config.batch_size)
        self.done += 1
        self.step += 1

    def epoch(self, order: Tensor, first_step: int) -> None:
        """One pass; a last batch that is not full is an update by itself."""
        updates, device = self.updates, self.order.device
        full, rest = order[: self.order.numel()], order[self.order.numel() :]
        rates = updates.rates(first_step)
        self.order.copy_(full.view_as(self.order))
        self.rates.copy_(torch.tensor(rates[: self.full]))
        self.done.zero_()
        self.step.fill_(first_step)
        for _ in range(self.full):
            self.replay()
        if len(rest):
            updates.rate.fill_(rates[-1])
            updates.update(updates.batches.gather(rest.to(device), drawn=True), self.step, len(rest))


def captured(updates: Updates) -> Graph | None:
    """A graph of the update; None, with a warning, where the capture fails. Weights and moments stay as they are."""
    graph = Graph(updates)
    kept = {name: tensor.clone() for name, tensor in _touched(updates).items()}
    aside = torch.cuda.Stream()  # where a capture's warm-up has to run
    try:
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(WARM_UPS):
                graph.done.zero_()
                graph.advance()
        torch.cuda.current_stream().wait_stream(aside)
        cuda_graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(cuda_graph):
            graph.advance()
        graph.replay = cuda_graph.replay
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        reason = str(error).partition("\n")[0]
        warnings.warn(f"no CUDA graph of the update ({reason}); training goes on without it, slower", stacklevel=2)
        return None
    finally:
        for name, tensor in _touched(updates).items():
            if name in kept:
                tensor.copy_(kept[name])
            else:
                tensor.zero_()  # a moment that the warm-up made
    return graph


def _touched(updates: Updates) -> dict[str, Tensor]:
    """All tensors that an update changes; the optimisers' moments exist after the first one."""
    return {f"model.{name}": tensor for name, tensor in updates.model.state_dict().items()} | updates.moments()


# ---------------------------------------------------------------- gradients


def apply(optimizer: Optimizer, gradients: list[Tensor]) -> None:
    """A step of the optimiser."""
    parameters = optimizer.param_groups[0]["params"]
    laid = [laid_out_as(gradient, parameter) for parameter, gradient in zip(parameters, gradients, strict=True)]
    if optimizer.state and isinstance(optimizer, Adam):
        _adam_step(optimizer, parameters, laid)
        return
    for parameter, gradient in zip(parameters, laid, strict=True):
        parameter.grad = gradient
    optimizer.step()


def _adam_step(optimizer: Adam, parameters: list[Tensor], gradients: list[Tensor]) -> None:
    """What `optimizer.step()` does, without its hooks and checks, which take as long as the step of a small model."""
    group, states = optimizer.param_groups[0], [optimizer.state[parameter] for parameter in parameters]
    with torch.no_grad():
        adam(
            parameters,
            gradients,
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [state["step"] for state in states],
            fused=True,
            capturable=group["capturable"],
            decoupled_weight_decay=group["decoupled_weight_decay"],
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )


def forget(moments: dict[str, Tensor]) -> None:
    """Sets to zero what has become too small to move a weight: of a pixel that is black in most images the moments
    shrink until they are subnormal numbers, with which a CPU takes ten times as long.
    """
    for name, moment in moments.items():
        if not name.endswith(".step"):
            moment.mul_(moment.abs() > TINY)


def laid_out_as(tensor: Tensor, parameter: Tensor) -> Tensor:
    """The tensor with the parameter's strides: the fused optimisers misread others, silently."""
    if tensor.stride() == parameter.stride():
        return tensor
    return torch.empty_like(parameter).copy_(tensor)


def clip(gradients: list[Tensor], limit: float, members: bool) -> None:
    """Scales down, in place, gradients whose norm over all parameters is over the limit; each member by its own."""
    leading = 1 if members else 0
    squares = [g.reshape(*g.shape[:leading], -1).square().sum(-1) for g in gradients]  # () or (M,) each
    factor = (limit / (torch.stack(squares).sum(0).sqrt() + 1e-6)).clamp(max=1)
    for gradient in gradients:
        gradient.mul_(factor.view((*factor.shape, *[1] * (gradient.dim() - leading))))


def _added_up(gradients: list[Tensor]) -> list[Tensor]:
    """Over all processes, in one message."""
    flat = parallel.add_up(torch.cat([gradient.flatten() for gradient in gradients]))
    parts = flat.split([gradient.numel() for gradient in gradients])
    return [part.view(gradient.shape) for part, gradient in zip(parts, gradients, strict=True)]
