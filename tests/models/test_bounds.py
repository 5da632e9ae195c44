"""Tests bounds and their terms against closed forms of linear-Gaussian models."""

from __future__ import annotations

import math
from typing import Any, TypeVar

import pytest
import torch
from torch import Tensor, nn

from aemodels.evaluation.likelihood import log_likelihood
from aemodels.models import CVAEConfig, IWAEConfig, VAEConfig
from aemodels.models.base import Autoencoder, Networks
from aemodels.models.cvae import CVAE
from aemodels.models.iwae import IWAE
from aemodels.models.vae import VAE
from aemodels.nn.batch import Batch
from aemodels.nn.distributions import DiagonalNormal, DiagonalNormalHead, GaussianHead, GaussianPixels, kl_per_unit
from aemodels.nn.objectives import free_bits, importance_bound, log_mean_exp
from aemodels.nn.trunks import Encoder
from aemodels.runtime.randomness import seeded

CLASSES = 3
M = TypeVar("M", bound=Autoencoder)
STEP = torch.tensor(0)


def test_closed_form_rate_equals_monte_carlo() -> None:
    with seeded(0):
        q = DiagonalNormal(torch.randn(3, 4), torch.rand(3, 4) + 0.2, torch.tensor([1.0, 1.0, 1.0, 0.0]))
        p = DiagonalNormal(torch.zeros(4), torch.ones(4), q.unit_mask)
        z = q.rsample((200_000,))
    sampled = (q.log_prob(z) - p.log_prob(z)).mean(0)
    torch.testing.assert_close(kl_per_unit(q, p).sum(-1), sampled, atol=0.02, rtol=0.01)


def test_free_bits_act_on_the_batch_mean_of_a_unit() -> None:
    rates = torch.tensor([[0.1, 2.0], [0.3, 0.0]], requires_grad=True)
    total = free_bits(rates, 0.5).sum(-1)
    assert total.mean().item() == pytest.approx(0.5 + 1.0)
    total.sum().backward()
    assert rates.grad is not None
    assert rates.grad.tolist() == [[0, 1], [0, 1]]


class AnyPixels(GaussianPixels):
    """Has a mean that may leave [0, 1]."""

    @property
    def mean(self) -> Tensor:
        return self.output


class LinearGaussianHead(GaussianHead):
    """Makes pixels that are normal around the decoder's output itself."""

    def forward(self, h: Tensor) -> GaussianPixels:
        return AnyPixels(h, self.log_sigma)


def having(model: M, networks: Networks) -> M:
    """The model with these networks in place of its own."""
    model.encoder, model.posterior, model.decoder, model.likelihood = networks
    return model


def linear_gaussian(w: Tensor, loc: Tensor, sigma: float) -> VAE:
    """Makes the model x = loc + W z + sigma * noise with its exact posterior; W (P, D) is orthogonal, loc (P,)."""
    pixels, units = w.shape
    variance = 1 / (1 + w.square().sum(0) / sigma**2)
    encoder, posterior = Encoder(nn.Flatten(), features=pixels), DiagonalNormalHead(pixels, units)
    decoder = nn.Linear(units, pixels)
    head = LinearGaussianHead(torch.tensor(sigma).log(), "linear")
    networks = Networks(encoder, posterior, nn.Sequential(decoder, nn.Unflatten(-1, (1, 1, pixels))), head)
    model = having(VAEConfig(latent_dim=units).build((1, 1, pixels), 0), networks).double()
    with torch.no_grad():
        decoder.weight.copy_(w)
        decoder.bias.copy_(loc)
        posterior.mean.weight.copy_(variance[:, None] * w.T / sigma**2)
        posterior.mean.bias.copy_(-posterior.mean.weight @ loc)
        posterior.log_variance.weight.zero_()
        posterior.log_variance.bias.copy_(variance.log())
    return model


def linear_gaussian_case() -> tuple[VAE, Tensor, Tensor]:
    """Returns a model, images (6, 1, 1, 4) and their log-likelihood in closed form (probabilistic PCA)."""
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
    monkeypatch.setattr("aemodels.nn.noise.noise_like", lambda z: signs.repeat(len(z) // 4, 1))
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


def iwae(model: VAE, **settings: Any) -> IWAE:
    """Returns the same networks under the importance bound."""
    networks = Networks(model.encoder, model.posterior, model.decoder, model.likelihood)
    return having(IWAEConfig(latent_dim=model.latent_dim, **settings).build(model.image_shape, 0), networks)


@pytest.mark.parametrize(("samples", "repeats"), [(1, 1), (5, 1), (1, 4), (3, 2)])
def test_the_importance_bound_of_the_exact_posterior_is_the_closed_form(samples: int, repeats: int) -> None:
    """All weights are equal, so it is exact with any number of samples and repeats."""
    model, x, exact = linear_gaussian_case()
    with torch.no_grad():
        terms = iwae(model, samples=samples, repeats=repeats).bound(Batch(x, None))
    torch.testing.assert_close(-terms["negative_importance_bound"], exact, atol=1e-4, rtol=0)


def test_the_importance_bound_tightens_with_its_samples_and_not_with_its_repeats() -> None:
    model, x, exact = linear_gaussian_case()
    many = Batch(x.repeat(500, 1, 1, 1), None)  # the mean over 500 bounds of each image

    def gap(samples: int, repeats: int) -> float:
        bound = -iwae(model, samples=samples, repeats=repeats).bound(many)["negative_importance_bound"]
        return float(exact.mean() - bound.mean())

    with torch.no_grad(), seeded(0):
        model.posterior.mean.bias.add_(0.4)
        model.posterior.log_variance.bias.add_(0.7)
        assert gap(1, 1) > 2 * gap(5, 1) > 4 * gap(25, 1) > 0
        assert gap(1, 25) == pytest.approx(gap(1, 1), rel=0.1)


def test_the_importance_bound_averages_within_the_logarithm_over_samples_and_outside_it_over_repeats() -> None:
    log_w = torch.tensor([[[1.0, 8], [2, 8]], [[3, 8], [6, 8]]]).log()  # (K, M, B): means over K are 2 and 4, and 8
    torch.testing.assert_close(importance_bound(log_w), torch.tensor([1.5, 3]) * math.log(2))
    torch.testing.assert_close(importance_bound(log_w - 3_000), torch.tensor([1.5, 3]) * math.log(2) - 3_000)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_the_share_of_the_evidence_lower_bound_in_the_loss(share: float) -> None:
    """At 0 the loss is the importance bound alone, at 1 it is the VAE's."""
    case, x, _ = linear_gaussian_case()
    case.posterior.mean.bias.data.add_(0.4)
    model, batch = iwae(case, samples=4, repeats=2, elbo_share=share), Batch(x, None)
    with torch.no_grad(), seeded(3):
        (loss,) = model.losses(batch, STEP).values()
    with torch.no_grad(), seeded(3):
        terms = model.bound(batch)
    elbo, tight = terms["negative_elbo"], terms["negative_importance_bound"]
    assert (elbo - tight).abs().min() > 0.01
    torch.testing.assert_close(elbo, terms["distortion"] + terms["rate"])
    torch.testing.assert_close(loss.total, share * elbo + (1 - share) * tight)
    torch.testing.assert_close(terms, {**loss.terms, "objective": loss.total})


def test_a_held_out_importance_bound_decodes_few_codes_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    case, x, _ = linear_gaussian_case()
    case.posterior.mean.bias.data.add_(0.4)
    model, decoded = iwae(case, samples=5, repeats=2), list[int]()
    model.decoder.register_forward_pre_hook(lambda _, inputs: decoded.append(len(inputs[0])))
    monkeypatch.setattr("aemodels.nn.batch.AT_ONCE", 20)
    with torch.no_grad():
        with seeded(0):
            (whole,) = model.losses(Batch(x, None), STEP).values()
        with seeded(0):
            terms = model.bound(Batch(x, None))
    assert decoded == [60, 18, 18, 18, 6]  # training, whose gradient needs all; then three codes of each of six images
    torch.testing.assert_close(terms, {**whole.terms, "objective": whole.total})


def linear_conditional(w: Tensor, pictures: Tensor, centers: Tensor, sigma: float) -> CVAE:
    """Makes the model x = pictures[y] + W z + sigma * noise, z from N(centers[y], I), with its exact posterior.

    W (P, D) with orthogonal columns, pictures (K, P), centers (K, D).
    """
    (pixels, units), classes = w.shape, len(pictures)
    variance = 1 / (1 + w.square().sum(0) / sigma**2)
    encoder, posterior = Encoder(nn.Flatten(), features=pixels), DiagonalNormalHead(classes + pixels, units)
    decoder = nn.Linear(classes + units, pixels, bias=False)
    head = LinearGaussianHead(torch.tensor(sigma).log(), "linear")
    networks = Networks(encoder, posterior, nn.Sequential(decoder, nn.Unflatten(-1, (1, 1, pixels))), head)
    config = CVAEConfig(latent_dim=units, conditional_prior=True)
    model = having(config.build((1, 1, pixels), classes), networks)
    model.conditioning = nn.Identity()  # type: ignore[assignment]  # the class, then the image
    assert model.class_prior is not None
    by_image = variance[:, None] * w.T / sigma**2  # (D, P)
    by_class = centers - (pictures + centers @ w.T) @ by_image.T  # (K, D)
    with torch.no_grad():
        model.class_prior.mean.weight.copy_(centers.T)
        for head, log_variance in ((model.class_prior, torch.zeros(units)), (posterior, variance.log())):
            head.log_variance.weight.zero_()
            head.log_variance.bias.copy_(log_variance)
        model.class_prior.mean.bias.zero_()
        posterior.mean.weight.copy_(torch.cat([by_class.T, by_image], dim=1))
        posterior.mean.bias.zero_()
        decoder.weight.copy_(torch.cat([pictures.T, w], dim=1))
    return model.eval()


def of_classes(shares: list[int]) -> Batch:
    """Returns a batch with so many images of each class, which `fit_prior` counts."""
    y = torch.arange(len(shares)).repeat_interleave(torch.tensor(shares))
    return Batch(torch.zeros(len(y), 1, 1, 4), y)


@pytest.mark.parametrize("learned", [False, True], ids=["one prior", "a prior for each class"])
def test_a_conditional_model_sees_the_most_probable_class(learned: bool) -> None:
    """With the exact posterior its choice is Bayes' rule on the closed-form likelihoods of the classes."""
    sigma, w = 0.5, torch.tensor([[0.6, 0.0], [-0.6, 0.0], [0.0, 0.9], [0.0, 0.4]])
    with seeded(0):
        pictures, x = torch.rand(CLASSES, 4), torch.rand(400, 4) * 2 - 0.5
        centers = torch.randn(CLASSES, 2) * learned
    model = linear_conditional(w, pictures, centers, sigma)
    covariance = w @ w.T + sigma**2 * torch.eye(4)
    classes = torch.distributions.MultivariateNormal(pictures + centers @ w.T, covariance)
    log_likelihoods, found = classes.log_prob(x[:, None]), list[Tensor]()  # (400, K)
    for shares in ([5, 5, 5], [80, 15, 5], [30, 0, 70]):
        model.fit_prior([of_classes(shares)], seed=0)
        found.append(model.classify(x.view(-1, 1, 1, 4)))
        expected = log_likelihoods + (torch.tensor(shares) / sum(shares)).log()
        first, second = expected.topk(2).values.T
        clear = first - second > 1e-4  # not to be told by a rounding
        assert torch.equal(found[-1][clear], expected.argmax(1)[clear])
    assert len(found[0].unique()) == CLASSES
    assert (found[0] != found[1]).float().mean() > 0.1
    assert (found[2] != 1).all()  # nothing is of a class that there is not


def test_classes_are_drawn_as_often_as_the_training_images_have_them() -> None:
    """The model's images show their class and nothing else."""
    pictures = torch.tensor([[0.0, 0, 0, 1], [0, 0, 1, 0], [0, 1, 0, 0], [1, 0, 0, 0]])
    model = linear_conditional(torch.zeros(4, 2), pictures, torch.zeros(4, 2), sigma=0.1)
    torch.testing.assert_close(model.class_shares, torch.full((4,), 0.25))
    model.fit_prior([of_classes([10, 0, 25, 5]), of_classes([10, 0, 0, 0])], seed=0)
    torch.testing.assert_close(model.class_shares, torch.tensor([0.4, 0.0, 0.5, 0.1]))
    with torch.no_grad(), seeded(0):
        drawn = model.sample(4_000).flatten(1)
        asked = model.sample(3, torch.tensor([3, 0, 3])).flatten(1)
    torch.testing.assert_close(drawn.mean(0), torch.tensor([0.1, 0.5, 0.0, 0.4]), atol=0.03, rtol=0)
    assert torch.equal(asked, pictures[[3, 0, 3]])
    assert torch.equal(model.classify(asked.view(3, 1, 1, 4)), torch.tensor([3, 0, 3]))


def test_more_like_images_of_several_classes_keeps_to_each_class_s_codes() -> None:
    """The first class has three images for one of the last, whose codes lie far away. The middle class has none."""
    w, centers = torch.eye(4)[:, :2], torch.tensor([[-20.0, 0.0], [0.0, 0.0], [20.0, 0.0]])
    pictures = torch.eye(4)[1:] * 10
    model = linear_conditional(w, pictures, centers, sigma=0.1)
    y = torch.tensor([0, 0, 2, 0]).repeat(200)
    decoded: list[Tensor] = []
    with seeded(0):
        x = (pictures[y] + (centers[y] + torch.randn(800, 2)) @ w.T).view(-1, 1, 1, 4)
        model.decoder.register_forward_pre_hook(lambda _, inputs: decoded.append(inputs[0]))
        images = model.sample_like(x, 1_000, seed=0)
    shown, z = torch.cat(decoded)[-1_000:].split([CLASSES, 2], dim=1)  # before, it looked for the images' classes
    assert torch.equal(shown.mean(0) > 0, torch.tensor([True, False, True]))
    assert shown[:, 0].mean() == pytest.approx(0.75, abs=0.05)
    assert (z - shown @ centers).abs().max() < 6
    torch.testing.assert_close((z - shown @ centers).std(0), torch.ones(2), atol=0.1, rtol=0)
    assert torch.equal(model.classify(images) == 0, images[:, 0, 0, 0] < 0)  # every image is where its class is


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
    monkeypatch.setattr("aemodels.nn.batch.AT_ONCE", 20)
    with torch.no_grad():
        log_likelihood(model, Batch(x, None), 10)
    assert decoded == [18, 18, 18, 6]  # three samples of each of six images
