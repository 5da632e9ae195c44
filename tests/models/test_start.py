"""Tests where new models begin: at the mean image, or at the linear code."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from small_sets import COUNT, SETS
from torch import nn
from torch.distributions import LowRankMultivariateNormal
from untrained import CLASSES, new

from aemodels.config import section_kinds
from aemodels.experiment import Experiment
from aemodels.models import AEConfig, CVAEConfig, IWAEConfig, VAEConfig
from aemodels.models.base import Autoencoder, GenerativeModel, ModelConfig
from aemodels.nn.batch import Batch
from aemodels.nn.distributions import BernoulliConfig, GaussianConfig
from aemodels.nn.linear_code import LinearCode, linear_code
from aemodels.nn.photo import PhotoConfig, PhotoDecoder
from aemodels.nn.trunks import ConvConfig, MLPConfig, ResidualConfig
from aemodels.runtime.randomness import seeded

SIDE = 16
MODELS: list[Any] = list(section_kinds(Experiment.model_fields["model"]).values())  # the union
TRUNKS = [MLPConfig(), ConvConfig(), ResidualConfig(), PhotoConfig()]
FIXED = GaussianConfig(sigma="fixed")
OUTPUTS = [BernoulliConfig(), FIXED, FIXED.override({"output": "tanh"}), FIXED.override({"output": "linear"})]
PHOTO = PhotoConfig(width=16)
LINEAR: Any = {"trunk": PHOTO, "likelihood": GaussianConfig(sigma="optimal", output="linear")}


@cache
def images_of(name: str) -> tuple[Batch, Batch, LinearCode]:
    """Returns training images, other images, and the linear code of the former with 20 numbers."""
    with seeded(0):
        x = SETS[name](SIDE)
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


@pytest.mark.parametrize("size", [(256, 300), (257, 519), (224, 224)])
def test_networks_see_and_draw_smaller_images_where_images_are_large(size: tuple[int, int]) -> None:
    encoder, decoder = PHOTO.encoder((1, *size), 3), PHOTO.decoder((1, *size), 4)
    assert PHOTO.sides((1, *size))[0] == (size[0] // 2, size[1] // 2)
    assert PHOTO.sides((1, 191, 300))[0] == (191, 300)
    assert PHOTO.sides((1, 512, 512))[0] == (128, 128)
    x = torch.rand(2, 1, *size)
    assert encoder(x).shape == (2, encoder.features)
    drawn = decoder(torch.rand(2, 4))
    assert drawn.shape == x.shape
    drawn.sum().backward()
    assert all(parameter.grad is not None for parameter in decoder.parameters())


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
