"""Properties of every model of the union, on every trunk and likelihood."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Iterator
from typing import Literal

import pytest
import torch
from torch import Tensor, nn

from aemodels.config import SettingsError
from aemodels.distributions import (
    BernoulliConfig,
    DiagonalNormal,
    DiagonalNormalHead,
    GaussianConfig,
    GaussianHead,
    kl_per_unit,
    seeded,
)
from aemodels.likelihoods import log_likelihood
from aemodels.models import AEConfig, CVAEConfig, GANConfig, IWAEConfig, VAEConfig, VAEGANConfig
from aemodels.models.base import Autoencoder, Batch, ModelConfig, Networks
from aemodels.models.vae import VAE
from aemodels.nets import ArticleConvConfig, BatchNorm, ConvConfig, Encoder, MLPConfig, ResidualConfig
from aemodels.objectives import free_bits, log_mean_exp
from aemodels.priors import GaussianMixturePrior

MODELS = [AEConfig, VAEConfig, CVAEConfig, IWAEConfig, VAEGANConfig]
TRUNKS = [MLPConfig(widths=(32,)), ConvConfig(channels=(8, 16), hidden=32), ResidualConfig(channels=(8,), hidden=32)]
BATCH_NORM = MLPConfig(widths=(32, 16), normalization="batch")
LIKELIHOODS = [
    BernoulliConfig(),
    GaussianConfig(sigma="fixed", output="tanh"),
    GaussianConfig(sigma="learned"),
    GaussianConfig(sigma="optimal"),
]
STEP = torch.tensor(0)
CLASSES = 3


def images(shape: tuple[int, int, int], n: int = 6) -> Batch:
    with seeded(1):
        return Batch(torch.rand(n, *shape), torch.arange(n) % CLASSES)


def build(config: ModelConfig, shape: tuple[int, int, int]) -> Autoencoder:
    with seeded(0):
        model = config.build(shape, num_classes=CLASSES)
    assert isinstance(model, Autoencoder)
    return model


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 33, 33), (1, 28, 28)])
@pytest.mark.parametrize("trunk", TRUNKS, ids=lambda t: t.name)
@pytest.mark.parametrize("model", MODELS)
def test_any_image_shape(model: type[ModelConfig], trunk, shape) -> None:
    built = build(model.model_validate({"trunk": trunk, "latent_dim": 5}), shape).eval()
    batch = images(shape)
    with torch.no_grad():
        q = built.encode(batch.x)
        assert q.mean.shape == (6, 5)
        assert built(batch.x).shape == batch.x.shape
        samples = built.sample(4)
    assert samples.shape == (4, *shape)
    assert samples.min() >= 0
    assert samples.max() <= 1


def variants() -> Iterator[ModelConfig]:
    """Every model on every trunk with every likelihood that it can have."""
    for trunk in TRUNKS:
        for model, likelihood in itertools.product(MODELS, LIKELIHOODS):
            if model is not VAEGANConfig or getattr(likelihood, "sigma", "") != "learned":
                yield model.model_validate({"trunk": trunk, "likelihood": likelihood})
        yield GANConfig(trunk=trunk)
        yield CVAEConfig(trunk=trunk, conditional_prior=True)
        yield IWAEConfig(trunk=trunk, samples=2, repeats=3, elbo_share=0.3)
    for model in (AEConfig, VAEConfig, CVAEConfig, IWAEConfig):
        yield model.model_validate({"trunk": BATCH_NORM})


@pytest.mark.parametrize("config", list(variants()), ids=lambda c: f"{c.name}-{c.trunk.name}")
def test_each_part_trains_all_its_parameters_and_no_other(config: ModelConfig) -> None:
    with seeded(0):
        built = config.build((1, 12, 12), num_classes=CLASSES)
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
@pytest.mark.parametrize("model", [AEConfig, VAEConfig, CVAEConfig, IWAEConfig])
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


def test_closed_form_rate_equals_monte_carlo() -> None:
    with seeded(0):
        q = DiagonalNormal(torch.randn(3, 4), torch.rand(3, 4) + 0.2, torch.tensor([1.0, 1.0, 1.0, 0.0]))
        p = DiagonalNormal(torch.zeros(4), torch.ones(4), q.unit_mask)
        z = q.rsample((200_000,))
    sampled = (q.log_prob(z) - p.log_prob(z)).mean(0)
    torch.testing.assert_close(kl_per_unit(q, p).sum(-1), sampled, atol=0.02, rtol=0.01)


def test_random_bits_cost_ln_2_nats_each() -> None:
    model = build(VAEConfig(), (1, 10, 10))
    for parameter in model.parameters():
        parameter.data.zero_()
    batch = Batch((torch.rand(5, 1, 10, 10) < 0.5).float(), None)
    terms = model.bound(batch)
    torch.testing.assert_close(terms["negative_elbo"], torch.full((5,), 100 * math.log(2)))


class LinearGaussianHead(GaussianHead):
    """Pixels around the decoder's output itself."""

    def output(self, h: Tensor) -> Tensor:
        return h


def linear_gaussian(w: Tensor, loc: Tensor, sigma: float) -> VAE:
    """The model x = loc + W z + sigma * noise with its exact posterior; W (P, D) with orthogonal columns, loc (P,)."""
    pixels, units = w.shape
    variance = 1 / (1 + w.square().sum(0) / sigma**2)
    encoder, posterior = Encoder(nn.Flatten(), features=pixels), DiagonalNormalHead(pixels, units)
    decoder = nn.Linear(units, pixels)
    head = LinearGaussianHead(torch.tensor(sigma).log(), signed=False)
    networks = Networks(encoder, posterior, nn.Sequential(decoder, nn.Unflatten(-1, (1, 1, pixels))), head)
    model = VAE(VAEConfig(latent_dim=units), (1, 1, pixels), 0, networks).double()
    with torch.no_grad():
        decoder.weight.copy_(w)
        decoder.bias.copy_(loc)
        posterior.mean.weight.copy_(variance[:, None] * w.T / sigma**2)
        posterior.mean.bias.copy_(-posterior.mean.weight @ loc)
        posterior.log_variance.weight.zero_()
        posterior.log_variance.bias.copy_(variance.log())
    return model


def linear_gaussian_case() -> tuple[VAE, Tensor, Tensor]:
    """A model, images (6, 1, 1, 4) and their log-likelihood in closed form (probabilistic PCA)."""
    sigma, loc = 0.5, torch.tensor([0.2, 0.4, 0.6, 0.8], dtype=torch.float64)
    w = torch.tensor([[0.3, 0.2], [-0.6, 0.1], [0.0, 0.9], [0.4, 0.0]], dtype=torch.float64)
    w[:, 1] -= w[:, 0] * (w[:, 0] @ w[:, 1]) / w[:, 0].square().sum()
    with seeded(0):
        x = torch.rand(6, 4, dtype=torch.float64)
    cov = w @ w.T + sigma**2 * torch.eye(4, dtype=torch.float64)
    exact = torch.distributions.MultivariateNormal(loc, cov).log_prob(x)
    return linear_gaussian(w, loc, sigma), x.view(6, 1, 1, 4), exact


def test_linear_gaussian_model_has_a_tight_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the exact posterior the bound is the closed-form log-likelihood."""
    # The distortion is quadratic in the noise, so its mean over all signs is its mean over all noise.
    signs = torch.tensor([[1, 1], [1, -1], [-1, 1], [-1, -1]], dtype=torch.float64)
    monkeypatch.setattr("aemodels.distributions.noise_like", lambda z: signs.repeat(len(z) // 4, 1))
    model, x, exact = linear_gaussian_case()
    with torch.no_grad():
        terms = model.bound(Batch(x.repeat_interleave(4, 0), None))
    bound = -terms["negative_elbo"].view(6, 4).mean(1)
    torch.testing.assert_close(bound, exact, atol=1e-4, rtol=0)


@pytest.mark.parametrize("samples", [1, 3])
def test_importance_sampling_from_the_exact_posterior_is_the_closed_form(samples: int) -> None:
    """All weights are equal, so any number of samples is exact."""
    model, x, exact = linear_gaussian_case()
    with torch.no_grad():
        torch.testing.assert_close(log_likelihood(model, Batch(x, None), samples), exact, atol=1e-4, rtol=0)


def test_importance_sampling_from_a_wrong_posterior_tightens_with_samples() -> None:
    model, x, exact = linear_gaussian_case()
    with torch.no_grad(), seeded(0):
        model.posterior.mean.bias.add_(0.4)
        model.posterior.log_variance.bias.add_(0.7)
        many = Batch(x.repeat(500, 1, 1, 1), None)  # the mean over 500 estimates of each image
        gaps = [float(exact.mean() - log_likelihood(model, many, samples).mean()) for samples in (1, 5, 25)]
        torch.testing.assert_close(log_likelihood(model, Batch(x, None), 200_000), exact, atol=1e-2, rtol=0)
    assert gaps[0] > 2 * gaps[1] > 4 * gaps[2] > 0


def test_a_streamed_mean_is_the_mean_at_once_and_does_not_overflow() -> None:
    with seeded(0):
        rows = torch.randn(1_000, 3, dtype=torch.float64) * 50 - torch.tensor([0.0, 3_000.0, -3_000.0])
    whole = rows.logsumexp(0) - math.log(1_000)
    for size in (1, 7, 1_000):
        torch.testing.assert_close(log_mean_exp(rows.split(size)), whole, atol=1e-10, rtol=0)
    assert log_mean_exp([torch.full((2, 1), -torch.inf), torch.zeros(2, 1)]).item() == pytest.approx(math.log(0.5))


def test_importance_sampling_decodes_few_codes_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x, _ = linear_gaussian_case()
    decoded: list[int] = []
    model.decoder.register_forward_pre_hook(lambda _, inputs: decoded.append(len(inputs[0])))
    monkeypatch.setattr("aemodels.likelihoods.AT_ONCE", 20)
    with torch.no_grad():
        log_likelihood(model, Batch(x, None), 10)
    assert decoded == [18, 18, 18, 6]  # three samples of each of six images


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


def test_free_bits_act_on_the_batch_mean_of_a_unit() -> None:
    rates = torch.tensor([[0.1, 2.0], [0.3, 0.0]], requires_grad=True)
    total = free_bits(rates, 0.5).sum(-1)
    assert total.mean().item() == pytest.approx(0.5 + 1.0)
    total.sum().backward()
    assert rates.grad is not None
    assert rates.grad.tolist() == [[0, 1], [0, 1]]


def test_masked_units_are_as_if_they_were_not_there() -> None:
    model = build(VAEConfig(latent_dim=4), (1, 8, 8))
    assert isinstance(model, VAE)
    masked = copy.deepcopy(model)
    masked.posterior.unit_mask[2:] = 0
    assert masked.prior().sample((5,))[:, 2:].abs().sum() == 0
    assert masked.rate_per_unit(images((1, 8, 8)).x)[:, 2:].abs().sum() == 0


def padded(model: Autoencoder, config: ModelConfig) -> Autoencoder:
    """The model within one of more latent units, whose own are masked; their weights are arbitrary."""
    wide = build(config, model.image_shape)
    state = wide.state_dict()
    for name, tensor in model.state_dict().items():
        state[name][tuple(slice(0, n) for n in tensor.shape)] = tensor
    state["posterior.unit_mask"][model.latent_dim :] = 0
    wide.load_state_dict(state)
    return wide


@pytest.mark.parametrize("trunk", TRUNKS[:2], ids=lambda t: t.name)
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
    monkeypatch.setattr("aemodels.distributions.noise_like", lambda z: tape[:, : z.shape[-1]].expand_as(z))
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
        torch.testing.assert_close(parameter.grad, gradient, msg=lambda text, name=name: f"{name}: {text}")


def test_masked_units_have_no_density() -> None:
    mask = torch.tensor([1.0, 1.0, 0.0])
    with seeded(0):
        loc, scale, z = torch.randn(4, 3), torch.rand(4, 3) + 0.5, torch.randn(4, 3)
    expected = torch.distributions.Normal(loc, scale).log_prob(z)[:, :2].sum(-1)
    torch.testing.assert_close(DiagonalNormal(loc, scale, mask).log_prob(z), expected)


@pytest.mark.parametrize("likelihood", LIKELIHOODS, ids=lambda c: f"{c.name}-{getattr(c, 'sigma', '')}")
@pytest.mark.parametrize("trunk", [*TRUNKS, ArticleConvConfig()], ids=lambda t: t.name)
@pytest.mark.parametrize("model", MODELS)
def test_codes_may_have_leading_axes(model: type[ModelConfig], trunk, likelihood) -> None:
    if isinstance(trunk, ArticleConvConfig) and model is CVAEConfig:
        return  # refused
    if model is VAEGANConfig and getattr(likelihood, "sigma", "") == "learned":
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


def test_mixture_prior_fits_codes_with_dead_units() -> None:
    with seeded(0):
        codes = torch.cat([torch.randn(400, 3) * 0.1 + 50, torch.randn(400, 3) * 0.1 - 50])
        codes[:, 2] = 7.0  # dead
        prior = GaussianMixturePrior(3)
        prior.fit(codes, seed=0)
        drawn = prior().sample((1000,))
    assert 0.4 < (drawn[:, 0] > 0).float().mean() < 0.6
    assert (drawn[:, 0].abs() - 50).abs().max() < 5
    assert (drawn[:, 2] - 7).abs().max() < 0.1


def test_the_article_networks_have_the_articles_sizes() -> None:
    conv = build(AEConfig(latent_dim=32, trunk=ArticleConvConfig()), (1, 28, 28))
    assert sum(p.numel() for p in conv.parameters()) == 160 + 1160 + (8 * 16 * 9 + 16) + (16 * 8 * 25 + 8) + (8 * 4 + 1)
    with pytest.raises(ValueError, match="article_conv"):
        build(AEConfig(latent_dim=32, trunk=ArticleConvConfig()), (3, 32, 32))
    with pytest.raises(ValueError, match=r"model\.latent_dim=20"):
        build(AEConfig(latent_dim=20, trunk=ArticleConvConfig()), (1, 28, 28))


def test_a_batch_is_normalised_and_held_out_images_by_its_running_means() -> None:
    """Mean 0 and variance 1 in training, whatever the batch; each image by itself in evaluation; one image too."""
    with seeded(0):
        norm, x = BatchNorm(3), 5 + 2 * torch.randn(400, 3)
    trained = norm(x)
    torch.testing.assert_close(trained.mean(0), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(trained.var(0, unbiased=False), torch.ones(3), atol=1e-4, rtol=0)
    for _ in range(200):
        norm(x)
    before = copy.deepcopy(norm.state_dict())
    alone = norm(x[:1])  # the rest of an epoch
    assert all(torch.equal(tensor, before[name]) for name, tensor in norm.state_dict().items())
    norm.eval()
    torch.testing.assert_close(norm(x), trained, atol=1e-2, rtol=0)
    torch.testing.assert_close(norm(x)[:1], alone)


@pytest.mark.parametrize("model", [GANConfig, VAEGANConfig])
def test_a_discriminator_judges_each_image_by_itself(model: type[ModelConfig]) -> None:
    with pytest.raises(SettingsError, match=r"model\.trunk\.normalization=batch: .*model\.trunk\.normalization=none"):
        model.model_validate({"trunk": BATCH_NORM}).build((1, 8, 8), 0)


def test_batch_norm_is_not_shared_between_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SettingsError, match=r"model\.trunk\.normalization=batch: under torchrun .*one process"):
        build(AEConfig(trunk=BATCH_NORM), (1, 8, 8))


def test_too_many_layers_for_a_small_image() -> None:
    with pytest.raises(ValueError, match=r"model\.trunk\.channels.*at most 3"):
        build(VAEConfig(trunk=ConvConfig(channels=(4, 4, 4, 4))), (1, 8, 8))
