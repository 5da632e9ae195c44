"""Replayed updates are the updates, bit for bit; what cannot be replayed is not."""

from __future__ import annotations

import gc
import itertools
import subprocess
import sys
import weakref
from collections import deque
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from aemodels.config import section_kinds
from aemodels.data.prepared import PreparedData
from aemodels.experiment import Experiment
from aemodels.models import AEConfig, CVAEConfig, VAEConfig
from aemodels.models.base import ModelConfig
from aemodels.nn.distributions import GaussianConfig, seeded
from aemodels.nn.trunks import ConvConfig, MLPConfig, ResidualConfig
from aemodels.training import cpu_replay as replay_module
from aemodels.training import update as updates
from aemodels.training.cpu_replay import Recorder, Replay
from aemodels.training.loop import TrainingConfig, train
from aemodels.training.population import train_population

SMALL = MLPConfig(widths=(16,))
MODELS: dict[str, ModelConfig] = {
    **{name: model(trunk=SMALL) for name, model in section_kinds(Experiment.model_fields["model"]).items()},
    "convolutions": VAEConfig(trunk=ConvConfig(channels=(4, 6), hidden=12)),
    "residual": VAEConfig(trunk=ResidualConfig(channels=(12,), hidden=6), likelihood=GaussianConfig(sigma="learned")),
    "optimal sigma": AEConfig(trunk=SMALL, likelihood=GaussianConfig(sigma="optimal")),
    "batch normalisation": VAEConfig(trunk=MLPConfig(widths=(16,), normalization="batch"), free_bits=0.1),
    "class prior": CVAEConfig(trunk=SMALL, conditional_prior=True, beta_warmup_steps=7),
}
TRAINING = TrainingConfig(epochs=2, images=87, batch_size=16, gradient_clip=0.5, schedule="cosine", warmup_steps=3)
OTHERWISE = TRAINING.override({"optimizer": "adamw", "precision": "bfloat16", "corruption.name": "masking"})

Outcome = tuple[dict[str, float], dict[str, Tensor]]


@pytest.fixture
def replayed(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Trainings record their updates, however few; of each the list gets whether it was replayed."""
    outcome: list[bool] = []
    check = Replay._check

    def watched(self: Replay, *args: Any) -> None:
        check(self, *args)
        outcome.append(self.replays)

    monkeypatch.setattr(Replay, "_check", watched)
    monkeypatch.setattr(updates, "WORTH_RECORDING", 0)
    monkeypatch.setattr(updates, "bfloat16_units", lambda _: "vector")  # where bfloat16 is asked for
    return outcome


def both_ways(training: Callable[[], Outcome], monkeypatch: pytest.MonkeyPatch) -> tuple[Outcome, Outcome]:
    recorded = training()
    with monkeypatch.context() as patched:
        patched.setattr(updates, "WORTH_RECORDING", 10**6)
        return recorded, training()


def assert_the_same(one: Outcome, other: Outcome) -> None:
    """But for what a clock says."""
    assert {k: v for k, v in one[0].items() if "second" not in k} == {
        k: v for k, v in other[0].items() if "second" not in k
    }
    assert one[1].keys() == other[1].keys()
    for name, tensor in one[1].items():
        assert torch.equal(tensor, other[1][name]), name


@pytest.mark.parametrize("config", [TRAINING, OTHERWISE], ids=["adam", "adamw"])
@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_a_training_is_the_same_bit_for_bit(
    model: ModelConfig,
    config: TrainingConfig,
    digits: PreparedData,
    replayed: list[bool],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if not model.has_encoder:
        config = config.override({"corruption.name": "none"})
    data = digits.model_copy(update={"binarize": "dynamic"}) if config is OTHERWISE else digits

    def training() -> Outcome:
        *_, epoch = train(model, data, config, seed=3)
        return epoch.metrics, {name: tensor.clone() for name, tensor in epoch.state.tensors.items()}

    assert_the_same(*both_ways(training, monkeypatch))
    assert replayed == [True]


def test_so_is_one_that_is_streamed_and_goes_on(
    digits: PreparedData, replayed: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After pre-training; it is recorded anew where it goes on."""
    config = TRAINING.override({"pretraining_epochs": 1})

    def training(interrupted: bool) -> Outcome:
        epochs = train(MODELS["ae"], digits, config, seed=3)
        if interrupted:
            state = deepcopy(next(epochs).state)
            epochs = train(MODELS["ae"], digits, config, seed=3, resume=state)
        *_, epoch = epochs
        return epoch.metrics, {name: tensor.clone() for name, tensor in epoch.state.tensors.items()}

    with monkeypatch.context() as patched:
        patched.setattr(updates, "WORTH_RECORDING", 10**6)
        expected = training(interrupted=False)
    assert replayed == []
    monkeypatch.setattr("aemodels.data.batches.fits", lambda *_: False)
    assert_the_same(training(interrupted=True), expected)
    assert replayed == [True] * (len(SMALL.widths) + 2)


@pytest.mark.parametrize("config", [TRAINING, OTHERWISE], ids=["adam", "adamw"])
@pytest.mark.parametrize("model", ["vae", "convolutions", "batch normalisation"])
def test_so_is_that_of_a_population(
    model: str, config: TrainingConfig, digits: PreparedData, replayed: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    configs = [MODELS[model].model_copy(update={"latent_dim": d}) for d in (3, 5, 2)]

    def training() -> Outcome:
        epochs = train_population(configs, digits, config, [1, 2, 3])
        next(epochs)
        told = epochs.send([0])  # the others go on in a population of their own
        kept = {f"{m}.{name}": t.clone() for m, e in told.items() for name, t in e.state.tensors.items()}
        return {f"{m}.{name}": value for m, e in told.items() for name, value in e.metrics.items()}, kept

    assert_the_same(*both_ways(training, monkeypatch))
    assert replayed == [True, True]


class Counting:
    """An update of a total, and of a count that nobody is told of."""

    def __init__(self, change: Callable[[Tensor], Tensor]) -> None:
        self.change = change
        self.total, self.calls = torch.zeros(()), torch.zeros(())

    def __call__(self, x: Tensor) -> None:
        self.total.add_(self.change(x))
        self.calls.add_(1)


def images() -> list[Tensor]:
    """Where the sign of the sum, the number of values and that of positive ones differ, but late."""
    return [torch.tensor(values) for values in ([1.0, 2.0, 1.0], [3.0, 4.0, 3.0], [5.0, 5.0, 5.0], [-7.0, 8.0, -9.0])]


def counts() -> Callable[[Tensor], Tensor]:
    calls = itertools.count(1)
    return lambda x: (x * next(calls)).sum()


def writes_into_its_input() -> Callable[[Tensor], Tensor]:
    calls = itertools.count(1)
    return lambda x: x.mul_(next(calls)).sum()


def draws_for_itself() -> Callable[[Tensor], Tensor]:
    own = torch.Generator().manual_seed(0)
    return lambda x: (x * torch.rand(3, generator=own)).sum()


def keeps() -> Callable[[Tensor], Tensor]:
    kept: list[Tensor] = []
    return lambda x: (kept.append(x * 2) or x).sum()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda: lambda x: x.sum() if x.sum().item() > 0 else -x.sum(), r"item\(\).* depends on values"),
        (lambda: lambda x: x.sum() * len(x.unique()), "depends on values"),
        (lambda: lambda x: x[x > 0].sum(), "a boolean mask: .* depends on values"),
        (lambda: lambda x: torch.from_numpy(x.numpy() * 2).sum(), "numpy takes numbers out"),
        (lambda: lambda x: x.sum() if x.tolist()[0] > 0 else -x.sum(), "tolist takes numbers out"),
        (counts, "replayed it comes to something else"),
        (writes_into_its_input, "replayed it comes to something else"),
        (draws_for_itself, "not all from torch's own generator"),
        (keeps, r"it keeps a tensor of shape \(3,\)"),
    ],
    ids=["item", "unique", "mask", "numpy", "tolist", "count", "in place", "generator", "kept"],
)
def test_what_cannot_be_replayed_stays_what_it_is(change: Callable[[], Callable[..., Tensor]], reason: str) -> None:
    expected, update = Counting(change()), Counting(change())
    deque(map(expected, images()))
    replay = Replay(update)
    with pytest.warns(UserWarning, match=f"no replay of the update .*{reason}"):
        deque(map(replay, images()))
    assert not replay.replays
    assert (update.total, update.calls) == (expected.total, 4)


class Remembering(nn.Module):
    """A count of the updates, which matters late, and a weight that somebody else sets."""

    def __init__(self, counts: bool) -> None:
        super().__init__()
        self.counts, self.calls, self.weight = counts, 0, 1.0
        self.total = torch.zeros(())

    def update(self, x: Tensor) -> None:
        self.calls += self.counts
        self.total.add_(x.sum() * (self.weight if self.calls < 4 else -1))


def test_an_update_that_counts_stays_what_it_is() -> None:
    module = Remembering(counts=True)
    replay = Replay(module.update, [module])
    with pytest.warns(UserWarning, match=r"it changes Remembering\.calls"):
        deque(map(replay, images()))
    assert module.total == 4 + 10 + 15 + 8


def test_it_is_recorded_anew_when_something_else_was_changed() -> None:
    module = Remembering(counts=False)
    replay = Replay(module.update, [module])
    for weight in (1.0, 1.0, 10.0):
        module.weight = weight
        replay.renew()
        deque(map(replay, images()))
        assert replay.replays
    assert module.total == (4 + 10 + 15 - 8) * 12


def test_where_memory_ends_the_update_stays_what_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_memory(_: object) -> list[Tensor]:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(replay_module, "_copies", no_memory)
    update = Counting(torch.sum)
    with pytest.warns(UserWarning, match="no replay of the update .*can't allocate memory"):
        deque(map(Replay(update), images()))
    assert (update.total, update.calls) == (4 + 10 + 15 - 8, 4)


def test_a_check_changes_nothing_else() -> None:
    """Weights, noise, and what no state dict would tell of."""
    expected, update = (Counting(lambda x: (x[torch.tensor([2, 1, 0])] * torch.rand(3)).sum()) for _ in range(2))
    replay = Replay(update)
    for one in (expected, replay):
        with seeded(3):
            deque(map(one, images()))
    assert replay.replays
    assert (update.total, update.calls) == (expected.total, 4)


def test_kernels_are_called_as_for_a_backward_pass() -> None:
    """Of a recurrent layer they keep what it needs, or not."""
    layer = torch.nn.LSTM(2, 3)
    weight = layer.weight_ih_l0

    def update(x: Tensor) -> None:
        (gradient,) = torch.autograd.grad(layer(x)[0].sum(), weight)
        with torch.no_grad():
            weight.sub_(gradient)

    replay = Replay(update)
    for _ in range(3):
        replay(torch.ones(4, 1, 2))
    assert replay.replays


def test_memory_is_freed_as_in_the_update() -> None:
    """While it is recorded, and while it is replayed; the last result would live on by itself."""
    sizes: list[int] = []
    kept = torch.zeros(())

    def update(x: Tensor) -> None:
        for _ in range(20):
            x = x * 2
        kept.copy_(x.sum())

    class Peak(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = func(*args, **kwargs or {})
            alive.append(weakref.ref(result))
            sizes.append(sum(one() is not None for one in alive))
            return result

    alive: list[weakref.ref[Tensor]] = []
    with Recorder([x := torch.ones(3)]) as recorder, Peak():
        update(x)
    program = recorder.program()
    assert max(sizes) <= 4
    alive.clear(), sizes.clear()
    with Peak():
        program(torch.full((3,), 2.0))
    assert kept == 6 * 2**20
    assert max(sizes) <= 4


@pytest.mark.usefixtures("replayed")
def test_a_closed_training_holds_no_memory(digits: PreparedData) -> None:
    """Whether its updates were not recorded yet, not checked yet, or are replayed."""
    for images in (16, 32, 48, 64):
        epochs = train(MODELS["vae"], digits, TRAINING.override({"images": images, "epochs": 1}), seed=0)
        weight = weakref.ref(next(next(epochs).model.parameters()))
        gc.disable()
        try:
            epochs.close()
            assert weight() is None
        finally:
            gc.enable()


def test_training_loads_no_compiler(digits: PreparedData) -> None:
    """As torch would, for a recording, and sympy for gradients with weights: a second of every process."""
    code = f"""
import sys
from aemodels import updates
from aemodels.data import PreparedData
from aemodels.models import VAEConfig
from aemodels.training import TrainingConfig, train
updates.WORTH_RECORDING = 0
list(train(VAEConfig(), PreparedData.model_validate_json({digits.model_dump_json()!r}),
           TrainingConfig(epochs=1, images=64, batch_size=8), seed=0))
print(*{{"sympy", "torch._dynamo"}} & set(sys.modules))
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == []
