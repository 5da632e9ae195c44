"""Tests the mutual information gap, on codes whose information about the factors is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import mutual_info_score
from torch import Tensor

from aemodels.data import PreparedData, prepare
from aemodels.data.sprites import SpritesConfig, draw_factors
from aemodels.evaluation.config import EvaluationConfig
from aemodels.evaluation.evaluate import check_primary, evaluate
from aemodels.evaluation.evidence import Evidence
from aemodels.evaluation.features import Features, features_of
from aemodels.evaluation.metrics.factors import mutual_information_gap
from aemodels.evaluation.mutual_information import BINS, known_shares
from aemodels.models import AEConfig, CVAEConfig, GANConfig, VAEConfig
from aemodels.models.base import ModelConfig
from aemodels.nn.trunks import MLPConfig
from aemodels.reports.figures.codes import traversals
from aemodels.reports.figures.model import draw_figures
from aemodels.runtime.progress import finish

COUNT = 10_000
FACTORS = torch.from_numpy(draw_factors(COUNT, seed=0))  # shape, scale, rotation, x, y
NOISE = torch.randn(COUNT, 8, generator=torch.Generator().manual_seed(0))


class Stub(Evidence):
    """Holds given codes of the factors above."""

    def __init__(self, codes: Tensor) -> None:
        self.known_shares = known_shares(codes, FACTORS)


def gap(*codes: Tensor) -> float:
    return mutual_information_gap(Stub(torch.cat(codes, dim=1)))


# ---- the gap


def test_codes_that_are_the_factors() -> None:
    scaled = (FACTORS * torch.tensor([-3.0, 100, 1e-3, 5, 1])).flip(1) + 7  # of any order, sign and scale
    assert gap(scaled) == pytest.approx(1, abs=0.02)
    assert gap(scaled, NOISE) == pytest.approx(1, abs=0.02)


def test_factors_that_two_units_share() -> None:
    assert gap(FACTORS, FACTORS) == 0
    assert gap(FACTORS, -FACTORS, NOISE) == pytest.approx(0, abs=1e-6)


def test_noise_and_a_single_unit() -> None:
    assert gap(NOISE) == pytest.approx(0, abs=0.01)
    assert gap(FACTORS[:, 3:4]) == pytest.approx(1 / 5, abs=0.02)  # knows one of five factors
    assert gap(torch.zeros(COUNT, 3)) == 0
    assert math.isnan(gap(FACTORS * math.nan))


def test_factors_that_units_mix() -> None:
    """Two units that are x + y and x - y know equally much about both."""
    x, y = FACTORS[:, 3:4], FACTORS[:, 4:5]
    mixed = gap(FACTORS[:, :3], x + y, x - y)
    assert mixed == pytest.approx(gap(FACTORS[:, :3]), abs=0.02)
    assert gap(FACTORS[:, :3]) == pytest.approx(3 / 5, abs=0.02)


# ---- the estimate


def test_shares_are_mutual_informations_over_entropies() -> None:
    """The counts are scikit-learn's, in numpy's bins. Miller's correction counts the cells in use."""
    codes = torch.cat([FACTORS[:, 1:3] + 0.1 * NOISE[:, :2], NOISE[:, 2:4]], dim=1)
    shares = known_shares(codes, FACTORS)
    assert shares.shape == (4, 5)

    def binned(values: Tensor) -> np.ndarray:
        return np.digitize(values.numpy(), np.histogram_bin_edges(values.numpy(), BINS)[1:-1])

    for d in range(4):
        for f in range(5):
            z, v = binned(codes[:, d]), binned(FACTORS[:, f])
            used, known = len(np.unique(z)) - 1, len(np.unique(v)) - 1
            both = len(np.unique(np.stack([z, v]), axis=1).T) - 1
            information = mutual_info_score(z, v) + (used + known - both) / (2 * COUNT)
            expected = information / (mutual_info_score(v, v) + known / (2 * COUNT))
            assert shares[d, f].item() == pytest.approx(max(0, expected), abs=1e-3)


@pytest.mark.parametrize("count", [1_000, COUNT])
def test_nothing_is_known_of_what_is_independent(count: int) -> None:
    """The uncorrected estimate is 19^2 / 2N nats, which is 0.06 of the entropy of x with 1,000 images."""
    uniform = torch.rand(count, 40, generator=torch.Generator().manual_seed(1))
    assert known_shares(uniform, FACTORS[:count, 3:4]).mean() < 0.1 * (BINS - 1) ** 2 / (2 * count)


def test_a_unit_of_a_known_share() -> None:
    """Four steps of x tell log 4 of the log 20 nats of x. Nothing tells a factor that never changes."""
    steps = ((FACTORS[:, 3:4] - 0.3) / 0.1).floor()
    constant = torch.full((COUNT, 1), 5.0)
    shares = known_shares(steps, torch.cat([FACTORS[:, 3:4], constant], dim=1))[0].tolist()
    assert shares == pytest.approx([math.log(4) / math.log(20), 0], abs=0.02)


# ---- of models


@pytest.fixture(scope="module")
def sprites(folders) -> PreparedData:  # noqa: ARG001  the cache is set there
    return finish(prepare(SpritesConfig(count=4000, image_size=8, test_fraction=0.5)))


@pytest.fixture(scope="module")
def features(sprites: PreparedData) -> Features:
    return finish(features_of(sprites, torch.device("cpu")))


def judged(config: ModelConfig, data: PreparedData, features: Features) -> tuple[dict[str, float], Evidence]:
    torch.manual_seed(0)
    model = config.build(data.image_shape, data.num_classes)
    found = evaluate(Evidence(model, data, features, EvaluationConfig()))
    return found.metrics, found.evidence


@pytest.mark.parametrize("kind", [AEConfig, VAEConfig])
def test_autoencoders_of_sprites_are_judged_and_drawn(kind: type[ModelConfig], sprites, features) -> None:
    metrics, evidence = judged(kind.model_validate({"trunk": MLPConfig(widths=(16,))}), sprites, features)
    assert 0 <= metrics["mutual_information_gap"] <= 1
    assert "probe_accuracy" in metrics
    labelled = draw_figures(evidence, only=("traversals",)).found["traversals"]
    evidence.data = sprites.model_copy(update={"factors": ()})
    assert not np.array_equal(labelled, traversals(evidence))


def test_no_unit_knows_more_of_a_factor_than_its_rate(sprites: PreparedData, features: Features) -> None:
    """The codes of an untrained model tell factors by their means. With the noise of q(z|x) they must not."""
    _, evidence = judged(VAEConfig(latent_dim=10, trunk=MLPConfig(widths=(16,))), sprites, features)
    factors = torch.from_numpy(sprites.stored("test").factors)
    assert known_shares(evidence.codes.z, factors)[:, 4].max() > 0.2
    assert evidence.unit_rates is not None
    allowed = evidence.unit_rates.max() + 0.03  # the estimate's spread
    assert evidence.known_shares[:, 1:].max() * math.log(BINS) < allowed


def test_units_of_a_model_that_is_told_the_class_are_not_judged_by_it(sprites, features) -> None:
    metrics, evidence = judged(CVAEConfig(trunk=MLPConfig(widths=(16,))), sprites, features)
    assert "mutual_information_gap" not in metrics
    figures = draw_figures(evidence, only=("traversals", "codes", "codes_tsne")).found
    assert set(figures) == {"traversals"}
    evidence.data = sprites.model_copy(update={"factors": ()})
    assert np.array_equal(figures["traversals"], traversals(evidence))  # no factor stands beside a unit


def test_who_has_no_codes_or_no_factors_has_no_gap(sprites, features, digits: PreparedData) -> None:
    metrics, _ = judged(GANConfig(), sprites, features)
    assert "mutual_information_gap" not in metrics
    model = VAEConfig().build(digits.image_shape, 10)
    with pytest.raises(ValueError, match="mutual_information_gap: needs factors"):
        check_primary(model, digits, EvaluationConfig(primary="mutual_information_gap"))
