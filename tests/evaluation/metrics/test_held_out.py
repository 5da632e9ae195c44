"""Tests metrics of held-out images and of codes against closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from aemodels.evaluation.evidence import Codes, Evidence
from aemodels.evaluation.metrics.compression import explained_variance
from aemodels.evaluation.metrics.held_out import knn_accuracy, mse, probe_accuracy, psnr, structural_similarity


class Stub(Evidence):
    """Holds given reconstructions and codes."""

    def __init__(self, pairs: list[tuple[Tensor, Tensor]], training: Codes | None = None, codes: Codes | None = None):
        self.pairs = pairs
        self.__dict__ |= {"training_codes": training, "codes": codes}

    def reconstructions(self):
        return iter(self.pairs)

    def images(self):
        return (x for x, _ in self.pairs)


def test_squared_error_and_psnr() -> None:
    x = torch.zeros(4, 1, 8, 8)
    evidence = Stub([(x, x + 0.1), (x, x + 0.01)])
    assert mse(evidence).value == pytest.approx((0.01 + 0.0001) / 2)
    assert psnr(evidence).value == pytest.approx(30)
    assert psnr(Stub([(x, x)])).value == pytest.approx(100)


def test_explained_variance_is_that_of_the_images() -> None:
    x = torch.rand(50, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    mean = x.mean(0, keepdim=True).expand_as(x)
    assert explained_variance(Stub([(x, x)])).value == 1
    assert explained_variance(Stub([(x, mean)])).value == pytest.approx(0, abs=1e-6)
    halves = list(zip(x.split(30), (0.2 * mean + 0.8 * x).split(30), strict=True))
    assert explained_variance(Stub(halves)).value == pytest.approx(1 - 0.2**2)


@pytest.mark.parametrize("side", [8, 9, 10, 11, 28])
def test_structural_similarity(side: int) -> None:
    rng = torch.Generator().manual_seed(0)
    x = torch.rand(3, 3, side, side, generator=rng)
    torch.testing.assert_close(structural_similarity(x, x), torch.ones(3))
    near, far = x + 0.05 * torch.randn(x.shape, generator=rng), torch.rand(x.shape, generator=rng)
    assert (structural_similarity(x, near) > structural_similarity(x, far)).all()
    flat, grey = torch.zeros(1, 1, side, side), torch.full((1, 1, side, side), 0.5)
    assert structural_similarity(flat, grey).item() == pytest.approx(1e-4 / (0.25 + 1e-4), abs=1e-6)


@pytest.mark.parametrize("shape", [(1, 11, 11), (1, 28, 28), (3, 33, 20)])
def test_structural_similarity_equals_that_of_scikit_image(shape: tuple[int, int, int]) -> None:
    from skimage.metrics import structural_similarity as of_scikit_image

    rng = np.random.default_rng(0)
    a = rng.random((4, *shape), dtype=np.float32)
    b = (a + 0.2 * rng.standard_normal(a.shape, dtype=np.float32)).clip(0, 1)
    known = {"data_range": 1.0, "channel_axis": 0, "gaussian_weights": True, "use_sample_covariance": False}
    expected = torch.tensor([of_scikit_image(x, y, **known) for x, y in zip(a, b, strict=True)], dtype=torch.float32)
    found = structural_similarity(torch.from_numpy(a), torch.from_numpy(b))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_structural_similarity_equals_the_sum_over_windows() -> None:
    """The sum is written out for the only window of an 11 x 11 image."""
    rng = np.random.default_rng(0)
    a, b = rng.random((2, 11, 11))
    line = np.exp(-0.5 * ((np.arange(11) - 5) / 1.5) ** 2)
    weights = np.outer(line, line) / line.sum() ** 2
    mean_a, mean_b = (weights * a).sum(), (weights * b).sum()
    variance_a, variance_b = (weights * (a - mean_a) ** 2).sum(), (weights * (b - mean_b) ** 2).sum()
    covariance = (weights * (a - mean_a) * (b - mean_b)).sum()
    expected = (2 * mean_a * mean_b + 1e-4) * (2 * covariance + 9e-4)
    expected /= (mean_a**2 + mean_b**2 + 1e-4) * (variance_a + variance_b + 9e-4)
    images = [torch.from_numpy(x).float()[None, None] for x in (a, b)]
    assert structural_similarity(*images).item() == pytest.approx(expected, abs=1e-5)


def test_probes_on_codes_that_can_be_told_apart() -> None:
    y = torch.arange(300) % 3
    z = torch.nn.functional.one_hot(y, 3).float() * 1e-3 + 1e-5 * torch.randn(300, 3)  # of any scale
    z = torch.cat([z, torch.zeros(300, 1)], dim=1)  # and with a dead unit
    evidence = Stub([], Codes(z[:200], y[:200]), Codes(z[200:], y[200:]))
    assert probe_accuracy(evidence).value == 1
    assert knn_accuracy(evidence).value == 1
    evidence = Stub([], Codes(z[:200] * math.nan, y[:200]), Codes(z[200:], y[200:]))
    assert math.isnan(probe_accuracy(evidence).value)
    assert math.isnan(knn_accuracy(evidence).value)
