"""Tests where new models begin: at the mean image, or at the linear code; and that none is lost from there."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import LowRankMultivariateNormal
from torch.nn import functional as F
from untrained import CLASSES, new

from aemodels.config import section_kinds
from aemodels.experiment import Experiment
from aemodels.models import AEConfig, CVAEConfig, IWAEConfig, VAEConfig, VAEGANConfig
from aemodels.models.base import Autoencoder, GenerativeModel, ModelConfig
from aemodels.nn.batch import Batch
from aemodels.nn.distributions import BernoulliConfig, GaussianConfig
from aemodels.nn.linear_code import LinearCode, linear_code
from aemodels.nn.photo import PhotoConfig, PhotoDecoder
from aemodels.nn.trunks import ConvConfig, MLPConfig, ResidualConfig
from aemodels.runtime.randomness import seeded

SIDE, COUNT = 16, 200
MODELS: list[Any] = list(section_kinds(Experiment.model_fields["model"]).values())  # the union
WITH_PIXELS = [model for model in MODELS if model.has_encoder and model is not VAEGANConfig]  # in their losses
TRUNKS = [MLPConfig(), ConvConfig(), ResidualConfig(), PhotoConfig()]
FIXED = GaussianConfig(sigma="fixed")
OUTPUTS = [BernoulliConfig(), FIXED, FIXED.override({"output": "tanh"}), FIXED.override({"output": "linear"})]
PHOTO = PhotoConfig(width=16)
LINEAR: Any = {"trunk": PHOTO, "likelihood": GaussianConfig(sigma="optimal", output="linear")}


def blobs(channels: int) -> Tensor:
    """Returns smooth random images, (N, C, H, W), as photos are."""
    return torch.sigmoid(F.interpolate(3 * torch.randn(COUNT, channels, 4, 4), size=SIDE, mode="bilinear"))


def strokes(channels: int) -> Tensor:
    """Returns a bright bar and a bright beam at random places on black."""
    x = torch.zeros(COUNT, channels, SIDE, SIDE)
    for image, (row, column) in zip(x, torch.randint(1, SIDE - 2, (COUNT, 2)).tolist(), strict=True):
        image[:, row : row + 2, 2:-2] = image[:, 2:-2, column : column + 2] = 1
    return x


def flat(channels: int) -> Tensor:
    """Returns images of one colour each."""
    return torch.rand(COUNT, channels, 1, 1).expand(-1, -1, SIDE, SIDE)


SETS = {
    "grey": lambda: blobs(1),
    "colour": lambda: blobs(3),
    "white on black": lambda: strokes(1),
    "black on white": lambda: 1 - strokes(1),
    "colour on white": lambda: 1 - strokes(3) * torch.rand(COUNT, 3, 1, 1),
    "flat": lambda: flat(1),
    "flat colour": lambda: flat(3),
    "noisy": lambda: (blobs(1) + 0.1 * torch.randn(COUNT, 1, SIDE, SIDE)).clamp(0, 1),
}


@cache
def images_of(name: str) -> tuple[Batch, Batch, LinearCode]:
    """Returns training images, other images, and the linear code of the former with 20 numbers."""
    with seeded(0):
        x = SETS[name]()
    x, y = (x * 255).round() / 255, torch.arange(COUNT) % CLASSES
    return Batch(x[:150], y[:150]), Batch(x[150:], y[150:]), linear_code(x[:150], 20)


def started(config: ModelConfig, name: str) -> GenerativeModel:
    train, _, code = images_of(name)
    model = new(config, tuple(train.x.shape[1:]))
    model.start_at(code.first)
    return model


def error(model: GenerativeModel, batch: Batch) -> float:
    assert isinstance(model, Autoencoder)
    with torch.no_grad():
        return float((model.eval()(batch.x, batch.y) - batch.x).square().mean())


def of_mean(name: str) -> float:
    _, held_out, code = images_of(name)
    return float((code.mean - held_out.x).square().mean())


def of_code(name: str, numbers: int) -> float:
    _, held_out, code = images_of(name)
    few = code.first(numbers)
    return float((few.decode(few.encode(held_out.x)).clamp(0, 1) - held_out.x).square().mean())


@pytest.mark.parametrize("latent_dim", [4, 20])
@pytest.mark.parametrize("likelihood", [GaussianConfig(sigma="fixed", output="linear"), None], ids=["linear", "auto"])
def test_an_autoencoder_for_photos_begins_as_the_linear_code(likelihood, latent_dim: int) -> None:
    settings = {} if likelihood is None else {"likelihood": likelihood}
    for name in SETS:
        model = started(AEConfig(latent_dim=latent_dim, trunk=PHOTO, **settings), name)
        assert error(model, images_of(name)[1]) == pytest.approx(of_code(name, latent_dim), rel=0.01, abs=1e-6)


@pytest.mark.parametrize("model", [VAEConfig, IWAEConfig, CVAEConfig])
def test_a_vae_for_photos_begins_as_probabilistic_principal_components(model: type[ModelConfig]) -> None:
    vae = started(model.model_validate({"latent_dim": 3, **LINEAR}), "noisy").eval()
    _, (x, y, _), code = images_of("noisy")
    few = code.first(3)
    noise = few.rest * few.mean.numel() / (few.mean.numel() - 3)
    factors = few.components.T * (few.variances - noise).sqrt()
    with torch.no_grad(), seeded(0):
        assert isinstance(vae, Autoencoder)
        q, p_z = vae.encode(x, y), vae.prior(y)
        z = q.rsample()
        log_x = vae.decode(z, y).log_prob(x) + p_z.log_prob(z) - q.log_prob(z)  # whatever the code, for the exact q
    exact = LowRankMultivariateNormal(few.mean.flatten(), factors, torch.full((len(factors),), noise))
    if model is not CVAEConfig:  # its decoder and its posterior are told the class by networks that are still silent
        torch.testing.assert_close(log_x, exact.log_prob(x.flatten(1)), rtol=1e-3, atol=0.1)


def test_units_without_a_component_are_unseen_and_can_learn() -> None:
    train, held_out, _ = images_of("flat")
    code = linear_code(train.x, 20)
    model = started(VAEConfig(latent_dim=20, **LINEAR), "flat")
    assert isinstance(model, Autoencoder)
    assert int((code.variances > 1e-3).sum()) == 1
    assert error(model, held_out) < 0.01 * of_mean("flat")
    loss = model.train().losses(train, torch.tensor(0))["autoencoder"].total.mean()
    decoder = model.decoder
    assert isinstance(decoder, PhotoDecoder)
    (gradient,) = torch.autograd.grad(loss, [decoder.linear.weight])
    assert (gradient.abs().sum(0) > 0).all()


@pytest.mark.parametrize("likelihood", OUTPUTS, ids=lambda c: f"{c.name}-{getattr(c, 'output', '')}")
@pytest.mark.parametrize("trunk", TRUNKS, ids=lambda t: t.name)
@pytest.mark.parametrize("model", MODELS)
def test_the_last_bias_is_the_mean_image(model: type[ModelConfig], trunk, likelihood) -> None:
    settings = {"trunk": trunk, **({"likelihood": likelihood} if model.has_encoder else {})}
    for name in ("colour", "black on white"):
        built = started(model.model_validate(settings), name)
        decoder = built.decoder if isinstance(built, Autoencoder) else built.get_submodule("generator")
        head = built.likelihood if isinstance(built, Autoencoder) else BernoulliConfig().build()
        last = [layer for layer in decoder.modules() if isinstance(layer, nn.Linear | nn.ConvTranspose2d)][-1]
        mean = images_of(name)[2].mean
        expected = mean if trunk.name in ("mlp", "photo") else mean.mean((1, 2), keepdim=True).expand_as(mean)
        shape = mean.shape if len(last.bias) == mean.numel() else (-1, 1, 1)
        drawn = head(last.bias.detach().view(1, *shape)).mean
        torch.testing.assert_close(drawn[0].expand_as(mean), expected.clamp(1 / 256, 1 - 1 / 256), atol=5e-3, rtol=0)


# ---------------------------------------------------------------- a default cannot die


def trained(config: ModelConfig, name: str, updates: int) -> GenerativeModel:
    model = started(config.for_images(images_of(name)[2].mean.shape, black_and_white=False), name).train()  # type: ignore[arg-type]
    train = images_of(name)[0]
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    with seeded(0):
        for step in range(updates):
            optimizer.param_groups[0]["lr"] = 5e-4 * (1 + math.cos(math.pi * step / updates))
            rows = torch.randint(len(train.x), (25,))
            optimizer.zero_grad()
            losses = model.losses(Batch(train.x[rows], train.y[rows]), torch.tensor(step))  # type: ignore[index]
            losses["autoencoder"].total.mean().backward()
            optimizer.step()
    return model


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("model", WITH_PIXELS)
def test_a_default_beats_the_mean_image_and_an_autoencoder_the_linear_code(model: type[ModelConfig], name: str) -> None:
    result = error(trained(model(), name, updates=8), images_of(name)[1])
    assert result < 0.9 * of_mean(name)
    if model is AEConfig:
        assert result < 1.01 * of_code(name, 20) + 1e-5


def everything() -> Iterator[ModelConfig]:
    for model, trunk, likelihood in itertools.product(WITH_PIXELS, TRUNKS, [BernoulliConfig(), GaussianConfig(), None]):
        chosen = {} if likelihood is None else {"likelihood": likelihood}
        yield model.model_validate({"trunk": trunk, **chosen})


@pytest.mark.slow
@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("config", list(everything()), ids=lambda c: f"{c.name}-{c.trunk.name}-{c.likelihood.name}")
def test_nothing_dies(config: ModelConfig, name: str) -> None:
    """A network that starts at the mean image may take a while to leave it."""
    errors = (error(trained(config, name, updates), images_of(name)[1]) for updates in (80, 400))
    assert any(found < of_mean(name) for found in errors)
