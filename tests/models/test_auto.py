"""Tests what is chosen from the images: the trunk and the likelihood."""

from __future__ import annotations

from typing import Any

import pytest
from untrained import CLASSES

from aemodels.config import SettingsError, read_text
from aemodels.data import PreparedData
from aemodels.experiment import Experiment
from aemodels.models import AEConfig, CVAEConfig, IWAEConfig, VAEConfig
from aemodels.nn.distributions import AutoLikelihoodConfig, BernoulliConfig, GaussianConfig
from aemodels.nn.photo import PhotoConfig, PhotoEncoder
from aemodels.nn.trunks import AutoTrunkConfig, ConvConfig, MLPConfig
from aemodels.settings import load_settings

MODELS: list[Any] = [AEConfig, VAEConfig, CVAEConfig, IWAEConfig]


@pytest.mark.parametrize("model", MODELS)
def test_the_rule(model: Any) -> None:
    for shape, trunk in (((1, 8, 8), MLPConfig()), ((3, 8, 99), MLPConfig()), ((1, 9, 9), PhotoConfig())):
        assert model().for_images(shape, black_and_white=False).trunk == trunk
    sigma = "fixed" if model is AEConfig else "optimal"
    grey = GaussianConfig(sigma=sigma, output="linear")
    assert model().for_images((1, 8, 8), black_and_white=False).likelihood == grey
    coins = grey if model is AEConfig else BernoulliConfig()
    assert model().for_images((1, 8, 8), black_and_white=True).likelihood == coins


def test_what_is_given_stays() -> None:
    given = VAEConfig(trunk=ConvConfig(), likelihood=BernoulliConfig())
    assert given.for_images((3, 64, 64), black_and_white=False) is given


def test_a_model_that_is_built_without_images_has_the_trunk_for_their_shape() -> None:
    assert isinstance(VAEConfig().build((1, 28, 28), 0).encoder, PhotoEncoder)
    assert not isinstance(CVAEConfig().build((1, 8, 8), CLASSES).encoder, PhotoEncoder)


def test_what_is_not_chosen_yet_cannot_be_built() -> None:
    with pytest.raises(SettingsError, match=r"model\.trunk\.name=auto: .*Experiment\.for_data.*model\.trunk=photo"):
        AutoTrunkConfig().encoder((1, 8, 8))
    with pytest.raises(SettingsError, match=r"model\.likelihood\.name=auto: .*Experiment\.for_data"):
        AutoLikelihoodConfig().build()


@pytest.mark.parametrize(
    ("settings", "trunk"),
    [
        (["model.trunk.widths=[9]"], MLPConfig(widths=(9,))),
        (["model.trunk.channels=[9]", "model.trunk.hidden=7"], ConvConfig(channels=(9,), hidden=7)),
        (["model.trunk.width=9"], PhotoConfig(width=9)),
    ],
)
def test_a_setting_of_the_trunk_says_which_one_is_meant(settings: list[str], trunk: Any) -> None:
    for start in ([], ["model=ae"]):
        assert load_settings(read_text([*start, *settings])).model.trunk == trunk  # type: ignore[union-attr]
        assert load_settings(read_text(start)).override(read_text(settings)).model.trunk == trunk  # type: ignore[union-attr]


def test_digits_are_grey_unless_they_are_binarised(digits: PreparedData) -> None:
    given = Experiment(model=VAEConfig())
    grey, black = (given.for_data(each) for each in (digits, digits.model_copy(update={"binarize": "dynamic"})))
    assert (grey.model.likelihood.name, black.model.likelihood.name) == ("gaussian", "bernoulli")  # type: ignore[union-attr]
