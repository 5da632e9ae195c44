"""Tests metrics of samples in a feature space: real images are near and varied, a collapsed model is not."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from aemodels.evaluation import neighbours
from aemodels.evaluation.evidence import Evidence
from aemodels.evaluation.metrics import samples as metrics_samples
from aemodels.evaluation.metrics.samples import class_balance, confident_samples, coverage, density, frechet_distance
from aemodels.evaluation.neighbours import balls, nearest

KINDS, EACH, FEATURES = 10, 50, 8  # clusters of real images, far from each other


def clusters(seed: int, kinds: int = KINDS) -> Tensor:
    """Returns features (500, F), with as many images of each of the first kinds."""
    rng = torch.Generator().manual_seed(seed)
    centres = 100 * torch.randn(KINDS, FEATURES, generator=torch.Generator().manual_seed(0))
    which = torch.arange(KINDS * EACH) % kinds
    return centres[which] + torch.randn(len(which), FEATURES, generator=rng)


class Stub(Evidence):
    """Holds given features or probabilities, of as many images as any metric needs."""

    frechet_images = 100

    def __init__(self, **given: Any) -> None:
        self.__dict__ |= given


def judged(real: Tensor, samples: Tensor) -> tuple[float, float]:
    evidence = Stub(balls=balls(real, samples))
    return density(evidence), coverage(evidence).value


# ---------------------------------------------------------------- density and coverage


def test_real_images_have_a_density_of_one_and_are_covered() -> None:
    near, covered = judged(clusters(1), clusters(2))
    assert near == pytest.approx(1, abs=0.1)
    assert covered == pytest.approx(1 - 2**-5, abs=0.02)  # each of five neighbours is as likely nearer than any sample


@pytest.mark.parametrize("kinds", [1, 3, 7])
def test_a_collapsed_model_covers_its_share(kinds: int) -> None:
    near, covered = judged(clusters(1), clusters(2, kinds))
    assert covered == pytest.approx(kinds / KINDS, abs=0.04)
    assert near > 0.8  # what it draws is good


def test_samples_far_from_all_images_count_nothing_and_copies_of_one_are_dense() -> None:
    real = clusters(1)
    assert judged(real, real + 1_000) == (0, 0)
    near, covered = judged(real, real[:1].expand(500, -1))
    assert covered < 0.05
    assert near > 0.2  # in its own ball at least


def test_balls_equal_their_definition_in_blocks_of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    real, samples = clusters(1)[:40], clusters(2)[:30]
    distances = (real[:, None] - real[None]).norm(dim=-1).fill_diagonal_(math.inf)
    radii = distances.sort(dim=1).values[:, 4]
    inside = (real[:, None] - samples[None]).norm(dim=-1) <= radii[:, None]  # (40, 30)
    for numbers in (1, 100, 10**6):
        monkeypatch.setattr(neighbours, "BLOCK_NUMBERS", numbers)
        found = balls(real, samples)
        assert found is not None
        assert torch.equal(found.held, inside.sum(0).float())
        assert torch.equal(found.hit, inside.any(1))
        assert nearest(real[[7, 3]] + 0.01, real).tolist() == [7, 3]


def test_few_images_and_features_that_are_not_finite() -> None:
    two = clusters(1)[:2]
    found = balls(two, two)
    assert found is not None
    assert found.reached == 1
    assert judged(two, two) == (2, 1)
    for real, samples in ((two[:1], two), (two, two * math.nan), (two, two * math.inf)):
        assert all(map(math.isnan, judged(real, samples)))
    assert judged(clusters(1), clusters(2) * 1e30) == (0, 0)


# ---------------------------------------------------------------- classes


def one_hot(labels: list[int], classes: int = 4) -> Tensor:
    return torch.nn.functional.one_hot(torch.tensor(labels), classes).float()


def test_class_balance() -> None:
    assert class_balance(Stub(sample_probabilities=one_hot([2, 2, 2]))) == 0
    assert class_balance(Stub(sample_probabilities=one_hot([0, 1, 2, 3]))) == pytest.approx(1)
    assert class_balance(Stub(sample_probabilities=one_hot([0, 1, 0, 1]))) == pytest.approx(0.5)
    unsure = torch.tensor([[0.3, 0.25, 0.25, 0.2]]).expand(5, -1)  # the same image again and again
    assert class_balance(Stub(sample_probabilities=unsure)) == 0
    assert math.isnan(class_balance(Stub(sample_probabilities=one_hot([0, 1]) * math.nan)))


def test_confident_samples() -> None:
    probabilities = torch.tensor([[0.95, 0.05], [0.05, 0.95], [0.8, 0.2], [0.5, 0.5]])
    assert confident_samples(Stub(sample_probabilities=probabilities)) == 0.5
    assert math.isnan(confident_samples(Stub(sample_probabilities=probabilities * math.nan)))
    assert metrics_samples.CONFIDENT == 0.9  # as the table says


# ---------------------------------------------------------------- the Fréchet distance


def test_frechet_distance_of_gaussians_is_the_closed_form() -> None:
    """For independent units it is the sum of squared differences of means and of standard deviations."""
    rng = torch.Generator().manual_seed(0)
    x = torch.linalg.qr(torch.randn(500, 5, generator=rng, dtype=torch.float64) - 0.5)[0]
    x = torch.linalg.qr(x - x.mean(0))[0] * math.sqrt(500)  # mean 0 and covariance I, exactly
    scale, shift = torch.tensor([0.5, 1, 2, 3, 0.0]).double(), torch.tensor([1.0, 0, -2, 0, 3]).double()
    expected = float(shift.square().sum() + (scale - 1).square().sum())
    assert frechet_distance(x, x * scale + shift) == pytest.approx(expected, abs=1e-9)
    turn = torch.linalg.qr(torch.randn(5, 5, generator=rng, dtype=torch.float64))[0]
    assert frechet_distance(x @ turn, (x * scale + shift) @ turn) == pytest.approx(expected, abs=1e-9)


def test_frechet_distance_equals_the_matrix_root_for_correlated_features() -> None:
    from scipy.linalg import sqrtm

    rng = torch.Generator().manual_seed(1)
    a, b = (torch.randn(200, 4, generator=rng).double() @ torch.randn(4, 4, generator=rng).double() for _ in range(2))
    covariances = [np.cov(x.numpy().T, ddof=0) for x in (a, b)]
    root = sqrtm(covariances[0] @ covariances[1]).real
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum().item() + np.trace(covariances[0] + covariances[1] - 2 * root)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-6)


def test_frechet_distance_of_a_set_to_itself_is_nothing_even_with_few_images() -> None:
    x = torch.randn(10, 32, generator=torch.Generator().manual_seed(0))
    assert frechet_distance(x, x) < 1e-6


def test_frechet_distance_of_exploded_features() -> None:
    x = torch.randn(100, 4, generator=torch.Generator().manual_seed(0))
    assert 1e29 < frechet_distance(x, x * 1e15) < math.inf
    assert math.isnan(frechet_distance(x, x * math.inf))
    assert math.isnan(frechet_distance(x, torch.full_like(x, math.nan)))
