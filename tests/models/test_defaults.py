"""Tests that no default dies: every model, really trained, ends better than the mean image or the linear code.

A full training of a default takes minutes on a CPU. So all of its settings stay as they are but its length and, in
proportion, its warm-up.
"""

from __future__ import annotations

import itertools
from functools import cache
from typing import Any

import pytest
import torch
from quick import first
from small_sets import LEARNABLE, SETS
from torch import Tensor
from untrained import CLASSES

from aemodels.config import section_kinds
from aemodels.data import PreparedData, prepare
from aemodels.data.arrays import ArraysConfig, keep_arrays
from aemodels.data.statistics import linear_code_of
from aemodels.experiment import Experiment
from aemodels.models import VAEGANConfig
from aemodels.models.base import Autoencoder, GenerativeModel
from aemodels.runtime.progress import finish
from aemodels.runtime.randomness import seeded
from aemodels.training.models import best_model
from aemodels.training.train import train

SHORT = {"training.updates": 50, "training.warmup_steps": 4}  # in place of 1,500 and 100
LONGER = {"training.updates": 200, "training.warmup_steps": 13}  # for trunks that do not start at the linear code
PHOTO, MLP = 12, 8  # pixels a side: `auto` takes the trunk for photos, or an MLP
MODELS: dict[str, Any] = section_kinds(Experiment.model_fields["model"])  # the union
WITH_PIXELS = [name for name, model in MODELS.items() if model.has_encoder and model is not VAEGANConfig]  # in the loss
ADVERSARIAL = ["gan", "vae_gan"]  # the others; the fast one first
TRUNKS = ["mlp", "conv", "residual", "photo"]
LIKELIHOODS = ["auto", "bernoulli", "gaussian"]
QUICK = [("ae", "grey", PHOTO), ("ae", "white on black", MLP), ("vae", "noisy", PHOTO)]
DEFAULTS = sorted(itertools.product(WITH_PIXELS, SETS, (MLP, PHOTO)), key=lambda case: case not in QUICK)


@cache
def data_of(name: str, side: int) -> PreparedData:
    """Prepares a set; the classes follow from the pixels, as images of the same pixels have to be of one class."""
    with seeded(0):
        pixels = (SETS[name](side) * 255).round().to(torch.uint8)
    labels = (pixels.long().flatten(1) * torch.arange(pixels[0].numel())).sum(1) // 255 % CLASSES
    return finish(prepare(ArraysConfig(path=(keep_arrays(pixels.numpy(), labels.numpy()),))))


def trained(settings: dict[str, Any], data: PreparedData) -> GenerativeModel:
    """Trains as the commands do, and returns the best weights."""
    experiment = Experiment().override(settings).for_data(data)
    *_, last = train(experiment.model, data, experiment.training, experiment.seed)
    return best_model(experiment.model, data, experiment.training, experiment.seed, last.state)


def unseen(data: PreparedData) -> tuple[Tensor, Tensor]:
    images, labels = data.split("test")
    return torch.tensor(images) / 255, torch.tensor(labels)


def error(model: GenerativeModel, data: PreparedData) -> float:
    assert isinstance(model, Autoencoder)
    x, y = unseen(data)
    with torch.no_grad():
        return float((model(x.to(model.device), y.to(model.device)).cpu() - x).square().mean())


def of_code(data: PreparedData, numbers: int) -> float:
    """Returns the error of the linear code of so many numbers; with 0 that of the mean image."""
    code, (x, _) = linear_code_of(data, numbers, None), unseen(data)
    return float((code.decode(code.encode(x)).clamp(0, 1) - x).square().mean())


@pytest.mark.parametrize(("model", "name", "side"), first(len(QUICK), DEFAULTS))
def test_a_default_beats_the_mean_image_and_keeps_the_linear_code(model: str, name: str, side: int) -> None:
    data, length = data_of(name, side), SHORT if side == PHOTO else LONGER
    result = error(trained({"model": model, **length}, data), data)
    assert result < of_code(data, 0)
    if model == "ae" and side == PHOTO and name not in LEARNABLE:  # what a linear code misses takes longer to learn
        assert result < 1.01 * of_code(data, 20) + 1e-5


@pytest.mark.slow
def test_an_autoencoder_for_photos_ends_far_below_the_linear_code() -> None:
    """Here alone a default is trained in full, which takes minutes."""
    data = data_of("white on black", 16)
    assert error(trained({"model": "ae"}, data), data) < 0.5 * of_code(data, 20)


@pytest.mark.parametrize(("model", "name", "side"), first(1, itertools.product(ADVERSARIAL, SETS, (MLP, PHOTO))))
def test_an_adversarial_default_draws_many_images(model: str, name: str, side: int) -> None:
    data = data_of(name, side)
    network = trained({"model": model, **SHORT}, data)
    with torch.no_grad(), seeded(0):
        drawn = network.sample(32)
    assert drawn.isfinite().all()
    assert float(drawn.std(0).mean()) > 0.01


def product() -> list[tuple[str, str, str, str]]:
    """Returns all models x trunks x likelihoods, each on a set, so that each of them meets most of the sets."""
    kinds = itertools.product(WITH_PIXELS, TRUNKS, LIKELIHOODS)
    return [(*kind, list(SETS)[(3 * i + i // len(SETS)) % len(SETS)]) for i, kind in enumerate(kinds)]


@pytest.mark.slow
@pytest.mark.parametrize(("model", "trunk", "likelihood", "name"), product())
def test_nothing_dies(model: str, trunk: str, likelihood: str, name: str) -> None:
    """A network that starts at the mean image may take a while to leave it."""
    data, length = data_of(name, PHOTO), SHORT if trunk == "photo" else LONGER
    settings = {"model": model, "model.trunk": trunk, "model.likelihood": likelihood, **length}
    assert error(trained(settings, data), data) < of_code(data, 0)
