"""Trains many models as one: they are stacked, padded with zeros to the largest, trained together, and split again.

M members, B batch; a stacked tensor is (M, ...), every member's own at the front of each axis and zeros behind it. The
units behind a member's own are masked, so that padding changes nothing: a member is the model trained alone, with the
same noise. What may differ between members is a buffer (the mask of the latent units, the weight of the rate).
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn import functional as F

from aemodels.config import SettingsError
from aemodels.data.prepared import PreparedData
from aemodels.models.base import GenerativeModel, Loss, ModelConfig
from aemodels.nn.batch import Batch
from aemodels.training.config import TrainingConfig, TrainingDivergedError
from aemodels.training.loop import Loop, refuse_non_finite
from aemodels.training.models import new_model
from aemodels.training.state import Epoch, TrainingState, new_state, state_tensors, still
from aemodels.training.train import check_model


def stackable(a: ModelConfig, b: ModelConfig) -> bool:
    """Tells whether two models differ only in what may differ within a population."""
    return type(a) is type(b) and a.model_copy(update={name: getattr(b, name) for name in a.stacked}) == b


def largest(configs: Sequence[ModelConfig]) -> ModelConfig:
    """Returns the settings of a model that all others fit into."""
    first = configs[0]
    return first.model_copy(update={name: max(getattr(config, name) for config in configs) for name in first.stacked})


class _Method(nn.Module):
    """Calls a model's method by its name from `forward`, as `functional_call` calls `forward` only."""

    def __init__(self, model: GenerativeModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, name: str, *args: object) -> object:
        return getattr(self.model, name)(*args)


class Population:
    """Holds M models of one kind; it is a `Trainee` like a single model, with one more axis in front of every loss."""

    selection: ClassVar[str | None]
    momentum: ClassVar[float]

    def __init__(self, models: Sequence[GenerativeModel], frame: GenerativeModel) -> None:
        """Stacks `models`, each with its weights at its own size; `frame` is the largest model, its weights unused."""
        self.models, self.frame = list(models), frame
        self._call = _Method(frame)
        self.selection, self.momentum, self.warmup_steps = frame.selection, frame.momentum, frame.warmup_steps  # type: ignore[misc]
        shapes = {name: tensor.shape for name, tensor in frame.state_dict().items()}
        states = [model.state_dict() for model in models]
        self.tensors = {
            name: torch.stack([_padded(state[name].detach(), shape) for state in states])
            for name, shape in shapes.items()
        }
        self.trained = dict(frame.named_parameters()).keys()
        for name in self.trained:
            self.tensors[name].requires_grad_()

    def __len__(self) -> int:
        """Returns the number of members."""
        return len(self.models)

    # ---------------------------------------------------------------- a Trainee

    def parts(self) -> dict[str, tuple[str, ...]]:
        return self.frame.parts()

    def part_parameters(self, part: str) -> Iterator[Tensor]:
        own = {id(parameter) for parameter in self.frame.part_parameters(part)}
        for name, parameter in self.frame.named_parameters():
            if id(parameter) in own:
                yield self.tensors[name]

    def losses(self, batch: Batch, step: Tensor) -> dict[str, Loss]:
        """Returns the losses, (M, B) each; the batch is the same for all."""
        result: dict[str, Loss] = self._vmapped("losses", batch, step)
        return result

    def bound(self, batch: Batch) -> dict[str, Tensor]:
        result: dict[str, Tensor] = self._vmapped("bound", batch)
        return result

    def _vmapped(self, method: str, *args: object) -> Any:
        def one(tensors: dict[str, Tensor]) -> object:
            return functional_call(self._call, {f"model.{name}": t for name, t in tensors.items()}, (method, *args))

        return vmap(one, randomness="different")(self.tensors)

    def modules(self) -> Iterator[nn.Module]:
        return self.frame.modules()

    def train(self, mode: bool = True) -> None:
        self.frame.train(mode)

    def eval(self) -> None:
        self.frame.eval()

    def state_dict(self) -> dict[str, Tensor]:
        return {name: tensor.detach() for name, tensor in self.tensors.items()}

    # ---------------------------------------------------------------- its members

    def own(self, member: int, stacked: dict[str, Tensor]) -> dict[str, Tensor]:
        """Returns a member's part of stacked tensors that are named as in `state_dict`, at its own size."""
        state = self.models[member].state_dict()
        return {name: _cut(tensor[member], state[name].shape) for name, tensor in stacked.items()}

    def own_moments(self, member: int, moments: dict[str, Tensor]) -> dict[str, Tensor]:
        """Returns a member's part of the optimisers' state, named as that of the model alone."""
        shapes = {
            (part, str(i)): parameter.shape
            for part in self.parts()
            for i, parameter in enumerate(self.models[member].part_parameters(part))
        }
        result: dict[str, Tensor] = {}
        for key, tensor in moments.items():
            part, i = key.split(".")[1:3]
            # The count of updates has no axes, and is the same for all members.
            result[key] = _cut(tensor[member], shapes[part, i]) if tensor.dim() else tensor
        return result

    def member(self, member: int) -> GenerativeModel:
        """Returns the model with its present weights, at its own size, in evaluation mode."""
        model = self.models[member]
        model.load_state_dict(self.own(member, self.state_dict()))
        return model.eval()

    def only(self, members: Sequence[int]) -> Population:
        """Returns a population of some members, with their present weights."""
        return Population([self.member(m) for m in members], self.frame)


def _padded(tensor: Tensor, shape: torch.Size) -> Tensor:
    """Adds zeros at the end of every axis, up to the shape."""
    padding = [p for have, want in zip(reversed(tensor.shape), reversed(shape), strict=True) for p in (0, want - have)]
    return F.pad(tensor, padding) if any(padding) else tensor


def _cut(tensor: Tensor, shape: torch.Size) -> Tensor:
    return tensor[tuple(slice(0, n) for n in shape)]


# ---------------------------------------------------------------- training


MemberEpochs = dict[int, Epoch | TrainingDivergedError]  # keys are the members' numbers at the start


def train_population(
    configs: Sequence[ModelConfig],
    data: PreparedData,
    config: TrainingConfig,
    seeds: Sequence[int],
    start: Mapping[str, Tensor] | None = None,
) -> Generator[MemberEpochs, Collection[int] | None, None]:
    """Trains many models at once; it works like `train` for each of them.

    It yields what happened to every member in an epoch: an `Epoch`, or the error that ended it. The caller may send the
    numbers of those that are to leave. A member that diverged or stopped early leaves by itself and is not in the next
    epoch.

    Args:
        seeds: seeds of the weights of each member; the first one also seeds the order of the images and all noise.
        start: the weights that all members start from, as for `train`.

    Raises:
        SettingsError: the models differ in more than what may differ, do not fit the images, cannot be trained in
            this way, or are to be pre-trained. Pre-training takes models one by one, and any of them may diverge before
            the others have begun.
    """
    if config.pretraining_epochs:
        raise SettingsError(
            f"training.pretraining_epochs={config.pretraining_epochs}: a population is not pre-trained; train its "
            "models one by one, or use training.pretraining_epochs=0"
        )
    check_model(configs[0], config)
    for other in configs:
        if not stackable(configs[0], other):
            raise SettingsError(f"{configs[0]} and {other} cannot be one population; train them one by one")
    training = _Training(configs, data, config, seeds, start)
    with closing(training.loop):
        for index in itertools.count(1):
            told = training.epoch(index)
            leaving = set((yield told) or ())
            leaving |= {number for number, one in told.items() if isinstance(one, TrainingDivergedError) or one.last}
            if leaving.issuperset(training.numbers):
                return  # as at the end of `train`, the last epochs can still be read
            if leaving:
                training.leave(leaving)


class _Training:
    """Holds a population while it is trained."""

    def __init__(
        self,
        configs: Sequence[ModelConfig],
        data: PreparedData,
        config: TrainingConfig,
        seeds: Sequence[int],
        start: Mapping[str, Tensor] | None,
    ) -> None:
        models = [new_model(each, data, seed, start, config.images) for each, seed in zip(configs, seeds, strict=True)]
        self.population = Population(models, new_model(largest(configs), data, seeds[0], images=config.images))
        self.loop, self.config = Loop(self.population, data, config, seeds[0]), config
        self.best = {name: tensor.clone() for name, tensor in self.population.state_dict().items()}  # (M, ...)
        self.numbers = list(range(len(configs)))  # numbers at the start of the members that are still here
        self.states = [new_state() for _ in configs]
        for state, value in zip(self.states, itertools.cycle(self.loop.before()), strict=False):
            state.best = value

    def epoch(self, index: int) -> MemberEpochs:
        """Trains an epoch, and keeps the weights of those members that were never better."""
        told: MemberEpochs = {}
        better: list[int] = []
        for m, metrics in enumerate(self.loop.epoch(index)):
            number, state = self.numbers[m], self.states[m]
            state.epoch = index
            try:
                refuse_non_finite(metrics, index, self.config)
            except TrainingDivergedError as error:
                told[number] = error
                continue
            if (value := self.loop.selected(metrics, index)) < state.best:
                state.best, state.best_epoch = value, index
                better.append(m)
            state.history.append(metrics)
            last = self.loop.ended(state)
            model, whole = partial(self._model, number, index), partial(self._state, number, index)
            told[number] = Epoch(index, metrics, last, model, whole)
        if better:
            chosen = torch.tensor(better, device=next(iter(self.best.values())).device)
            for name, tensor in self.population.state_dict().items():
                self.best[name].index_copy_(0, chosen, tensor.index_select(0, chosen))
        return told

    def leave(self, numbers: Collection[int]) -> None:
        """Lets members leave; the others go on, as if these had never been there."""
        kept = [m for m, number in enumerate(self.numbers) if number not in numbers]
        self.numbers, self.states = [self.numbers[m] for m in kept], [self.states[m] for m in kept]
        moments = {key: t[kept] if t.dim() else t for key, t in self.loop.updates.moments().items()}
        self.best = {name: tensor[kept] for name, tensor in self.best.items()}
        self.population = self.population.only(kept)
        self.loop.go_on_with(self.population, moments)

    def _model(self, number: int, epoch: int) -> GenerativeModel:
        return self.population.member(self._place(number, epoch))

    def _state(self, number: int, epoch: int) -> TrainingState:
        m = self._place(number, epoch)
        model, best = (self.population.own(m, tensors) for tensors in (self.population.state_dict(), self.best))
        moments = self.population.own_moments(m, self.loop.updates.moments())
        return replace(self.states[m], tensors=state_tensors(model, best, moments))

    def _place(self, number: int, epoch: int) -> int:
        """Returns a member's place in the stack, as long as neither its next epoch nor its leaving has changed that."""
        if number not in self.numbers:
            raise RuntimeError(f"member {number} has left; take its model and its state before the next epoch")
        m = self.numbers.index(number)
        return still(m, self.states[m], epoch)
