"""Tests how images by class or likeness, and images without noise, are drawn and measured."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from aemodels.data import PreparedData
from aemodels.evaluation.config import EvaluationConfig
from aemodels.evaluation.denoising import Denoising
from aemodels.evaluation.evaluate import evaluate
from aemodels.evaluation.evidence import Evidence
from aemodels.evaluation.features import Features
from aemodels.evaluation.images import TrainedOn
from aemodels.evaluation.leaving_out import NotEnoughError
from aemodels.evaluation.metrics import METRICS
from aemodels.models import AEConfig, CVAEConfig, VAEConfig
from aemodels.models.ae import AE
from aemodels.models.cvae import CVAE
from aemodels.nn.batch import AT_ONCE, Batch
from aemodels.nn.distributions import BernoulliConfig
from aemodels.nn.trunks import MLPConfig
from aemodels.reports.figures.model import draw_figures

CONFIG = EvaluationConfig()
CLASSES = 10


@pytest.fixture(scope="module")
def images(digits: PreparedData, features: Features) -> Tensor:
    """Returns one image of each class that the classifier knows (10, 1, 28, 28)."""
    split = digits.split("train")
    x, y = torch.tensor(split.images[:200]).float() / 255, torch.tensor(split.labels[:200])
    probabilities = features.probabilities(x)
    assert probabilities is not None
    known = probabilities.argmax(-1) == y
    return torch.stack([x[known & (y == label)][0] for label in range(CLASSES)])


def printer(images: Tensor) -> CVAE:
    """Returns a model that draws one image for each class, whatever the code is."""
    trunk = MLPConfig(widths=(CLASSES,))
    model = CVAEConfig(latent_dim=1, trunk=trunk, likelihood=BernoulliConfig()).build((1, 28, 28), CLASSES)
    first, last = (module for module in model.decoder if isinstance(module, torch.nn.Linear))
    with torch.no_grad():
        first.weight.copy_(torch.eye(CLASSES, CLASSES + 1))
        last.weight.copy_(images.flatten(1).clamp(1e-3, 1 - 1e-3).logit().T)
        for layer in (first, last):
            layer.bias.zero_()
    return model.eval()


def evidence_of(data: PreparedData, features: Features, seen: int = 0) -> Evidence:
    torch.manual_seed(0)
    model = CVAEConfig(latent_dim=2, trunk=MLPConfig(widths=(8,))).build(data.image_shape, data.num_classes)
    return evaluate(Evidence(model, data, features, CONFIG, trained_on=TrainedOn(data, seen)), only=()).evidence


def measured(evidence: Evidence, kind: str) -> list[float]:
    return [METRICS[f"{kind}_{what}"].measure(evidence) for what in ("accuracy", "diversity")]


# ---------------------------------------------------------------- classes


def test_who_prints_the_class_is_right_and_not_varied(digits: PreparedData, features: Features, images: Tensor) -> None:
    right, wrong = printer(images), printer(images.roll(1, 0))
    expected = {"label_accuracy": 1, "label_diversity": 0}
    found = evaluate(Evidence(right, digits, features, CONFIG), only=expected).metrics
    assert found == pytest.approx(expected, abs=1e-3)
    assert evaluate(Evidence(wrong, digits, features, CONFIG), only=expected).metrics["label_accuracy"] == 0
    assert right.classify(images).tolist() == list(range(CLASSES))
    alike = right.sample_like(images[[7]].expand(60, -1, -1, -1), 20, seed=0)
    torch.testing.assert_close(alike, images[[7]].expand_as(alike), atol=2e-3, rtol=0)


def test_real_images_as_answers_are_right_and_as_varied(digits: PreparedData, features: Features) -> None:
    evidence = evidence_of(digits, features)
    real = evidence.requests.examples
    assert set(map(len, real.values())) == {50}
    evidence.requests.like_examples = real
    accuracy, diversity = measured(evidence, "like")
    assert accuracy > 0.98
    assert diversity == 1
    evidence.requests.of_labels = {label: real[(label + 1) % CLASSES] for label in real}
    assert measured(evidence, "label")[0] < 0.02


def test_images_of_all_classes_differ_more_than_those_of_one(digits: PreparedData, features: Features) -> None:
    evidence = evidence_of(digits, features)
    evidence.requests.unasked = dict.fromkeys(range(CLASSES), torch.cat(list(evidence.requests.examples.values())))
    assert METRICS["prior_diversity"].measure(evidence) > 1.2


def test_classes_without_images_are_left_out(digits: PreparedData, features: Features) -> None:
    """Few images do not show every class. A single image of a class has no diversity to compare with."""
    labels = torch.tensor(digits.split("train").labels)
    few = next(n for n in range(1, 100) if len(labels[:n].unique()) < n)  # a class has two, others one or none
    evidence = evidence_of(digits, features, seen=few)
    assert evidence.requests.classes == labels[:few].unique().tolist() != list(range(CLASSES))
    for kind in ("label", "like"):
        assert all(map(math.isfinite, measured(evidence, kind)))
    assert math.isfinite(METRICS["prior_diversity"].measure(evidence))
    assert set(draw_figures(evidence, only=("classes", "like")).found) == {"classes", "like"}
    single = evidence_of(digits, features, seen=1)
    with pytest.raises(NotEnoughError, match="images that differ"):
        measured(single, "like")


# ---------------------------------------------------------------- likeness


def brightness() -> AE:
    """Returns a model whose code is an image's brightness from -1 to 1; it draws 0.5 and more as white."""
    model = AEConfig(latent_dim=1, trunk=MLPConfig(widths=(2,))).build((1, 2, 2), 0)
    first, last = (module for module in model.decoder if isinstance(module, torch.nn.Linear))
    dense = model.encoder[1]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        dense.weight[0] = 0.25
        model.posterior.code.weight[0, 0], model.posterior.code.bias[0] = 2, -1
        first.weight[:, 0] = torch.tensor([1.0, -1.0])
        last.weight[:] = torch.tensor([20.0, -20.0])
    return model.eval()


def test_more_like_these_stays_with_these() -> None:
    torch.manual_seed(0)
    model = brightness()
    dark, bright = (level + 0.1 * torch.rand(700, 1, 2, 2) for level in (0.1, 0.8))
    model.fit_prior([Batch(torch.cat([dark, bright]), None)], seed=0)
    assert 0.3 < model.sample(500).mean() < 0.7
    seen_at_once: list[int] = []
    model.encoder.register_forward_hook(lambda _, inputs, __: seen_at_once.append(len(inputs[0])))
    for images, low, high in ((dark, 0, 0.01), (bright, 0.99, 1), (bright[:1], 0.99, 1), (bright[:5], 0.99, 1)):
        drawn = model.sample_like(images, 600, seed=0)
        assert drawn.shape == (600, 1, 2, 2)
        assert low <= drawn.min()
        assert drawn.max() <= high
    assert max(seen_at_once) == AT_ONCE  # a folder of any size fits into memory


@pytest.mark.parametrize("count", [1, 7, 80])
def test_more_like_few_images_spread_as_their_posteriors_do(count: int) -> None:
    """The variance of codes is the variance between images plus that of q(z|x). One image leaves only the latter."""
    torch.manual_seed(0)
    model = VAEConfig(latent_dim=3, trunk=MLPConfig(widths=(16,))).build((1, 8, 8), 0)
    images = torch.rand(count, 1, 8, 8)
    codes: list[Tensor] = []
    model.decoder.register_forward_hook(lambda _, inputs, __: codes.append(inputs[0]))
    with torch.no_grad():
        q = model.encode(images)
        model.sample_like(images, 2_000, seed=0)
    expected = q.stddev.square().mean(0) + q.mean.var(0, correction=0)
    torch.testing.assert_close(torch.cat(codes).var(0), expected, rtol=0.5, atol=0)


# ---------------------------------------------------------------- noise


class Unchanged(AE):
    """Returns the images that it is shown."""

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        return x


def unchanged() -> Unchanged:
    return Unchanged(AEConfig(latent_dim=1, trunk=MLPConfig(widths=(2,))), (1, 28, 28), 0)


def test_who_changes_nothing_removes_no_noise(digits: PreparedData) -> None:
    names = [f"{method}_{measure}_0.3" for measure in ("psnr", "ssim") for method in ("noisy", "denoised", "median")]
    found = evaluate(Evidence(unchanged(), digits, None, EvaluationConfig(denoising=True)), only=names).metrics
    for measure in ("psnr", "ssim"):
        assert found[f"denoised_{measure}_0.3"] == found[f"noisy_{measure}_0.3"] < found[f"median_{measure}_0.3"]


def test_the_noise_is_as_strong_as_said_and_filters_remove_it_from_plain_images() -> None:
    grey = torch.full((5, 1, 28, 28), 0.5)
    trial = Denoising(unchanged(), grey, 0.1, seed=0)
    error = {name: float((getattr(trial, name) - grey).square().mean()) for name in ("noisy", "median")}
    assert error["noisy"] == pytest.approx(0.01, rel=0.05)
    assert error["median"] == pytest.approx(0.01 * math.pi / 2 / 25, rel=0.3)  # a median's variance, of 25 pixels
    assert (trial.total_variation - grey).square().mean() < 0.01 / 10
