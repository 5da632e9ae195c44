"""What needs a CUDA device: graphs, stacks, memory. Runs on a machine without MLflow, Prefect and Optuna.

`python -m pytest tests/gpu -m gpu -p no:cacheprovider`; skipped where there is no device.
"""

from __future__ import annotations

import warnings

import pytest
import torch

from aemodels.data.batches import Batches
from aemodels.data.prepared import PreparedData
from aemodels.experiment import Experiment
from aemodels.members import Goals, MemberEnd
from aemodels.models import VAEConfig, VAEGANConfig
from aemodels.models.base import ModelConfig
from aemodels.nets import ConvConfig, MLPConfig
from aemodels.training import TrainingConfig, new_model, train
from aemodels.trials import STACK_SHARE, Runner, stack_bytes
from aemodels.updates import Graph, Updates

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]
MODELS = [
    VAEConfig(trunk=MLPConfig(widths=(32,)), beta_warmup_steps=7),
    VAEConfig(trunk=ConvConfig(channels=(8, 8))),
    VAEGANConfig(trunk=ConvConfig(channels=(8, 8))),  # a gradient within a gradient
]
CUDA = torch.device("cuda")


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AEMODELS_DEVICE", "cuda")


def updates(model: ModelConfig, data: PreparedData, precision: str = "float32") -> Updates:
    settings = {"epochs": 2, "images": 300, "batch_size": 64, "schedule": "cosine", "precision": precision}
    config = TrainingConfig.model_validate(settings | {"gradient_clip": 1.0})
    return Updates(new_model(model, data, 0), Batches(data, "train", CUDA, 300), config, seed=0)


@pytest.mark.usefixtures("device")
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("model", MODELS, ids=["mlp", "conv", "vae_gan"])
def test_a_replayed_graph_is_the_update(model: ModelConfig, precision: str, digits: PreparedData) -> None:
    """No warning (the capture worked), and the same terms as without a graph."""
    plain, replayed = updates(model, digits, precision), updates(model, digits, precision)
    plain._captured = lambda: None  # type: ignore[method-assign]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for index in (1, 2):
            expected = plain.epoch(index, (index - 1) * plain.steps)
            actual = replayed.epoch(index, (index - 1) * plain.steps)
            assert {k: v[0] for k, v in actual.items()} == pytest.approx(
                {k: v[0] for k, v in expected.items()}, rel=1e-2 if precision == "bfloat16" else 1e-3
            )
    assert isinstance(replayed._graph, Graph)


@pytest.mark.usefixtures("device")
def test_training_repeats_and_learns(digits: PreparedData) -> None:
    config = TrainingConfig(epochs=5, batch_size=64, learning_rate=3e-3)
    runs = [[epoch.metrics["val/negative_elbo"] for epoch in train(MODELS[0], digits, config, seed=0)] for _ in "ab"]
    assert runs[0] == pytest.approx(runs[1], rel=1e-4)
    assert runs[0][-1] < runs[0][0] - 10


@pytest.mark.usefixtures("device")
def test_a_stack_is_its_members_alone_within_noise(digits: PreparedData) -> None:
    base = Experiment().override({"training.epochs": 5, "evaluation.primary": "mse", "training.learning_rate": 3e-3})
    varied = [base.override({"model.latent_dim": d, "model.beta": b}) for d in (2, 8, 16) for b in (0.5, 1.0, 4.0)]
    ends = {
        e.index: e.metrics["mse"]
        for e in Runner(digits, None, Goals(("mse",), None)).run(varied)
        if isinstance(e, MemberEnd)
    }
    alone = {}
    for i, experiment in enumerate(varied):
        (end,) = (e for e in Runner(digits, None, Goals(("mse",), None)).run([experiment]) if isinstance(e, MemberEnd))
        alone[i] = end.metrics["mse"]
    assert ends == pytest.approx(alone, rel=0.1)


@pytest.mark.usefixtures("device")
def test_the_estimate_of_memory_is_not_far_off(digits: PreparedData) -> None:
    wide = {"model.trunk.widths": [2000]}  # beside which the libraries' own memory is small
    short = {"training.epochs": 1, "training.images": 512, "evaluation.primary": "mse"}
    experiment = Experiment().override(wide | short)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    list(Runner(digits, None, Goals(("mse",), None)).run([experiment.override({"seed": i}) for i in range(32)]))
    used = torch.cuda.max_memory_allocated() - before
    assert STACK_SHARE * used < 32 * stack_bytes(experiment, digits) < 3 * used
