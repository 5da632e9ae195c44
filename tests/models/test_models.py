"""Tests properties of every model of the union, on every trunk and likelihood."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Iterator
from typing import Any, Literal

import pytest
import torch
from torch import Tensor
from untrained import BATCH_NORM, CLASSES, build, images, new

from aemodels.config import SettingsError, section_kinds
from aemodels.experiment import Experiment
from aemodels.models import AEConfig, CVAEConfig, GANConfig, IWAEConfig, VAEConfig, VAEGANConfig
from aemodels.models.base import Autoencoder, ModelConfig
from aemodels.models.vae import VAE
from aemodels.nn.batch import Batch
from aemodels.nn.distributions import BernoulliConfig, DiagonalNormal, GaussianConfig
from aemodels.nn.objectives import distortion
from aemodels.nn.photo import PhotoConfig, PhotoEncoder
from aemodels.nn.trunks import ArticleConvConfig, ConvConfig, MLPConfig, ResidualConfig
from aemodels.runtime.randomness import seeded

MODELS: list[Any] = list(section_kinds(Experiment.model_fields["model"]).values())  # the union
AUTOENCODERS = [model for model in MODELS if model.has_encoder]
TRUNKS = [
    MLPConfig(widths=(32,)),
    ConvConfig(channels=(8, 16), hidden=32),
    ResidualConfig(channels=(8,), hidden=32),
    PhotoConfig(width=16),
]
LIKELIHOODS = [
    BernoulliConfig(),
    GaussianConfig(sigma="fixed", output="tanh"),
    GaussianConfig(sigma="learned"),
    GaussianConfig(sigma="optimal"),
    GaussianConfig(sigma="optimal", output="linear"),
]
STEP = torch.tensor(0)
ADVERSARIAL = [model for model in MODELS if len(model().build((1, 8, 8), CLASSES).parts()) > 1]
OF_ONE_PART = [model for model in MODELS if model not in ADVERSARIAL]


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 33, 33), (1, 28, 28), (3, 12, 20), (1, 21, 9)])
@pytest.mark.parametrize("trunk", TRUNKS, ids=lambda t: t.name)
@pytest.mark.parametrize("model", MODELS)
def test_any_image_shape(model: type[ModelConfig], trunk, shape) -> None:
    built = new(model.model_validate({"trunk": trunk, "latent_dim": 5}), shape).eval()
    batch = images(shape)
    assert isinstance(built, Autoencoder) == model.has_encoder
    assert all(loss.total.isfinite().all() for loss in built.losses(batch, STEP).values())
    with torch.no_grad():
        if isinstance(built, Autoencoder):
            assert built.encode(batch.x).mean.shape == (6, 5)
            assert built(batch.x).shape == batch.x.shape
        assert all(term.shape == (6,) for term in built.bound(batch).values())
        samples = built.sample(4)
    assert samples.shape == (4, *shape)
    assert samples.min() >= 0
    assert samples.max() <= 1


def has_likelihood(model: type[ModelConfig], likelihood: Any) -> bool:
    """Tells whether a model can have it: no method finds the sigma of a VAE-GAN."""
    return model.has_encoder and (model is not VAEGANConfig or getattr(likelihood, "sigma", "fixed") == "fixed")


def variants() -> Iterator[ModelConfig]:
    """Returns every model on every trunk with every likelihood that it can have."""
    for trunk in TRUNKS:
        for model, likelihood in itertools.product(MODELS, LIKELIHOODS):
            if has_likelihood(model, likelihood):
                yield model.model_validate({"trunk": trunk, "likelihood": likelihood})
        yield from (model(trunk=trunk) for model in MODELS if not model.has_encoder)
        yield CVAEConfig(trunk=trunk, conditional_prior=False)
        yield IWAEConfig(trunk=trunk, samples=2, repeats=3, elbo_share=0.3)
    for model in OF_ONE_PART:
        yield model(trunk=BATCH_NORM)


@pytest.mark.parametrize("config", list(variants()), ids=lambda c: f"{c.name}-{c.trunk.name}")
def test_each_part_trains_all_its_parameters_and_no_other(config: ModelConfig) -> None:
    built = new(config, (1, 12, 12))
    losses = built.losses(images((1, 12, 12)), STEP)
    assert losses.keys() == built.parts().keys()
    owned: list[Tensor] = []
    for part, loss in losses.items():
        assert loss.total.shape == (6,)
        parameters = list(built.part_parameters(part))
        gradients = torch.autograd.grad(loss.total.mean(), parameters, retain_graph=True)
        assert all(g.abs().sum() > 0 for g in gradients)
        owned += parameters
    assert {id(p) for p in owned} == {id(p) for p in built.parameters()}


@pytest.mark.parametrize("normalization", ["none", "batch"])
@pytest.mark.parametrize("model", OF_ONE_PART)
def test_overfits_a_batch(model: type[ModelConfig], normalization: Literal["none", "batch"]) -> None:
    trunk = MLPConfig(widths=(64,), normalization=normalization)
    built = build(model.model_validate({"trunk": trunk, "latent_dim": 16}), (1, 8, 8))
    batch = images((1, 8, 8))
    optimizer = torch.optim.Adam(built.parameters(), lr=3e-3)
    start = ((built(batch.x) - batch.x) ** 2).mean().item()
    with seeded(0):
        for _ in range(300):
            optimizer.zero_grad()
            built.losses(batch, STEP)["autoencoder"].total.mean().backward()
            optimizer.step()
    assert ((built.eval()(batch.x) - batch.x) ** 2).mean().item() < 0.35 * start


@pytest.mark.parametrize("model", ADVERSARIAL)
def test_who_plays_against_a_discriminator_learns_to_draw_the_image_that_it_saw(model: type[ModelConfig]) -> None:
    built = new(model.model_validate({"trunk": MLPConfig(widths=(64,)), "latent_dim": 16}), (1, 8, 8))
    batch = Batch(images((1, 8, 8), n=1).x.expand(6, -1, -1, -1), None)
    own = {part: list(built.part_parameters(part)) for part in built.parts()}
    optimizers = [torch.optim.Adam(parameters, lr=1e-3) for parameters in own.values()]
    with seeded(0):
        start = (built.sample(100) - batch.x[0]).square().mean().item()
        for _ in range(300):
            losses = {part: loss.total.mean() for part, loss in built.losses(batch, STEP).items()}
            for part, parameters in own.items():
                gradients = torch.autograd.grad(losses[part], parameters, retain_graph=True)
                for parameter, gradient in zip(parameters, gradients, strict=True):
                    parameter.grad = gradient
            for optimizer in optimizers:
                optimizer.step()
        assert (built.sample(100) - batch.x[0]).square().mean().item() < 0.35 * start


@pytest.mark.parametrize("output", ["sigmoid", "tanh"])
@pytest.mark.parametrize("model", AUTOENCODERS)
def test_a_denoising_model_sees_the_corrupted_image_and_aims_at_the_clean_one(model, output, monkeypatch) -> None:
    monkeypatch.setattr("aemodels.nn.noise.noise_like", torch.zeros_like)
    likelihood = GaussianConfig(sigma="fixed", output=output)
    built = build(model(trunk=MLPConfig(widths=(16,)), likelihood=likelihood), (1, 8, 8))
    x, y, _ = images((1, 8, 8))
    corrupted = (x > 0.5).float()
    seen: list[Tensor] = []
    built.encoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        expected = distortion(built.decode(built.encode(corrupted, y).mean, y), x)
        torch.testing.assert_close(built.bound(Batch(x, y, corrupted))["distortion"], expected)
        built.losses(Batch(x, y, corrupted), STEP)
    assert all(torch.equal(each, built.likelihood.scale(corrupted)) for each in seen)


def test_random_bits_cost_ln_2_nats_each() -> None:
    model = build(VAEConfig(likelihood=BernoulliConfig()), (1, 10, 10))
    for parameter in model.parameters():
        parameter.data.zero_()
    batch = Batch((torch.rand(5, 1, 10, 10) < 0.5).float(), None)
    terms = model.bound(batch)
    torch.testing.assert_close(terms["negative_elbo"], torch.full((5,), 100 * math.log(2)))


@pytest.mark.parametrize("beta", [0.5, 4.0])
def test_beta_weighs_the_rate_in_the_loss_and_in_what_picks_the_weights(beta: float) -> None:
    batch, model = images((1, 8, 8)), build(VAEConfig(beta=beta), (1, 8, 8))
    with torch.no_grad():
        model.get_submodule("posterior.mean").weight.mul_(20)
        loss, bound = model.losses(batch, STEP)["autoencoder"], model.bound(batch)
    assert bound["rate"].min() > 1
    torch.testing.assert_close(loss.total, loss.terms["distortion"] + beta * loss.terms["rate"])
    torch.testing.assert_close(bound["objective"], bound["distortion"] + beta * bound["rate"])
    for terms in (loss.terms, bound):
        torch.testing.assert_close(terms["negative_elbo"], terms["distortion"] + terms["rate"])


@pytest.mark.parametrize(("output", "low"), [("sigmoid", 0), ("tanh", -1)])
def test_networks_see_pixels_in_the_range_of_their_output(output: Literal["sigmoid", "tanh"], low: int) -> None:
    model = build(VAEConfig(likelihood=GaussianConfig(output=output)), (1, 8, 8))
    seen: list[Tensor] = []
    model.encoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    x = torch.linspace(0, 1, 64).view(1, 1, 8, 8)
    reconstruction = model(x)
    torch.testing.assert_close(seen, [torch.linspace(low, 1, 64).view(1, 1, 8, 8)])
    h = model.decoder(model.encode(x).mean)
    torch.testing.assert_close(reconstruction, (h.tanh() + 1) / 2 if low else h.sigmoid())


def test_beta_1_is_the_vae_and_the_warm_up_starts_without_rate() -> None:
    batch = images((1, 8, 8))
    model = build(VAEConfig(beta_warmup_steps=10), (1, 8, 8))

    def total(step: int) -> tuple[Tensor, dict[str, Tensor]]:
        with seeded(3):
            loss = model.losses(batch, torch.tensor(step))["autoencoder"]
        return loss.total, loss.terms

    start, terms = total(0)
    torch.testing.assert_close(start, terms["distortion"])
    end, terms = total(10)
    torch.testing.assert_close(end, terms["negative_elbo"])


def test_masked_units_are_as_if_they_were_not_there() -> None:
    model = build(VAEConfig(latent_dim=4), (1, 8, 8))
    assert isinstance(model, VAE)
    masked = copy.deepcopy(model)
    masked.posterior.unit_mask[2:] = 0
    assert masked.prior().sample((5,))[:, 2:].abs().sum() == 0
    assert masked.rate_per_unit(images((1, 8, 8)).x)[:, 2:].abs().sum() == 0


def padded(model: Autoencoder, config: ModelConfig) -> Autoencoder:
    """Makes the model a part of one with more latent units. The added units are masked, and have arbitrary weights.

    Features that go with the units, as those of a linear path, are not masked: their weights are 0, as in a population.
    """
    wide = build(config, model.image_shape)
    state = wide.state_dict()
    if isinstance(wide.encoder, PhotoEncoder):
        state = {name: torch.zeros_like(tensor) for name, tensor in state.items()}
    for name, tensor in model.state_dict().items():
        state[name][tuple(slice(0, n) for n in tensor.shape)] = tensor
    state["posterior.unit_mask"][model.latent_dim :] = 0
    wide.load_state_dict(state)
    return wide


@pytest.mark.parametrize("trunk", [*TRUNKS[:2], PhotoConfig(width=16)], ids=lambda t: t.name)
@pytest.mark.parametrize(
    ("model", "settings"),
    [
        (AEConfig, {}),
        (VAEConfig, {"beta": 2.0}),
        (VAEConfig, {"free_bits": 0.05}),
        (VAEConfig, {"free_bits": 5.0}),
        (CVAEConfig, {"conditional_prior": True}),
        (IWAEConfig, {"samples": 3, "repeats": 2}),
        (VAEGANConfig, {}),
    ],
    ids=["ae", "vae", "free_bits", "only_free_bits", "cvae", "iwae", "vae_gan"],
)
def test_a_padded_model_is_the_same_model(model: type[ModelConfig], settings, trunk, monkeypatch) -> None:
    with seeded(2):
        tape = torch.randn(6, 5)
    monkeypatch.setattr("aemodels.nn.noise.noise_like", lambda z: tape[:, : z.shape[-1]].expand_as(z))
    alone = build(model.model_validate({"latent_dim": 3, "trunk": trunk} | settings), (1, 12, 12))
    wide = padded(alone, model.model_validate({"latent_dim": 5, "trunk": trunk} | settings))
    batch = images((1, 12, 12))
    expected, losses = (m.losses(batch, STEP) for m in (alone, wide))
    torch.testing.assert_close(losses, expected)
    torch.testing.assert_close(wide.bound(batch), alone.bound(batch))
    torch.testing.assert_close(wide(batch.x, batch.y), alone(batch.x, batch.y))
    sum(loss.total.sum() for loss in expected.values()).backward()
    sum(loss.total.sum() for loss in losses.values()).backward()
    own = dict(alone.named_parameters())
    for name, parameter in wide.named_parameters():
        gradient = torch.zeros_like(parameter)
        gradient[tuple(slice(0, n) for n in own[name].shape)] = own[name].grad
        torch.testing.assert_close(
            parameter.grad, gradient, rtol=1e-5, atol=1e-4, msg=lambda text, name=name: f"{name}: {text}"
        )


def test_masked_units_have_no_density() -> None:
    mask = torch.tensor([1.0, 1.0, 0.0])
    with seeded(0):
        loc, scale, z = torch.randn(4, 3), torch.rand(4, 3) + 0.5, torch.randn(4, 3)
    expected = torch.distributions.Normal(loc, scale).log_prob(z)[:, :2].sum(-1)
    torch.testing.assert_close(DiagonalNormal(loc, scale, mask).log_prob(z), expected)


@pytest.mark.parametrize("likelihood", LIKELIHOODS, ids=lambda c: f"{c.name}-{getattr(c, 'sigma', '')}")
@pytest.mark.parametrize("trunk", [*TRUNKS, ArticleConvConfig()], ids=lambda t: t.name)
@pytest.mark.parametrize("model", AUTOENCODERS)
def test_codes_may_have_leading_axes(model: type[ModelConfig], trunk, likelihood) -> None:
    if isinstance(trunk, ArticleConvConfig) and model is CVAEConfig:
        return  # refused
    if not has_likelihood(model, likelihood):
        return  # refused
    shape = (1, 28, 28) if isinstance(trunk, ArticleConvConfig) else (3, 9, 9)
    config = model.model_validate({"trunk": trunk, "likelihood": likelihood, "latent_dim": 32})
    built, (x, y, _) = build(config, shape).eval(), images(shape)
    with torch.no_grad(), seeded(0):
        z = built.encode(x, y).rsample((5,))
        p_x = built.decode(z, y)
        one_by_one = [built.decode(codes, y) for codes in z]
    assert p_x.mean.shape == (5, 6, *shape)
    assert p_x.log_prob(x).shape == (5, 6)
    torch.testing.assert_close(p_x.mean, torch.stack([p.mean for p in one_by_one]))
    torch.testing.assert_close(p_x.log_prob(x), torch.stack([p.log_prob(x) for p in one_by_one]), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("model", [GANConfig, VAEGANConfig])
def test_a_discriminator_judges_each_image_by_itself(model: type[ModelConfig]) -> None:
    with pytest.raises(SettingsError, match=r"model\.trunk\.normalization=batch: .*model\.trunk\.normalization=none"):
        model.model_validate({"trunk": BATCH_NORM}).build((1, 8, 8), 0)


@pytest.mark.parametrize("sigma", ["learned", "optimal"])
def test_a_vae_gan_has_no_sigma_to_find(sigma: Literal["learned", "optimal"]) -> None:
    with pytest.raises(SettingsError, match=rf"model\.likelihood\.sigma={sigma}: .*sigma=fixed.*likelihood=bernoulli"):
        build(VAEGANConfig(likelihood=GaussianConfig(sigma=sigma)), (1, 8, 8))
