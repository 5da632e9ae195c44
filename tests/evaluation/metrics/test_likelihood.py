"""Tests negative log-likelihoods and bits per dimension: where they exist, and how large they are."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from autoencoders import build

from aemodels.config import SettingsError
from aemodels.data import PreparedData, prepare
from aemodels.data.arrays import ArraysConfig
from aemodels.data.evaluation_images import Expected, with_test_images
from aemodels.evaluation.config import EvaluationConfig
from aemodels.evaluation.evaluate import check_likelihood, evaluate
from aemodels.evaluation.evidence import Evidence
from aemodels.models import AEConfig, VAEConfig
from aemodels.nn.distributions import BernoulliConfig, GaussianConfig
from aemodels.nn.trunks import MLPConfig
from aemodels.runtime.progress import finish

CONFIG = EvaluationConfig()
SMALL = MLPConfig(widths=(32,))
GREY = GaussianConfig(sigma="learned")


def prepared(file: Path, **arrays: np.ndarray[Any, Any]) -> PreparedData:
    np.savez(file, **arrays)
    return finish(prepare(ArraysConfig(path=(file,))))


def test_nll_is_below_the_bound_and_falls_with_its_samples(digits: PreparedData) -> None:
    data = digits.model_copy(update={"binarize": "static"})
    model = build(VAEConfig(trunk=SMALL, likelihood=BernoulliConfig()), data)
    names = ("nll", "nll_samples", "nll_images", "negative_elbo")
    with torch.no_grad():
        model.decoder.get_submodule("0").weight.mul_(5)  # codes matter, so that the posterior is wrong
    found = [
        evaluate(Evidence(model, data, None, EvaluationConfig(nll_samples=k)), only=names).metrics for k in (1, 10, 100)
    ]
    assert [each["nll_samples"] for each in found] == [1, 10, 100]
    assert found[0]["nll_images"] == data.sizes["test"]
    assert found[0]["nll"] == pytest.approx(found[0]["negative_elbo"], rel=0.02)  # one sample is the bound
    assert found[0]["nll"] > found[1]["nll"] + 0.1 > found[2]["nll"] + 0.2
    few = EvaluationConfig(nll_samples=10, nll_images=20)
    first, second = (evaluate(Evidence(model, data, None, few), only=names).metrics for _ in range(2))
    assert first == second
    assert first["nll_images"] == 20


def test_nll_only_where_it_is_asked_for_and_is_one(digits: PreparedData) -> None:
    asked, data = EvaluationConfig(nll_samples=2, nll_images=5), digits.model_copy(update={"binarize": "static"})
    coins, density = (VAEConfig(trunk=SMALL, likelihood=likelihood) for likelihood in (BernoulliConfig(), GREY))
    assert "nll" not in evaluate(Evidence(build(coins, data), data, None, CONFIG)).metrics
    assert "nll" in evaluate(Evidence(build(coins, data), data, None, asked)).metrics
    assert "nll" not in evaluate(Evidence(build(coins, digits), digits, None, asked)).metrics
    assert "nll" in evaluate(Evidence(build(density, digits), digits, None, asked)).metrics
    ae = AEConfig(trunk=SMALL, likelihood=BernoulliConfig())
    assert "nll" not in evaluate(Evidence(build(ae, data), data, None, asked)).metrics
    check_likelihood(build(coins, data), data, asked)
    check_likelihood(build(ae, data), data, CONFIG)
    for model, images, why in (
        (ae, data, "this model has no bound"),
        (coins, digits, "no likelihood of grey pixels"),
        (density, data, "none of black and white pixels"),
    ):
        with pytest.raises(SettingsError, match=f"evaluation.nll_samples=2: .*{why}.*; .*, or leave it out with 0"):
            check_likelihood(build(model, images), images, asked)
    with pytest.raises(SettingsError, match=r"primary=nll needs nll_samples"):
        EvaluationConfig.parse({"primary": "nll"})


def test_images_that_are_black_and_white_have_the_likelihood_of_coin_flips(tmp_path: Path) -> None:
    rng, asked = np.random.default_rng(0), EvaluationConfig(nll_samples=2, nll_images=5)
    drawings = rng.integers(0, 2, (40, 8, 8)).astype(np.bool_)
    photos = {"images": drawings, "test_images": rng.integers(0, 256, (9, 8, 8), np.uint8)}
    data, mixed = (prepared(tmp_path / f"{i}.npz", **arrays) for i, arrays in enumerate(({"images": drawings}, photos)))
    coins, density = (VAEConfig(trunk=SMALL, likelihood=likelihood) for likelihood in (BernoulliConfig(), GREY))
    model = build(coins, data)
    check_likelihood(model, data, asked)
    assert {"nll", "bits_per_dimension"} <= evaluate(Evidence(model, data, None, asked)).metrics.keys()
    with pytest.raises(SettingsError, match=r"none of black and white pixels; train model\.likelihood=bernoulli, or"):
        check_likelihood(build(density, data), data, asked)
    with pytest.raises(SettingsError, match="no likelihood of grey pixels"):  # of the images that are measured
        check_likelihood(model, mixed, asked)
    gone = finish(
        with_test_images(Expected(data.image_shape, (), False, None), ArraysConfig(path=(tmp_path / "0.npz",)))
    )
    assert gone.sizes == {"train": 0, "val": 0, "test": 40}
    check_likelihood(model, gone, asked)


def test_bits_per_dimension_only_where_there_is_a_likelihood(digits: PreparedData) -> None:
    """Fair coin flips cost one bit. Grey levels that are equally probable cost log2(255) bits at most."""
    binary = digits.model_copy(update={"binarize": "static"})
    for data, likelihood, exists in (
        (digits, BernoulliConfig(), False),
        (binary, GaussianConfig(), False),
        (binary, BernoulliConfig(), True),
        (digits, GaussianConfig(sigma="fixed", value=10), True),
    ):
        model = build(VAEConfig(trunk=SMALL, likelihood=likelihood), data)
        for parameter in model.parameters():
            torch.nn.init.zeros_(parameter)  # no rate, the middle grey everywhere
        found = evaluate(Evidence(model, data, None, CONFIG)).metrics
        assert ("bits_per_dimension" in found) == exists
        if likelihood.name == "bernoulli" and exists:
            assert found["bits_per_dimension"] == pytest.approx(1, abs=1e-5)
        elif exists:  # a density of 1 / sqrt(2 pi 10²), and x within 0.5 of the mean: exp(-x²/200) is 1
            density = math.log2(math.sqrt(2 * math.pi * 100) * 255)
            assert found["bits_per_dimension"] == pytest.approx(density, abs=2e-3)
