"""Tests priors that are fitted to codes: what they draw is like what they were fitted to."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from quick import first
from torch import Tensor

from aemodels.checkpoints.checkpoint import load_model, save_card
from aemodels.checkpoints.training import save_best, saved_epochs
from aemodels.config import SettingsError, UserError
from aemodels.data import PreparedData
from aemodels.experiment import Experiment
from aemodels.models import AEConfig, CVAEConfig, IWAEConfig, VAEConfig
from aemodels.models.base import Autoencoder
from aemodels.nn.batch import Batch
from aemodels.nn.trunks import MLPConfig
from aemodels.priors import FittedName, PriorName
from aemodels.priors.fitting import fitted, fitted_to_few
from aemodels.runtime.randomness import seeded
from aemodels.training.config import TrainingConfig
from aemodels.training.models import training_codes
from aemodels.training.population import train_population
from aemodels.training.state import new_state


@pytest.fixture(autouse=True)
def _fewer_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aemodels.priors.flow.FLOW_STEPS", 300)


def two_clusters(n: int) -> Tensor:
    """Returns codes (n, 3) around (5, 50, 7) and (-5, -50, 7), whose units have other scales and one is dead."""
    with seeded(0):
        codes = torch.randn(n, 3) * torch.tensor([0.1, 1.0, 0.0]) + torch.tensor([5.0, 50.0, 0.0])
        codes[::2] *= -1
    codes[:, 2] = 7
    return codes


FITTED = [name for name in get_args(PriorName) if name != "standard_normal"]  # which is fitted to nothing
OF_MODELS = get_args(FittedName)  # a model draws from these by itself


@pytest.mark.parametrize("name", first(len(FITTED) - 1, FITTED))
def test_samples_have_the_moments_of_the_codes_and_a_density(name: str) -> None:
    codes = two_clusters(2_000)
    with torch.no_grad(), seeded(1):
        prior = fitted(name, codes, seed=3)
        drawn = prior().sample((2_000,))
        density = prior().log_prob(codes)
    torch.testing.assert_close(
        drawn.mean(0) / codes.std(0).clamp(min=1), codes.mean(0) / codes.std(0).clamp(min=1), atol=0.15, rtol=0
    )
    torch.testing.assert_close(drawn.std(0)[:2], codes.std(0)[:2], rtol=0.15, atol=0)
    assert (drawn[:, 2] - 7).abs().max() < 0.1
    assert density.shape == (2_000,)
    assert density.isfinite().all()


@pytest.mark.slow
def test_more_flexible_priors_have_a_higher_density_of_held_out_codes() -> None:
    """The clusters are not Gaussian."""
    codes = two_clusters(4_000)[:, :2]
    with torch.no_grad():
        density = {name: fitted(name, codes[:3_000], 0)().log_prob(codes[3_000:]).mean() for name in FITTED}
    assert density["mixture"] > density["gaussian"] + 1
    assert density["flow"] > density["gaussian"] + 1


@pytest.mark.slow
def test_the_same_seed_fits_the_same_prior() -> None:
    codes = two_clusters(500)
    for name in get_args(PriorName):
        a, b = (fitted(name, codes, seed=5).state_dict() for _ in range(2))
        assert all(torch.equal(a[key], b[key]) for key in a)


def test_fewer_codes_than_units_give_a_shrunk_gaussian() -> None:
    with seeded(0):
        codes = torch.randn(5, 20)
        drawn = fitted_to_few(codes, seed=0)().sample((100,))
    assert drawn.isfinite().all()
    assert drawn.std() < 2


def test_the_standard_normal_is_fitted_to_nothing() -> None:
    prior = fitted("standard_normal", two_clusters(50), seed=0)()
    with seeded(0):
        drawn = prior.sample((5_000,))
    torch.testing.assert_close(drawn.mean(0), torch.zeros(3), atol=0.05, rtol=0)
    torch.testing.assert_close(torch.cov(drawn.T), torch.eye(3), atol=0.07, rtol=0)


def test_an_unknown_prior() -> None:
    with pytest.raises(
        UserError, match="prior=normal: unknown; choose one of gaussian, mixture, flow, standard_normal"
    ):
        fitted("normal", torch.zeros(3, 2), 0)


# ---------------------------------------------------------------- what they are fitted to


def noise_alone(data: PreparedData) -> Autoencoder:
    """Returns a VAE whose posterior is N(0, I) for every image, so that its means have no variance."""
    model = VAEConfig(latent_dim=3, trunk=MLPConfig(widths=(16,))).build(data.image_shape, data.num_classes)
    with torch.no_grad():
        for parameter in model.posterior.parameters():
            parameter.zero_()
    return model.eval()


def test_priors_are_fitted_to_posterior_samples_of_images_that_were_trained_on(digits: PreparedData) -> None:
    model, one = noise_alone(digits), torch.ones(3)
    kept = training_codes(model, digits, TrainingConfig(images=700), seed=0)
    assert kept is not None
    assert kept.shape == (700, 3)
    torch.testing.assert_close(kept.var(0), one, atol=0.2, rtol=0)
    decoded: list[Tensor] = []
    model.decoder.register_forward_hook(lambda _, inputs, __: decoded.append(inputs[0]))
    with seeded(0):
        model.sample_like(torch.rand(700, *digits.image_shape), 2_000, seed=0)
    torch.testing.assert_close(torch.cat(decoded).var(0), one, atol=0.2, rtol=0)


@pytest.mark.parametrize("kind", [VAEConfig, IWAEConfig])
@pytest.mark.parametrize(("draws_from", "mean"), [*((name, 7) for name in OF_MODELS), ("prior", 0)])
def test_new_images_come_from_where_codes_of_training_images_lie(kind, draws_from: str, mean: float) -> None:
    config = kind(latent_dim=3, trunk=MLPConfig(widths=(16,)), draws_from=draws_from)
    model = config.build((1, 8, 8), 0)
    with torch.no_grad():
        for parameter in model.posterior.parameters():
            parameter.zero_()
        model.posterior.mean.bias.fill_(7)
    decoded: list[Tensor] = []
    model.decoder.register_forward_hook(lambda _, inputs, __: decoded.append(inputs[0]))
    with seeded(0), torch.no_grad():
        model.fit_prior([Batch(torch.rand(1_000, 1, 8, 8), None)], seed=0)
        model.sample(2_000)
    torch.testing.assert_close(decoded[0].mean(0), torch.full((3,), float(mean)), atol=0.15, rtol=0)
    torch.testing.assert_close(decoded[0].var(0), torch.ones(3), atol=0.2, rtol=0)  # of posterior samples, not of means


@pytest.mark.parametrize("kind", [AEConfig, VAEConfig])
@pytest.mark.parametrize("draws_from", OF_MODELS)
def test_a_model_that_draws_from_a_fitted_prior_is_trained_and_saved(
    draws_from: str, kind: Any, digits: PreparedData, tmp_path: Path
) -> None:
    model = kind(latent_dim=3, trunk=MLPConfig(widths=(16,)), draws_from=draws_from)
    experiment = Experiment(model=model, training=TrainingConfig(epochs=1, images=300))
    (*_, epoch) = saved_epochs(tmp_path, experiment, digits, new_state())
    save_card(tmp_path, experiment, digits)
    trained = save_best(tmp_path, experiment, digits, epoch.state)
    assert isinstance(trained, Autoencoder)
    assert type(trained.fitted_prior) is type(fitted(draws_from, torch.zeros(2, 3), 0))
    loaded = load_model(tmp_path).model
    with torch.inference_mode():
        (drawn, again) = (_drawn(each) for each in (trained, loaded))
    assert drawn.isfinite().all()
    torch.testing.assert_close(again, drawn, rtol=0, atol=0)


def _drawn(model: Any) -> Tensor:
    with seeded(0):
        images: Tensor = model.sample(5)
    return images


@pytest.mark.parametrize("draws_from", OF_MODELS)
def test_models_that_draw_from_a_fitted_prior_can_be_stacked(draws_from: Any, digits: PreparedData) -> None:
    configs = [VAEConfig(latent_dim=d, trunk=MLPConfig(widths=(16,)), draws_from=draws_from) for d in (2, 5)]
    (*_, told) = train_population(configs, digits, TrainingConfig(epochs=1, images=300), [0, 0])
    for config, one in zip(configs, told.values(), strict=True):
        prior = config.build(digits.image_shape, 0).fitted_prior
        assert prior is not None
        expected = {f"fitted_prior.{name}": tensor.shape for name, tensor in prior.state_dict().items()}
        found = {name: tensor.shape for name, tensor in one.model.state_dict().items() if name in expected}
        assert found == expected


def test_a_second_fit_does_not_depend_on_the_first() -> None:
    codes = two_clusters(200)
    for name in OF_MODELS:
        prior, once = (fitted(name, codes, seed=5) for _ in range(2))
        prior.fit(codes + 1, seed=3)
        prior.fit(codes, seed=5)
        torch.testing.assert_close(prior.state_dict(), once.state_dict(), rtol=0, atol=0)


def test_codes_of_classes_come_from_the_priors_of_classes() -> None:
    with pytest.raises(SettingsError, match=r"draws_from=mixture: must be 'prior'"):
        CVAEConfig.parse({"draws_from": "mixture"})
