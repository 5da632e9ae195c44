"""Tests that references equal a direct computation, and that models of one size share it."""

from __future__ import annotations

import pytest
import torch
from autoencoders import build
from torch import Tensor

from aemodels.data import PreparedData
from aemodels.evaluation import references
from aemodels.evaluation.evaluate import EvaluationConfig, evaluate
from aemodels.evaluation.evidence import Evidence
from aemodels.evaluation.features import Features
from aemodels.evaluation.images import TrainedOn
from aemodels.evaluation.metrics.references import REFERENCES
from aemodels.evaluation.references import LinearReference, Size, linear_reference
from aemodels.models import AEConfig, GANConfig, VAEConfig
from aemodels.nn.trunks import MLPConfig

CPU = torch.device("cpu")
SMALL = MLPConfig(widths=(16,))
RULES = EvaluationConfig(samples=200)


def pixels(data: PreparedData, split: str) -> Tensor:
    return torch.tensor(data.split(split).images).double().flatten(1) / 255


def test_references_equal_a_direct_computation(digits: PreparedData, features: Features) -> None:
    found = evaluate(
        Evidence(
            build(AEConfig(trunk=SMALL, latent_dim=7), digits),
            digits,
            features,
            RULES,
            trained_on=TrainedOn(digits, 500),
        )
    ).metrics
    training, test = pixels(digits, "train")[:500], pixels(digits, "test")
    mean = training.mean(0)
    assert found["mean_image_mse"] == pytest.approx(float((test - mean).square().mean()), rel=1e-4)
    axes = torch.linalg.svd(training - mean, full_matrices=False).Vh[:7]
    linear = (mean + (test - mean) @ axes.T @ axes).clamp(0, 1)
    errors = (test - linear).square().mean(1)
    assert found["linear_code_mse"] == pytest.approx(float(errors.mean()), rel=2e-3)
    assert found["linear_code_psnr"] == pytest.approx(float((-10 * errors.log10()).mean()), rel=2e-3)
    assert found["share_of_linear_code"] == pytest.approx(found["mse"] / float(errors.mean()), rel=2e-3)
    assert 0 < found["linear_code_ssim"] < 1
    assert found["frechet_floor"] < found["frechet_linear_code"] < 20


def test_models_of_one_size_share_the_measurement(
    digits: PreparedData, features: Features, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []

    def counted(reference: LinearReference, *_: object) -> None:
        made.append(reference.latent_dim)

    monkeypatch.setattr("aemodels.evaluation.metrics.references.fit_mixture", counted)
    rules = RULES.override({"seed": 17})  # no other test has measured by it
    for config in (AEConfig(trunk=SMALL, latent_dim=5), VAEConfig(trunk=SMALL, latent_dim=5), GANConfig(latent_dim=5)):
        model = config.build(digits.image_shape, digits.num_classes)
        found = evaluate(
            Evidence(model, digits, features, rules, trained_on=TrainedOn(digits, 500)), only=("frechet_linear_code",)
        ).metrics
        assert set(found) == {"frechet_linear_code"}
    assert made == [5]


def test_the_reference_is_of_the_images_of_the_training(digits: PreparedData, features: Features) -> None:
    model = build(AEConfig(trunk=SMALL, latent_dim=5), digits)
    gone = evaluate(Evidence(model, digits, features, RULES))
    assert REFERENCES.keys() == gone.left_out.keys()
    assert set(gone.left_out.values()) == {
        "it needs the images that the model was trained on, which are not in the cache"
    }
    elsewhere = digits.model_copy(update={"digest": "other images"})
    known = evaluate(Evidence(model, elsewhere, features, RULES, trained_on=TrainedOn(digits, 500))).metrics
    own = evaluate(Evidence(model, digits, features, RULES, trained_on=TrainedOn(digits, 500))).metrics
    assert {name: known[name] for name in REFERENCES} == {name: own[name] for name in REFERENCES}
    more = evaluate(
        Evidence(model, elsewhere, features, RULES, trained_on=TrainedOn(digits, digits.sizes["train"]))
    ).metrics
    assert all(known[name] != more[name] for name in REFERENCES)


def test_systems_that_saw_other_numbers_of_images_have_other_references(
    digits: PreparedData, features: Features
) -> None:
    there = digits.sizes["train"]
    alike = [Size(5, None), Size(3, there), Size(5, 10**6)]
    found = references.reference_systems(digits, alike, CPU, RULES, features)
    assert list(found) == ["mean image", "linear code 3", "linear code 5"]
    other = references.reference_systems(digits, [Size(3, 40), *alike], CPU, RULES, features)
    few, all_ = (f" of {count:,} images" for count in (40, there))
    assert list(other) == [
        *(f"{name}{few}" for name in ("mean image", "linear code 3")),
        *(f"{name}{all_}" for name in ("mean image", "linear code 3", "linear code 5")),
    ]
    model = found["linear code 3"].model.state_dict()
    assert all(torch.equal(t, model[name]) for name, t in other[f"linear code 3{all_}"].model.state_dict().items())
    assert all(
        not torch.equal(t, model[name])
        for name, t in other[f"linear code 3{few}"].model.state_dict().items()
        if name != "mixture.log_weights"
    )


def test_the_mean_image_is_the_code_of_no_numbers(digits: PreparedData) -> None:
    mean = references.mean_image(linear_reference(digits, Size(5, None), CPU))
    drawn, reconstructed = mean.sample(3), mean(torch.rand(3, *digits.image_shape))
    assert torch.equal(drawn, mean.mean.expand(3, *digits.image_shape))
    assert torch.equal(drawn, reconstructed)
