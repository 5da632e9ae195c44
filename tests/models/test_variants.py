"""Every autoencoder is composed in one place, and a variant overrides one short method."""

from __future__ import annotations

from typing import Any, Literal

import pytest
import torch
from torch import Tensor
from untrained import CLASSES, build, images

from aemodels.config import section_kinds
from aemodels.experiment import Experiment
from aemodels.models import CVAEConfig, IWAEConfig, VAEConfig
from aemodels.models.base import AutoencoderConfig
from aemodels.models.cvae import CVAE
from aemodels.models.iwae import IWAE
from aemodels.models.vae import VAE, Pass
from aemodels.nn.batch import Batch
from aemodels.nn.trunks import MLPConfig
from aemodels.runtime.randomness import seeded

SHAPE = (1, 8, 8)
SMALL = MLPConfig(widths=(12,))
STEP = torch.tensor(0)
AUTOENCODERS: list[Any] = [
    kind for kind in section_kinds(Experiment.model_fields["model"]).values() if issubclass(kind, AutoencoderConfig)
]


class SquaredVAE(VAE):
    def charge(self, found: Pass) -> Tensor:
        return found.rate.square() / 2


class SquaredVAEConfig(VAEConfig):
    module = SquaredVAE
    name: Literal["squared_vae"] = "squared_vae"  # type: ignore[assignment]


class SquaredCVAE(CVAE):
    def charge(self, found: Pass) -> Tensor:
        return found.rate.square() / 2


class SquaredCVAEConfig(CVAEConfig):
    module = SquaredCVAE
    name: Literal["squared_cvae"] = "squared_cvae"  # type: ignore[assignment]


class BestOf(IWAE):
    """Counts the best sample of each bound alone, as a Rényi bound of order minus infinity does."""

    def objective(self, log_w: Tensor, terms: dict[str, Tensor]) -> Tensor:
        return -log_w.amax(0).mean(0)


class BestOfConfig(IWAEConfig):
    module = BestOf
    name: Literal["best_of"] = "best_of"  # type: ignore[assignment]


VARIANTS = [(SquaredVAEConfig, VAEConfig), (SquaredCVAEConfig, CVAEConfig), (BestOfConfig, IWAEConfig)]


@pytest.mark.parametrize("kind", AUTOENCODERS)
def test_a_seed_draws_the_decoder_before_the_encoder_and_its_head(kind: type[AutoencoderConfig]) -> None:
    """Models that were trained before would otherwise not come out again from their seeds."""
    config = kind.model_validate({"trunk": SMALL, "latent_dim": 3})
    model = build(config, SHAPE)
    with seeded(0):
        decoder = SMALL.decoder(SHAPE, config.decoder_inputs(CLASSES))
        encoder = SMALL.encoder(SHAPE)
        posterior = config.posterior_head(encoder.features)
    for own, expected in ((model.decoder, decoder), (model.encoder, encoder), (model.posterior, posterior)):
        torch.testing.assert_close(own.state_dict(), expected.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize(("kind", "parent"), VARIANTS)
def test_a_variant_has_its_parents_settings_networks_and_search(kind: Any, parent: Any) -> None:
    settings = {"trunk": SMALL, "latent_dim": 3}
    config, former = kind.model_validate(settings), parent.model_validate(settings)
    assert config.flat() == {**former.flat(), "name": config.name}
    assert config.search_space() == former.search_space()
    torch.testing.assert_close(build(config, SHAPE).state_dict(), build(former, SHAPE).state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("kind", [SquaredVAEConfig, SquaredCVAEConfig])
def test_what_a_variant_charges_is_in_the_loss_and_in_what_picks_the_weights(kind: Any) -> None:
    batch, model = images(SHAPE), build(kind(trunk=SMALL, beta=3.0), SHAPE)
    model.posterior.mean.weight.data.mul_(20)
    with torch.no_grad():
        loss, bound = model.losses(batch, STEP)["autoencoder"], model.bound(batch)
    assert bound["rate"].min() > 1
    for total, terms in ((loss.total, loss.terms), (bound["objective"], bound)):
        torch.testing.assert_close(total, terms["distortion"] + 3 * terms["rate"].square() / 2)
        torch.testing.assert_close(terms["negative_elbo"], terms["distortion"] + terms["rate"])


def test_a_variant_has_free_bits_as_its_parent_does() -> None:
    """A unit costs as many nats as are free, at least, in training alone."""
    batch, model = images(SHAPE), build(SquaredVAEConfig(trunk=SMALL, latent_dim=4, free_bits=2.0), SHAPE)
    with torch.no_grad():
        loss, bound = model.losses(batch, STEP)["autoencoder"], model.bound(batch)
    torch.testing.assert_close(loss.total, loss.terms["distortion"] + (4 * 2.0) ** 2 / 2)
    assert bound["rate"].max() < 4 * 2.0
    torch.testing.assert_close(bound["objective"], bound["distortion"] + bound["rate"].square() / 2)


def test_a_variant_of_the_importance_bound_sees_its_weights() -> None:
    model = build(BestOfConfig(trunk=SMALL, samples=4, repeats=3), SHAPE)
    terms = model.bound(Batch(images(SHAPE).x, None))
    assert (terms["objective"] < terms["negative_importance_bound"]).all()  # the best weight is over their mean
