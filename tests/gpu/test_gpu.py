"""Tests what needs a CUDA device: graphs, stacks and memory, without MLflow, Prefect and Optuna.

`python -m pytest tests/gpu -m gpu -p no:cacheprovider`; skipped where there is no device.
"""

from __future__ import annotations

import subprocess
import sys
import warnings
from typing import Any

import pytest
import torch

from aemodels.data import streaming
from aemodels.data.batches import Batches
from aemodels.data.prepared import PreparedData
from aemodels.evaluation.features import Features
from aemodels.experiment import Experiment
from aemodels.models import AEConfig, VAEConfig, VAEGANConfig
from aemodels.models.base import ModelConfig
from aemodels.nn.trunks import ConvConfig, MLPConfig
from aemodels.training.config import TrainingConfig
from aemodels.training.graph import Graph, ReplayedUpdates
from aemodels.training.models import new_model
from aemodels.training.population import train_population
from aemodels.training.state import Epoch
from aemodels.training.train import train
from aemodels.training.update import Updates
from aemodels.tuning.costs import stack_bytes
from aemodels.tuning.messages import Goals, MemberEnd, MemberEpoch
from aemodels.tuning.runner import STACK_SHARE, Runner
from aemodels.tuning.trial import Conditions

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


def updates(
    model: ModelConfig, data: PreparedData, precision: str = "float32", kind: type[Updates] = ReplayedUpdates
) -> Updates:
    settings = {"epochs": 2, "images": 300, "batch_size": 64, "schedule": "cosine", "precision": precision}
    config = TrainingConfig.model_validate(settings | {"gradient_clip": 1.0})
    return kind(new_model(model, data, 0), Batches(data, "train", CUDA, 300), config, seed=0)


@pytest.mark.usefixtures("device")
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("model", MODELS, ids=["mlp", "conv", "vae_gan"])
def test_a_replayed_graph_is_the_update(model: ModelConfig, precision: str, digits: PreparedData) -> None:
    """It gives no warning, so the capture worked, and the same terms as an update without a graph."""
    plain, replayed = updates(model, digits, precision, Updates), updates(model, digits, precision)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for index in (1, 2):
            expected = plain.epoch(index, (index - 1) * plain.updates_per_epoch)
            actual = replayed.epoch(index, (index - 1) * plain.updates_per_epoch)
            assert {k: v[0] for k, v in actual.items()} == pytest.approx(
                {k: v[0] for k, v in expected.items()}, rel=1e-2 if precision == "bfloat16" else 1e-3
            )
    assert isinstance(replayed, ReplayedUpdates)
    assert isinstance(replayed.graph, Graph)


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
        for e in Runner(Conditions(digits, None, Goals(("mse",), None))).run(varied)
        if isinstance(e, MemberEnd)
    }
    alone = {}
    for i, experiment in enumerate(varied):
        (end,) = (
            e
            for e in Runner(Conditions(digits, None, Goals(("mse",), None))).run([experiment])
            if isinstance(e, MemberEnd)
        )
        alone[i] = end.metrics["mse"]
    assert ends == pytest.approx(alone, rel=0.1)


@pytest.mark.usefixtures("device")
def test_who_leaves_a_stack_changes_nothing_for_the_others(digits: PreparedData) -> None:
    """The update is captured anew for those that stay. Autoencoders draw no noise, so they end as if trained alone."""
    models = [AEConfig(latent_dim=d, trunk=MLPConfig(widths=(32,))) for d in (2, 7, 5)]
    config = TrainingConfig(epochs=3, images=300, batch_size=64)
    training = train_population(models, digits, config, [0, 0, 0])
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="no CUDA graph")
        assert next(training).keys() == {0, 1, 2}
        *_, told = training.send([1]), *training
    assert told.keys() == {0, 2}
    for number, epoch in told.items():
        *_, alone = train(models[number], digits, config, seed=0)
        assert isinstance(epoch, Epoch)
        assert epoch.metrics["val/distortion"] == pytest.approx(alone.metrics["val/distortion"], rel=1e-2)


@pytest.mark.usefixtures("device")
def test_a_search_judges_samples_by_their_features(digits: PreparedData, features: Features) -> None:
    """It measures them after every epoch and at the end, with a classifier that was fitted on the CPU."""
    short = Experiment().override({"training.epochs": 2, "evaluation.primary": "frechet_samples"})
    runner = Runner(Conditions(digits, features, Goals(("frechet_samples",), "frechet_samples")))
    events = list(runner.run([short.override({"seed": seed}) for seed in range(2)]))
    watched = [event.value for event in events if isinstance(event, MemberEpoch)]
    judged = [event.metrics["frechet_samples"] for event in events if isinstance(event, MemberEnd)]
    assert (len(watched), len(judged)) == (4, 2)
    assert all(value is not None and 0 < value < 1000 for value in (*watched, *judged))


@pytest.mark.usefixtures("device")
def test_streamed_equals_resident(digits: PreparedData, monkeypatch: pytest.MonkeyPatch) -> None:
    """Page-locked buffers are filled again while the GPU is still at work."""
    for name, images in {"BLOCK": 8, "WINDOW": 100, "ORDERED_WINDOW": 50}.items():
        monkeypatch.setattr(streaming, name, images * 28 * 28)
    resident = Batches(digits, "train", CUDA)
    monkeypatch.setattr("aemodels.data.batches.fits", lambda *_: False)
    streamed = Batches(digits, "train", CUDA)
    assert resident.resident is not None
    assert streamed.resident is None
    expected = [*resident.shuffled(64, seed=1), *resident.in_order(64)]
    for a, b in zip([*streamed.shuffled(64, seed=1), *streamed.in_order(64)], expected, strict=True):
        assert torch.equal(a.x, b.x)
        assert torch.equal(a.y, b.y)


def test_cuda_may_begin_within_a_seeded_block() -> None:
    """CUDA's noise then comes from the block's seed, and the caller's noise stays the caller's."""
    code = """
import torch
from aemodels.runtime.randomness import seeded
torch.manual_seed(5)
with seeded(3):
    assert not torch.cuda.is_initialized()
    %s
outside = torch.rand(4, device="cuda")
torch.manual_seed(5)
assert torch.equal(outside, torch.rand(4, device="cuda"))
with seeded(3):
    first = torch.rand(4, device="cuda")
    %s
"""
    for inside, compared in (("", ""), ('drawn = torch.rand(4, device="cuda")', "assert torch.equal(drawn, first)")):
        subprocess.run([sys.executable, "-c", code % (inside, compared)], check=True)


# beside which the libraries' own memory is small; of small batches of the convolutions the validation is the most
WIDE = {"model.trunk.widths": [2000]}
CONVOLUTIONS = {"model.trunk": {"name": "conv", "hidden": 32}, "training.batch_size": 16}


@pytest.mark.usefixtures("device")
@pytest.mark.parametrize("settings", [WIDE, CONVOLUTIONS], ids=["wide", "conv"])
def test_the_estimate_of_memory_is_not_far_off(settings: dict[str, Any], digits: PreparedData) -> None:
    short = {"training.epochs": 1, "training.images": 512, "evaluation.primary": "mse"}
    experiment = Experiment().override(settings | short)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    list(
        Runner(Conditions(digits, None, Goals(("mse",), None))).run(
            [experiment.override({"seed": i}) for i in range(32)]
        )
    )
    used = torch.cuda.max_memory_allocated() - before
    assert STACK_SHARE * used < 32 * stack_bytes(experiment, digits) < 3 * used
