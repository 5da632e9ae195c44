"""Properties of every model of the union, on every trunk and likelihood."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor

from aemodels.distributions import BernoulliConfig, DiagonalNormal, GaussianConfig, kl_per_unit, seeded
from aemodels.models import AEConfig, VAEConfig
from aemodels.models.base import Autoencoder, Batch, ModelConfig
from aemodels.models.vae import VAE
from aemodels.nets import ArticleConvConfig, ConvConfig, MLPConfig, ResidualConfig
from aemodels.objectives import free_bits
from aemodels.priors import GaussianMixturePrior

MODELS = [AEConfig, VAEConfig]
TRUNKS = [MLPConfig(widths=(32,)), ConvConfig(channels=(8, 16), hidden=32), ResidualConfig(channels=(8,), hidden=32)]
LIKELIHOODS = [
    BernoulliConfig(),
    GaussianConfig(sigma="fixed", output="tanh"),
    GaussianConfig(sigma="learned"),
    GaussianConfig(sigma="optimal"),
]
STEP = torch.tensor(0)


def images(shape: tuple[int, int, int], n: int = 6) -> Batch:
    with seeded(1):
        return Batch(torch.rand(n, *shape), None)


def build(config: ModelConfig, shape: tuple[int, int, int]) -> Autoencoder:
    with seeded(0):
        model = config.build(shape, num_classes=0)
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


@pytest.mark.parametrize("likelihood", LIKELIHOODS, ids=lambda c: f"{c.name}-{getattr(c, 'sigma', '')}")
@pytest.mark.parametrize("trunk", TRUNKS, ids=lambda t: t.name)
@pytest.mark.parametrize("model", MODELS)
def test_each_part_trains_all_its_parameters_and_no_other(model: type[ModelConfig], trunk, likelihood) -> None:
    built = build(model.model_validate({"trunk": trunk, "likelihood": likelihood}), (1, 12, 12))
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


@pytest.mark.parametrize("model", MODELS)
def test_overfits_a_batch(model: type[ModelConfig]) -> None:
    built = build(model.model_validate({"trunk": MLPConfig(widths=(64,)), "latent_dim": 16}), (1, 8, 8))
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


def test_linear_gaussian_model_has_a_tight_bound() -> None:
    """For x = W z + noise, with the exact posterior the bound is the closed-form log-likelihood."""
    sigma, loc = 0.5, 0.5
    w = torch.linspace(-0.1, 0.1, 4)
    x = loc + w + 0.1 * torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    variance = 1 / (1 + w.square().sum() / sigma**2)
    mean = variance * ((x - loc) @ w) / sigma**2
    q = DiagonalNormal(mean[:, None], variance.sqrt().expand(6, 1), torch.ones(1))
    prior = DiagonalNormal(torch.zeros(1), torch.ones(1), torch.ones(1))
    with seeded(0):
        z = q.rsample((100_000,))
    likelihood = torch.distributions.Normal(loc + z * w, sigma).log_prob(x).sum(-1)
    bound = (likelihood.mean(0) - kl_per_unit(q, prior).sum(-1)).double()
    cov = w.outer(w).double() + sigma**2 * torch.eye(4, dtype=torch.float64)
    exact = torch.distributions.MultivariateNormal(torch.full((4,), loc).double(), cov).log_prob(x.double())
    torch.testing.assert_close(bound, exact, atol=2e-3, rtol=0)


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
    total = free_bits(rates, 0.5)
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


def test_too_many_layers_for_a_small_image() -> None:
    with pytest.raises(ValueError, match=r"model\.trunk\.channels.*at most 3"):
        build(VAEConfig(trunk=ConvConfig(channels=(4, 4, 4, 4))), (1, 8, 8))
