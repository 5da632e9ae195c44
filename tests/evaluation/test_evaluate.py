"""Tests that an evaluation repeats, disturbs nothing, works for all models and data, and says what is missing."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from autoencoders import build
from torch import Tensor

from aemodels.config import SettingsError, section_kinds
from aemodels.data import PreparedData
from aemodels.data.other_kind import images_of_another_kind
from aemodels.evaluation.config import EvaluationConfig
from aemodels.evaluation.estimates import Estimate
from aemodels.evaluation.evaluate import check_primary, direction, evaluate, evaluating
from aemodels.evaluation.evidence import Evidence
from aemodels.evaluation.features import Features, features_of
from aemodels.evaluation.images import TrainedOn
from aemodels.evaluation.metrics import METRICS
from aemodels.experiment import Experiment
from aemodels.models import AEConfig, CVAEConfig, IWAEConfig, VAEConfig
from aemodels.models.base import ModelConfig
from aemodels.models.variational import Variational
from aemodels.nn.batch import Batch
from aemodels.nn.distributions import BernoulliConfig, DiagonalNormalHead
from aemodels.nn.trunks import MLPConfig
from aemodels.runtime.progress import Progress, finish
from aemodels.tuning.config import TuningConfig

CPU = torch.device("cpu")
CONFIG = EvaluationConfig()
MODELS: list[Any] = list(section_kinds(Experiment.model_fields["model"]).values())  # the union
OF_SAMPLES = {"frechet_samples", "frechet_floor", "frechet_images", "density", "coverage", "prior_diversity"}
OF_SAMPLES |= {"frechet_linear_code"}
OF_SAMPLES |= {"confident_samples", "confident_real", "class_balance"}
SMALL = MLPConfig(widths=(32,))
WITH_DENSITY = {VAEConfig, CVAEConfig, IWAEConfig}  # Gaussians of colour pixels, and a bound


@pytest.mark.parametrize("binarize", ["none", "dynamic"])
def test_an_evaluation_repeats_and_disturbs_nothing(digits: PreparedData, features: Features, binarize: str) -> None:
    data = digits.model_copy(update={"binarize": binarize})
    model = build(VAEConfig(trunk=SMALL), data).train()
    model.decoder.eval()
    before = torch.get_rng_state()
    first = evaluate(Evidence(model, data, features, CONFIG)).metrics
    assert torch.equal(torch.get_rng_state(), before)
    assert model.training
    assert model.encoder.training
    assert not model.decoder.training
    torch.rand(7)
    assert evaluate(Evidence(model, data, features, CONFIG)).metrics == first
    assert evaluate(Evidence(model, data, features, CONFIG.override({"seed": 1}))).metrics != first


def test_only_what_is_asked_for(digits: PreparedData, features: Features) -> None:
    model = build(VAEConfig(trunk=SMALL), digits)
    whole = evaluate(Evidence(model, digits, features, CONFIG, "val")).metrics
    part = evaluate(Evidence(model, digits, features, CONFIG, "val"), only=("frechet_samples",))
    assert part.metrics == {"frechet_samples": whole["frechet_samples"]}
    assert not {"batches", "codes", "terms"} & set(vars(part.evidence))


def test_the_same_number_of_images_on_both_sides(digits: PreparedData, features: Features) -> None:
    model = build(VAEConfig(trunk=SMALL), digits)
    few = evaluate(Evidence(model, digits, features, EvaluationConfig(samples=50)))
    assert few.metrics["frechet_images"] == 50
    assert len(few.evidence.sample_features) == len(few.evidence.reconstruction_features) == 50
    assert len(few.evidence.real_features) == len(few.evidence.training_features) == 50
    many = evaluate(Evidence(model, digits, features, CONFIG)).metrics
    assert many["frechet_images"] == digits.sizes["test"]
    assert many["frechet_floor"] < 1  # of 32 features; it is larger with fewer images


@pytest.mark.parametrize(
    ("kind", "source"),
    [(kind, source) for kind in MODELS for source in ("labelled", "plain") if (kind, source) != (CVAEConfig, "plain")],
)
def test_every_metric_is_finite_on_colour_images(colour, kind: type[ModelConfig], source: str) -> None:
    data = colour[source]
    torch.manual_seed(0)
    model = kind.model_validate({"trunk": SMALL}).build(data.image_shape, data.num_classes)
    rules = CONFIG.override({"denoising": True})
    features, seen = finish(features_of(data, CPU)), TrainedOn(data, 20)
    found, evidence, left_out, _ = evaluate(Evidence(model, data, features, rules, trained_on=seen))
    assert not left_out
    assert all(map(math.isfinite, found.values()))
    expected = set(METRICS) - {"nll", "nll_samples", "nll_images", "mutual_information_gap"}
    expected -= set() if kind in WITH_DENSITY else {"bits_per_dimension"}
    expected -= set() if evidence.has("rate") else {"rate", "negative_elbo", "active_units"}
    unconditional = {"probe_accuracy", "knn_accuracy", "frechet_standard_normal", "frechet_fitted_prior"}
    expected -= unconditional if evidence.has("conditional") else {"label_accuracy", "label_diversity"}
    if not evidence.has("autoencoder"):
        expected &= OF_SAMPLES
    if not evidence.has("labels"):
        expected -= {"probe_accuracy", "knn_accuracy", "confident_samples", "confident_real", "class_balance"}
        expected -= {"like_accuracy", "like_diversity", "prior_diversity"}
    assert set(found) == expected


def test_a_model_that_is_not_finite_is_measured_as_such(digits: PreparedData, features: Features) -> None:
    model = build(VAEConfig(trunk=SMALL), digits)
    with torch.no_grad():
        next(model.decoder.parameters()).fill_(math.nan)
        next(model.encoder.parameters()).fill_(math.nan)
    found = evaluate(Evidence(model, digits, features, CONFIG)).metrics
    expected = {"negative_elbo", "mse", "psnr", "ssim", "probe_accuracy", "knn_accuracy", "frechet_samples"}
    for name in expected | {"frechet_fitted_prior", "density", "coverage", "confident_samples", "class_balance"}:
        assert math.isnan(found[name])


def test_metrics_without_a_feature_network(digits: PreparedData) -> None:
    found = evaluate(Evidence(build(VAEConfig(trunk=SMALL), digits), digits, None, CONFIG)).metrics
    assert not [name for name in found if "features" in METRICS[name].needs]


def value_of(metric: str, evidence: Evidence) -> float:
    found = METRICS[metric].measure(evidence)
    return found.value if isinstance(found, Estimate) else found


def test_real_images_as_samples_are_as_good_as_real(digits: PreparedData, features: Features) -> None:
    """Training images take the place of samples. The metrics show it if all are of one class."""
    evidence = evaluate(Evidence(build(VAEConfig(trunk=SMALL), digits), digits, features, CONFIG), only=()).evidence
    sevens = torch.tensor(digits.split("train").labels[: evidence.frechet_images] == 7)
    names = ("density", "coverage", "confident_samples", "class_balance")
    evidence.sample_features = evidence.training_features
    real = [value_of(name, evidence) for name in names]
    assert real == pytest.approx([1, 0.97, METRICS["confident_real"].measure(evidence), 0.99], abs=0.15)
    for name in ("balls", "sample_probabilities"):
        del vars(evidence)[name]
    evidence.sample_features = evidence.training_features[sevens]
    one = [value_of(name, evidence) for name in names]
    assert one[1] == pytest.approx(0.1, abs=0.05)
    assert one[3] < 0.2  # the classifier is not sure of all


TWICE = "frechet_samples", "frechet_standard_normal", "frechet_fitted_prior"


def test_an_autoencoder_is_judged_by_codes_from_the_standard_normal_too(
    digits: PreparedData, features: Features
) -> None:
    model = build(AEConfig(trunk=SMALL), digits)
    unfitted = evaluate(Evidence(model, digits, features, CONFIG)).metrics  # whose prior is N(0, I) itself
    assert unfitted["frechet_standard_normal"] == pytest.approx(unfitted["frechet_samples"], rel=0.1)
    model.fit_prior([Batch(torch.tensor(digits.split("train").images[:500]).float() / 255, None)], seed=0)
    fitted = evaluate(Evidence(model, digits, features, CONFIG)).metrics
    assert fitted["frechet_standard_normal"] == unfitted["frechet_standard_normal"]
    assert fitted["frechet_fitted_prior"] == fitted["frechet_samples"] != unfitted["frechet_samples"]
    assert METRICS["frechet_standard_normal"].direction is None


def test_a_vae_is_judged_by_codes_from_a_fitted_prior_too(digits: PreparedData, features: Features) -> None:
    """Every q(z|x) is N(7, I), and the fitted prior has found that. The model itself draws from N(0, I)."""
    model = build(VAEConfig(trunk=SMALL, draws_from="prior"), digits)
    assert isinstance(model, Variational)
    with torch.no_grad():
        for parameter in model.posterior.parameters():
            parameter.zero_()
        model.posterior.mean.bias.fill_(7)
    shown: list[int] = []
    decoded: list[Tensor] = []
    model.encoder.register_forward_hook(lambda _, inputs, __: shown.append(len(inputs[0])))
    model.decoder.register_forward_hook(lambda _, inputs, __: decoded.append(inputs[0]))
    found = evaluate(Evidence(model, digits, features, CONFIG, trained_on=TrainedOn(digits, 700)), only=TWICE).metrics
    assert found["frechet_standard_normal"] == found["frechet_samples"]
    normal, fitted = torch.cat(decoded).split(digits.sizes["test"])  # and none of them twice
    for codes, mean in ((normal, 0.0), (fitted, 7.0)):
        assert float(codes.mean()) == pytest.approx(mean, abs=0.1)
        assert float(codes.var(0).mean()) == pytest.approx(1, abs=0.1)
    assert sum(shown) == 700


def test_what_a_model_is_not_for(digits: PreparedData, colour: dict[str, PreparedData]) -> None:
    grey, small = images_of_another_kind(digits), images_of_another_kind(colour["plain"])
    assert grey.shape == (1000, 1, 28, 28)
    assert small.shape == (1000, 3, 12, 12)
    assert len(images_of_another_kind(digits.model_copy(update={"binarize": "static"})).unique()) == 2
    sprites = images_of_another_kind(digits.model_copy(update={"name": "sprites", "image_shape": (1, 20, 32)}))
    assert sprites.shape == (1000, 1, 20, 32)
    assert not torch.equal(sprites[:10, :, :12, :12], grey[:10, :, :12, :12])


def test_the_gap_between_seen_and_unseen_images(digits: PreparedData) -> None:
    """The decoder knows only the mean of the images that it saw."""
    model = build(AEConfig(trunk=SMALL, likelihood=BernoulliConfig()), digits)
    seen = torch.tensor(digits.split("train").images[:30]).float() / 255
    with torch.no_grad():
        last = [module for module in model.decoder if isinstance(module, torch.nn.Linear)][-1]
        last.weight.zero_()
        last.bias.copy_(seen.mean(0).flatten().clamp(1e-6, 1 - 1e-6).logit())
    found, evidence, *_ = evaluate(Evidence(model, digits, None, CONFIG, trained_on=TrainedOn(digits, 30)))
    assert len(evidence.training_codes.z) == 30  # those of the probes too
    assert found["mse_training"] == pytest.approx(float((seen - seen.mean(0)).square().mean()), rel=1e-4)
    assert found["generalization_gap"] == pytest.approx(found["mse"] - found["mse_training"])
    assert found["generalization_gap"] > 0
    assert found["compression_ratio"] == 784 / 80
    assert found["out_of_domain_explained_variance"] < 0 < found["out_of_domain_mse"]
    assert "generalization_gap" not in evaluate(Evidence(model, digits, None, CONFIG)).metrics


def test_a_unit_that_only_tells_the_class_that_it_is_told_is_not_in_use(digits: PreparedData) -> None:
    """The posterior equals the prior of the image's class, so no unit is in use; one is, when it looks at the image."""
    model = build(CVAEConfig(trunk=SMALL, latent_dim=3), digits)
    model.conditioning = torch.nn.Identity()  # the class, then the image's features
    model.posterior, prior = DiagonalNormalHead(10 + 32, 3), model.class_prior
    with torch.no_grad():
        prior.mean.weight.normal_()
        for own, given in zip(model.posterior.children(), prior.children(), strict=True):
            own.weight.zero_()[:, :10] = given.weight
            own.bias.copy_(given.bias)
    found, evidence, *_ = evaluate(Evidence(model, digits, None, CONFIG), only=("rate", "active_units"))
    assert found == {"rate": pytest.approx(0, abs=1e-5), "active_units": 0}
    assert evidence.codes.z.var(0).min() > 0.1
    with torch.no_grad():
        model.posterior.mean.weight[0, 10:] = 1
    assert evaluate(Evidence(model, digits, None, CONFIG), only=("active_units",)).metrics == {"active_units": 1}


# ---------------------------------------------------------------- which is and what cannot be asked


def test_direction() -> None:
    assert direction("frechet_samples") == "minimize"
    assert direction("knn_accuracy") == "maximize"


@pytest.mark.parametrize("primary", ["frechet_sample", "frechet_floor", "generalization_gap", "confident_samples"])
def test_a_primary_that_judges_no_model(primary: str) -> None:
    with pytest.raises(SettingsError, match=rf"^evaluation\.primary={primary}: .*choose one of distortion, "):
        Experiment.parse({"evaluation.primary": primary})
    with pytest.raises(SettingsError, match=primary):
        direction(primary)


def test_a_rate_is_no_primary_but_a_goal_beside_another() -> None:
    """A model whose codes tell nothing has the smallest rate."""
    refusal = r"primary=rate: not a metric that says by itself .*; choose one of distortion, negative_elbo"
    with pytest.raises(SettingsError, match=refusal):
        Experiment.parse({"evaluation.primary": "rate"})
    assert TuningConfig(pareto=("distortion", "rate")).pareto == ("distortion", "rate")


def test_a_primary_that_the_model_does_not_have(digits: PreparedData, colour) -> None:
    check_primary(build(VAEConfig(), digits), digits, CONFIG)
    with pytest.raises(SettingsError, match=r"evaluation.primary=negative_elbo.*needs rate.*choose"):
        check_primary(build(AEConfig(), digits), digits, EvaluationConfig(primary="negative_elbo"))
    plain = colour["plain"]
    with pytest.raises(SettingsError, match=r"knn_accuracy.*labels"):
        evaluate(Evidence(build(AEConfig(), plain), plain, None, CONFIG), only=("knn_accuracy",))


def test_a_model_for_other_images(digits: PreparedData, colour) -> None:
    with pytest.raises(SettingsError, match=r"\(1, 28, 28\).*\(3, 12, 12\)"):
        evaluate(Evidence(build(AEConfig(), digits), colour["plain"], None, CONFIG))
    conditional = build(CVAEConfig(trunk=SMALL), colour["labelled"])
    with pytest.raises(SettingsError, match="conditional on 2 classes, folder has no labels; choose data"):
        evaluate(Evidence(conditional, colour["plain"], None, CONFIG))
    other = colour["labelled"].model_copy(update={"classes": ("a", "b", "c")})
    with pytest.raises(SettingsError, match="conditional on 2 classes, folder has 3; choose data"):
        evaluate(Evidence(conditional, other, None, CONFIG))


def test_a_quick_evaluation_leaves_out_what_is_slow_and_not_asked(digits: PreparedData, features: Features) -> None:
    model = build(VAEConfig(trunk=SMALL), digits)
    seen = TrainedOn(digits, 500)
    full = evaluate(Evidence(model, digits, features, CONFIG, trained_on=seen))
    quick = evaluate(Evidence(model, digits, features, CONFIG.override({"level": "quick"}), trained_on=seen))
    slow = {name for name in full.metrics if METRICS[name].slow}
    assert {"probe_accuracy", "knn_accuracy", "density", "coverage", "like_accuracy"} <= slow
    assert quick.metrics == {name: value for name, value in full.metrics.items() if name not in slow}
    assert {"mse", "negative_elbo", "frechet_samples", "explained_variance", "share_of_linear_code"} <= set(
        quick.metrics
    )
    assert not quick.left_out
    asked = CONFIG.override({"level": "quick", "primary": "coverage"})
    assert (
        evaluate(Evidence(model, digits, features, asked, trained_on=seen)).metrics["coverage"]
        == full.metrics["coverage"]
    )


def test_an_evaluation_tells_which_metric_it_measures(digits: PreparedData, features: Features) -> None:
    told: list[Progress] = []
    only = ("mse", "psnr", "frechet_floor")
    finish(
        evaluating(Evidence(build(VAEConfig(trunk=SMALL), digits), digits, features, CONFIG), only=only), told.append
    )
    assert told == [Progress("evaluating", i, 3, name) for i, name in enumerate(only)]
