"""Replayed updates are the updates, bit for bit; what cannot be replayed is not."""

from __future__ import annotations

import subprocess
import sys
import weakref
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from aemodels import updates
from aemodels.config import section_kinds
from aemodels.data.prepared import PreparedData
from aemodels.distributions import GaussianConfig
from aemodels.experiment import Experiment
from aemodels.models import CVAEConfig, VAEConfig
from aemodels.models.base import ModelConfig
from aemodels.nets import ConvConfig, MLPConfig, ResidualConfig
from aemodels.population import train_population
from aemodels.replay import Recorder, Replay
from aemodels.training import TrainingConfig, train

SMALL = MLPConfig(widths=(16,))
MODELS: dict[str, ModelConfig] = {
    **{name: model(trunk=SMALL) for name, model in section_kinds(Experiment.model_fields["model"]).items()},
    "convolutions": VAEConfig(trunk=ConvConfig(channels=(4, 6), hidden=12)),
    "residual": VAEConfig(trunk=ResidualConfig(channels=(12,), hidden=6), likelihood=GaussianConfig(sigma="learned")),
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

    def watched(self: Replay, *inputs: Tensor) -> None:
        check(self, *inputs)
        outcome.append(self.call == self.replay)

    monkeypatch.setattr(Replay, "_check", watched)
    monkeypatch.setattr(updates, "WORTH_RECORDING", 0)
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


@pytest.mark.parametrize("model", ["vae", "convolutions", "gan"])
def test_so_is_that_of_a_population(
    model: str, digits: PreparedData, replayed: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    configs = [MODELS[model].model_copy(update={"latent_dim": d}) for d in (3, 5, 2)]

    def training() -> Outcome:
        epochs = train_population(configs, digits, TRAINING, [1, 2, 3])
        next(epochs)
        told = epochs.send([0])  # the others go on in a population of their own
        kept = {f"{m}.{name}": t.clone() for m, e in told.items() for name, t in e.state.tensors.items()}
        return {f"{m}.{name}": value for m, e in told.items() for name, value in e.metrics.items()}, kept

    assert_the_same(*both_ways(training, monkeypatch))
    assert replayed == [True, True]


def test_an_update_that_reads_a_number_stays_what_it_is() -> None:
    total = torch.zeros(())

    def update(x: Tensor) -> None:
        total.add_(1 if x.sum().item() > 0 else -1)

    replay = Replay(update, lambda: {"total": total})
    for value in (1.0, -1.0, -1.0, -1.0):
        replay(torch.full((2,), value))
    assert total == -2
    assert replay.call == update


def test_an_update_that_leaves_torch_stays_what_it_is() -> None:
    """What it computes outside would be a constant of the recording."""
    total = torch.zeros(())

    def update(x: Tensor) -> None:
        total.add_(torch.from_numpy(x.numpy() * 2).sum())

    replay = Replay(update, lambda: {"total": total})
    replay(torch.ones(2))
    with pytest.warns(UserWarning, match="differs in total"):
        replay(torch.full((2,), 3.0))
    replay(torch.full((2,), 5.0))
    assert total == 2 * 2 + 2 * 6 + 2 * 10


def test_recording_frees_memory_as_the_update_does() -> None:
    with Recorder([x := torch.ones(3)]) as recorder:
        middle = x * 2
        gone = weakref.ref(middle)
        result = middle + 1
        del middle
        assert gone() is None
    replay, result_again = recorder.program(), torch.zeros(3)
    with Recorder([x]) as recorder:
        result_again.copy_(x * 2 + 1)
    recorder.program()(torch.full((3,), 4.0))
    assert result_again.tolist() == [9.0] * 3
    replay(x)
    assert result.tolist() == [3.0] * 3


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
