"""Tests the errors of estimates against what many draws of images give."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from aemodels.evaluation.estimates import Estimate, mean_of, ratio
from aemodels.evaluation.metrics.samples import frechet

DRAWS = 150


def spread_and_error(draw: Callable[[], Estimate]) -> tuple[float, float]:
    """Returns the spread of the values of many draws, and their mean standard error."""
    torch.manual_seed(0)
    found = [draw() for _ in range(DRAWS)]
    values = torch.tensor([one.value for one in found])
    return float(values.std()), sum(one.error for one in found) / DRAWS


def test_the_error_of_a_mean_and_of_a_ratio() -> None:
    spread, error = spread_and_error(lambda: mean_of(torch.rand(200)))
    assert error == pytest.approx(spread, rel=0.2)

    def shares() -> Estimate:
        a = torch.rand(200)
        return ratio(mean_of(a), mean_of(a + 0.3 * torch.rand(200)))

    spread, error = spread_and_error(shares)
    assert error == pytest.approx(spread, rel=0.2)


@pytest.mark.parametrize(("images", "samples", "features"), [(300, 600, 8), (60, 90, 100)])  # also fewer than features
def test_the_error_of_a_frechet_distance(images: int, samples: int, features: int) -> None:
    torch.manual_seed(1)
    wide, narrow = torch.linspace(0.2, 2, features), torch.linspace(0.2, 1, features)

    def distance() -> Estimate:
        return frechet(wide * torch.randn(images, features), 0.3 + narrow * torch.randn(samples, features))

    spread, error = spread_and_error(distance)
    assert error == pytest.approx(spread, rel=0.25)


def test_influences_are_derivatives_by_the_weights_of_images() -> None:
    torch.manual_seed(0)
    real, drawn = torch.randn(40, 3).double(), 1.5 * torch.randn(50, 3).double()
    whole = frechet(real, drawn)
    twice: Tensor = torch.cat([real] * 1_000 + [real[:1]])  # image 0 has a weight that is 1/1000 larger
    changed = (frechet(twice, drawn).value - whole.value) * 1_000
    assert float(whole.images[0]) == pytest.approx(changed, rel=1e-2)
    assert abs(float(whole.images.sum())) < 1e-9


def test_nothing_tells_the_error_of_one_image_or_of_what_is_not_finite() -> None:
    assert math.isnan(mean_of(torch.ones(1)).error)
    assert math.isnan(frechet(torch.full((5, 2), math.nan), torch.ones(5, 2)).error)
