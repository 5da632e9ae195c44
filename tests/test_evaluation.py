"""Metrics against closed forms; an evaluation repeats, disturbs nothing, and holds for every kind of model and data."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from aemodels.config import SettingsError, section_kinds
from aemodels.data import PreparedData, prepare
from aemodels.data.folder import FolderConfig
from aemodels.distributions import BernoulliConfig, DiagonalNormalHead, GaussianConfig
from aemodels.evaluation import EvaluationConfig, check_likelihood, check_primary, direction, evaluate
from aemodels.evidence import Codes, Evidence
from aemodels.experiment import Experiment
from aemodels.features import Features, feature_count, feature_network
from aemodels.metrics import METRICS
from aemodels.metrics.compression import explained_variance
from aemodels.metrics.held_out import knn_accuracy, mse, probe_accuracy, psnr, structural_similarity
from aemodels.metrics.samples import frechet_distance
from aemodels.models import AEConfig, CVAEConfig, VAEConfig
from aemodels.models.base import Autoencoder, Batch, ModelConfig, Variational
from aemodels.nets import MLPConfig
from aemodels.out_of_domain import images_of_another_kind
from aemodels.progress import finish
from aemodels.tuning import TuningConfig

CPU = torch.device("cpu")
CONFIG = EvaluationConfig()
MODELS: list[Any] = list(section_kinds(Experiment.model_fields["model"]).values())  # the union
OF_SAMPLES = {"frechet_samples", "frechet_floor", "frechet_images", "density", "coverage", "prior_diversity"}
OF_SAMPLES |= {"confident_samples", "confident_real", "class_balance"}
SMALL = MLPConfig(widths=(32,))
GREY = GaussianConfig(sigma="learned")


@pytest.fixture(scope="module")
def features(digits: PreparedData) -> Features:
    return finish(feature_network(digits, CPU))


@pytest.fixture(scope="module")
def colour(tmp_path_factory: pytest.TempPathFactory) -> dict[str, PreparedData]:
    """Sixty colour images of 12 x 12 pixels, with and without labels."""
    root, rng = tmp_path_factory.mktemp("colour"), np.random.default_rng(0)
    for label in ("bright", "dark"):
        (root / label).mkdir()
        for i in range(30):
            pixels = rng.integers(0, 128, (12, 12, 3)) + (127 if label == "bright" else 0)
            Image.fromarray(pixels.astype(np.uint8)).save(root / label / f"{i}.png")
    labelled = finish(prepare(FolderConfig(path=(root,))))
    plain = finish(prepare(FolderConfig(path=(root / "dark",))))
    assert plain.classes == ()
    return {"labelled": labelled, "plain": plain}


def build(config: ModelConfig, data: PreparedData) -> Autoencoder:
    torch.manual_seed(0)
    model = config.build(data.image_shape, data.num_classes)
    assert isinstance(model, Autoencoder)
    return model


class Stub(Evidence):
    """Given reconstructions and codes."""

    def __init__(self, pairs: list[tuple[Tensor, Tensor]], training: Codes | None = None, codes: Codes | None = None):
        self.pairs = pairs
        self.__dict__ |= {"training_codes": training, "codes": codes}

    def reconstructions(self):
        return iter(self.pairs)


# ---------------------------------------------------------------- closed forms


def test_frechet_distance_of_gaussians_is_the_closed_form() -> None:
    """Independent units: the sum of squared differences of means and of standard deviations."""
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


def test_squared_error_and_psnr() -> None:
    x = torch.zeros(4, 1, 8, 8)
    evidence = Stub([(x, x + 0.1), (x, x + 0.01)])
    assert mse(evidence) == pytest.approx((0.01 + 0.0001) / 2)
    assert psnr(evidence) == pytest.approx(30)
    assert psnr(Stub([(x, x)])) == pytest.approx(100)


def test_explained_variance_is_that_of_the_images() -> None:
    x = torch.rand(50, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    mean = x.mean(0, keepdim=True).expand_as(x)
    assert explained_variance(Stub([(x, x)])) == 1
    assert explained_variance(Stub([(x, mean)])) == pytest.approx(0, abs=1e-6)
    halves = list(zip(x.split(30), (0.2 * mean + 0.8 * x).split(30), strict=True))
    assert explained_variance(Stub(halves)) == pytest.approx(1 - 0.2**2)


def test_what_a_model_is_not_for(digits: PreparedData, colour: dict[str, PreparedData]) -> None:
    grey, small = images_of_another_kind(digits), images_of_another_kind(colour["plain"])
    assert grey.shape == (1000, 1, 28, 28)
    assert small.shape == (1000, 3, 12, 12)
    assert len(images_of_another_kind(digits.model_copy(update={"binarize": "static"})).unique()) == 2
    sprites = images_of_another_kind(digits.model_copy(update={"name": "sprites", "image_shape": (1, 20, 32)}))
    assert sprites.shape == (1000, 1, 20, 32)
    assert not torch.equal(sprites[:10, :, :12, :12], grey[:10, :, :12, :12])


def test_the_gap_between_seen_and_unseen_images(digits: PreparedData) -> None:
    """A decoder that knows no image but the mean of those that it saw."""
    model = build(AEConfig(trunk=SMALL), digits)
    seen = torch.tensor(digits.split("train").images[:30]).float() / 255
    with torch.no_grad():
        last = [module for module in model.decoder if isinstance(module, torch.nn.Linear)][-1]
        last.weight.zero_()
        last.bias.copy_(seen.mean(0).flatten().clamp(1e-6, 1 - 1e-6).logit())
    found, evidence = evaluate(model, digits, None, CONFIG, seen=30)
    assert len(evidence.training_codes.z) == 30  # those of the probes too
    assert found["mse_training"] == pytest.approx(float((seen - seen.mean(0)).square().mean()), rel=1e-4)
    assert found["generalization_gap"] == pytest.approx(found["mse"] - found["mse_training"])
    assert found["generalization_gap"] > 0
    assert found["compression_ratio"] == 784 / 80
    assert found["out_of_domain_explained_variance"] < 0 < found["out_of_domain_mse"]
    assert "generalization_gap" not in evaluate(model, digits, None, CONFIG).metrics


def test_a_unit_that_only_tells_the_class_that_it_is_told_is_not_in_use(digits: PreparedData) -> None:
    """The posterior is the prior of the image's class; then a unit looks at the image too."""
    model = build(CVAEConfig(trunk=SMALL, latent_dim=3), digits)
    model.conditioning = torch.nn.Identity()  # the class, then the image's features
    model.posterior, prior = DiagonalNormalHead(10 + 32, 3), model.class_prior
    with torch.no_grad():
        prior.mean.weight.normal_()
        for own, given in zip(model.posterior.children(), prior.children(), strict=True):
            own.weight.zero_()[:, :10] = given.weight
            own.bias.copy_(given.bias)
    found, evidence = evaluate(model, digits, None, CONFIG, only=("rate", "active_units"))
    assert found == {"rate": pytest.approx(0, abs=1e-5), "active_units": 0}
    assert evidence.codes.z.var(0).min() > 0.1
    with torch.no_grad():
        model.posterior.mean.weight[0, 10:] = 1
    assert evaluate(model, digits, None, CONFIG, only=("active_units",)).metrics == {"active_units": 1}


@pytest.mark.parametrize("side", [8, 9, 10, 11, 28])
def test_structural_similarity(side: int) -> None:
    rng = torch.Generator().manual_seed(0)
    x = torch.rand(3, 3, side, side, generator=rng)
    torch.testing.assert_close(structural_similarity(x, x), torch.ones(3))
    near, far = x + 0.05 * torch.randn(x.shape, generator=rng), torch.rand(x.shape, generator=rng)
    assert (structural_similarity(x, near) > structural_similarity(x, far)).all()
    flat, grey = torch.zeros(1, 1, side, side), torch.full((1, 1, side, side), 0.5)
    assert structural_similarity(flat, grey).item() == pytest.approx(1e-4 / (0.25 + 1e-4), abs=1e-6)


def test_structural_similarity_equals_the_sum_over_windows() -> None:
    """Written out for the only window of an 11 x 11 image."""
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
    assert probe_accuracy(evidence) == 1
    assert knn_accuracy(evidence) == 1
    evidence = Stub([], Codes(z[:200] * math.nan, y[:200]), Codes(z[200:], y[200:]))
    assert math.isnan(probe_accuracy(evidence))
    assert math.isnan(knn_accuracy(evidence))


# ---------------------------------------------------------------- the feature network


def test_the_feature_network_of_digits(digits: PreparedData, features: Features) -> None:
    assert features.name == "classifier"
    assert features.dimensions == 32
    assert features.accuracy is not None
    assert features.accuracy > 0.97
    x = torch.tensor(digits.split("test").images).float() / 255
    embedded = features.embed(x)
    assert embedded.shape == (len(x), 32)
    assert finish(feature_network(digits, CPU)).hash == features.hash
    probabilities = features.probabilities(x)
    assert probabilities is not None
    torch.testing.assert_close(probabilities.sum(1), torch.ones(len(x)))
    training = features.of_split(digits, "train", digits.sizes["train"], CPU)
    torch.testing.assert_close(training.var(0).mean(), torch.tensor(1.0), atol=0.1, rtol=0)


def test_a_damaged_feature_network_is_trained_again(colour: dict[str, PreparedData]) -> None:
    data = colour["labelled"]
    features = finish(feature_network(data, CPU))
    (weights,), (card,) = data.path.glob("features*.safetensors"), data.path.glob("features*.json")
    content, meta = weights.read_bytes(), card.read_bytes()
    for damaged in (content[:-8] + bytes(8), content[:100], b""):
        weights.write_bytes(damaged)
        again = finish(feature_network(data, CPU))
        assert again.hash == features.hash  # and to the same weights
        assert weights.read_bytes() == content
    for damaged in (b"", b"{}", b"[]", meta.replace(b"classifier", b"pca")):
        card.write_bytes(damaged)
        assert finish(feature_network(data, CPU)).hash == features.hash
        assert card.read_bytes() == meta


def test_features_do_not_depend_on_binarisation(digits: PreparedData, features: Features) -> None:
    black_and_white = digits.model_copy(update={"binarize": "static"})
    assert finish(feature_network(black_and_white, CPU)).hash == features.hash


def test_features_without_labels(colour: dict[str, PreparedData]) -> None:
    data = colour["plain"]
    features = finish(feature_network(data, CPU))
    assert features.name == "pca"
    assert features.accuracy is None
    assert features.probabilities(torch.zeros(1, *data.image_shape)) is None
    assert features.dimensions == feature_count(data) == 2
    embedded = features.of_split(data, "train", data.sizes["train"], CPU)
    torch.testing.assert_close(torch.cov(embedded.T), torch.eye(2), atol=1e-3, rtol=0)
    assert finish(feature_network(data, CPU)).hash == features.hash


# ---------------------------------------------------------------- evaluation


@pytest.mark.parametrize("binarize", ["none", "dynamic"])
def test_an_evaluation_repeats_and_disturbs_nothing(digits: PreparedData, features: Features, binarize: str) -> None:
    data = digits.model_copy(update={"binarize": binarize})
    model = build(VAEConfig(trunk=SMALL), data).train()
    model.decoder.eval()
    before = torch.get_rng_state()
    first = evaluate(model, data, features, CONFIG).metrics
    assert torch.equal(torch.get_rng_state(), before)
    assert model.training
    assert model.encoder.training
    assert not model.decoder.training
    torch.rand(7)
    assert evaluate(model, data, features, CONFIG).metrics == first
    assert evaluate(model, data, features, CONFIG.override({"seed": 1})).metrics != first


def test_only_what_is_asked_for(digits: PreparedData, features: Features) -> None:
    model = build(VAEConfig(trunk=SMALL), digits)
    whole = evaluate(model, digits, features, CONFIG, "val").metrics
    part = evaluate(model, digits, features, CONFIG, "val", only=("frechet_samples",))
    assert part.metrics == {"frechet_samples": whole["frechet_samples"]}
    assert not {"batches", "codes", "terms"} & set(vars(part.evidence))


def test_the_same_number_of_images_on_both_sides(digits: PreparedData, features: Features) -> None:
    model = build(VAEConfig(trunk=SMALL), digits)
    few = evaluate(model, digits, features, EvaluationConfig(samples=50))
    assert few.metrics["frechet_images"] == 50
    assert len(few.evidence.sample_features) == len(few.evidence.reconstruction_features) == 50
    assert len(few.evidence.real_features) == len(few.evidence.training_features) == 50
    many = evaluate(model, digits, features, CONFIG).metrics
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
    found, evidence = evaluate(model, data, finish(feature_network(data, CPU)), rules, seen=20)
    assert all(map(math.isfinite, found.values()))
    expected = set(METRICS) - {"bits_per_dimension", "nll", "nll_samples", "nll_images", "mutual_information_gap"}
    expected -= set() if evidence.has("rate") else {"rate", "negative_elbo", "active_units"}
    unconditional = {"probe_accuracy", "knn_accuracy", "frechet_standard_normal", "frechet_fitted_prior"}
    expected -= unconditional if evidence.has("conditional") else {"label_accuracy", "label_diversity"}
    if not evidence.has("autoencoder"):
        expected &= OF_SAMPLES
    if not evidence.has("labels"):
        expected -= {"probe_accuracy", "knn_accuracy", "confident_samples", "confident_real", "class_balance"}
        expected -= {"like_accuracy", "like_diversity", "prior_diversity"}
    assert set(found) == expected


def test_metrics_without_a_feature_network(digits: PreparedData) -> None:
    found = evaluate(build(VAEConfig(trunk=SMALL), digits), digits, None, CONFIG).metrics
    assert not [name for name in found if "features" in METRICS[name].needs]


def test_real_images_as_samples_are_as_good_as_real(digits: PreparedData, features: Features) -> None:
    """Training images in the place of a model's samples; all of one class show as such."""
    evidence = evaluate(build(VAEConfig(trunk=SMALL), digits), digits, features, CONFIG, only=()).evidence
    sevens = torch.tensor(digits.split("train").labels[: evidence.count] == 7)
    names = ("density", "coverage", "confident_samples", "class_balance")
    evidence.sample_features = evidence.training_features
    real = [METRICS[name].measure(evidence) for name in names]
    assert real == pytest.approx([1, 0.97, METRICS["confident_real"].measure(evidence), 0.99], abs=0.15)
    for name in ("balls", "sample_probabilities"):
        del vars(evidence)[name]
    evidence.sample_features = evidence.training_features[sevens]
    one = [METRICS[name].measure(evidence) for name in names]
    assert one[1] == pytest.approx(0.1, abs=0.05)
    assert one[3] < 0.2  # the classifier is not sure of all


TWICE = "frechet_samples", "frechet_standard_normal", "frechet_fitted_prior"


def test_an_autoencoder_is_judged_by_codes_from_the_standard_normal_too(
    digits: PreparedData, features: Features
) -> None:
    model = build(AEConfig(trunk=SMALL), digits)
    unfitted = evaluate(model, digits, features, CONFIG).metrics  # whose prior is N(0, I) itself
    assert unfitted["frechet_standard_normal"] == pytest.approx(unfitted["frechet_samples"], rel=0.1)
    model.fit_prior([Batch(torch.tensor(digits.split("train").images[:500]).float() / 255, None)], seed=0)
    fitted = evaluate(model, digits, features, CONFIG).metrics
    assert fitted["frechet_standard_normal"] == unfitted["frechet_standard_normal"]
    assert fitted["frechet_fitted_prior"] == fitted["frechet_samples"] != unfitted["frechet_samples"]
    assert METRICS["frechet_standard_normal"].direction is None


def test_a_vae_is_judged_by_codes_from_a_fitted_prior_too(digits: PreparedData, features: Features) -> None:
    """Every q(z|x) is N(7, I), which the fitted prior has found, in as many images as were seen; N(0, I) is its own."""
    model = build(VAEConfig(trunk=SMALL), digits)
    assert isinstance(model, Variational)
    with torch.no_grad():
        for parameter in model.posterior.parameters():
            parameter.zero_()
        model.posterior.mean.bias.fill_(7)
    shown: list[int] = []
    decoded: list[Tensor] = []
    model.encoder.register_forward_hook(lambda _, inputs, __: shown.append(len(inputs[0])))
    model.decoder.register_forward_hook(lambda _, inputs, __: decoded.append(inputs[0]))
    found = evaluate(model, digits, features, CONFIG, only=TWICE, seen=700).metrics
    assert found["frechet_standard_normal"] == found["frechet_samples"]
    normal, fitted = torch.cat(decoded).split(digits.sizes["test"])  # and none of them twice
    for codes, mean in ((normal, 0.0), (fitted, 7.0)):
        assert float(codes.mean()) == pytest.approx(mean, abs=0.1)
        assert float(codes.var(0).mean()) == pytest.approx(1, abs=0.1)
    assert sum(shown) == 700


# ---------------------------------------------------------------- negative log-likelihood


def test_nll_is_below_the_bound_and_falls_with_its_samples(digits: PreparedData) -> None:
    data = digits.model_copy(update={"binarize": "static"})
    model, names = build(VAEConfig(trunk=SMALL), data), ("nll", "nll_samples", "nll_images", "negative_elbo")
    with torch.no_grad():
        model.decoder.get_submodule("0").weight.mul_(5)  # codes matter, so that the posterior is wrong
    found = [evaluate(model, data, None, EvaluationConfig(nll_samples=k), only=names).metrics for k in (1, 10, 100)]
    assert [each["nll_samples"] for each in found] == [1, 10, 100]
    assert found[0]["nll_images"] == data.sizes["test"]
    assert found[0]["nll"] == pytest.approx(found[0]["negative_elbo"], rel=0.02)  # one sample is the bound
    assert found[0]["nll"] > found[1]["nll"] + 0.1 > found[2]["nll"] + 0.2
    few = EvaluationConfig(nll_samples=10, nll_images=20)
    first, second = (evaluate(model, data, None, few, only=names).metrics for _ in range(2))
    assert first == second
    assert first["nll_images"] == 20


def test_nll_only_where_it_is_asked_for_and_is_one(digits: PreparedData) -> None:
    asked, data = EvaluationConfig(nll_samples=2, nll_images=5), digits.model_copy(update={"binarize": "static"})
    coins, density = (VAEConfig(trunk=SMALL, likelihood=likelihood) for likelihood in (BernoulliConfig(), GREY))
    assert "nll" not in evaluate(build(coins, data), data, None, CONFIG).metrics
    assert "nll" in evaluate(build(coins, data), data, None, asked).metrics
    assert "nll" not in evaluate(build(coins, digits), digits, None, asked).metrics
    assert "nll" in evaluate(build(density, digits), digits, None, asked).metrics
    ae = AEConfig(trunk=SMALL, likelihood=BernoulliConfig())
    assert "nll" not in evaluate(build(ae, data), data, None, asked).metrics
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


def test_bits_per_dimension_only_where_there_is_a_likelihood(digits: PreparedData) -> None:
    """Coin flips of one half cost a bit, and grey levels that are all alike log2(255) bits at most."""
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
        found = evaluate(model, data, None, CONFIG).metrics
        assert ("bits_per_dimension" in found) == exists
        if likelihood.name == "bernoulli" and exists:
            assert found["bits_per_dimension"] == pytest.approx(1, abs=1e-5)
        elif exists:  # a density of 1 / sqrt(2 pi 10²), and x within 0.5 of the mean: exp(-x²/200) is 1
            density = math.log2(math.sqrt(2 * math.pi * 100) * 255)
            assert found["bits_per_dimension"] == pytest.approx(density, abs=2e-3)


def test_a_model_that_is_not_finite_is_measured_as_such(digits: PreparedData, features: Features) -> None:
    model = build(VAEConfig(trunk=SMALL), digits)
    with torch.no_grad():
        next(model.decoder.parameters()).fill_(math.nan)
        next(model.encoder.parameters()).fill_(math.nan)
    found = evaluate(model, digits, features, CONFIG).metrics
    expected = {"negative_elbo", "mse", "psnr", "ssim", "probe_accuracy", "knn_accuracy", "frechet_samples"}
    for name in expected | {"frechet_fitted_prior", "density", "coverage", "confident_samples", "class_balance"}:
        assert math.isnan(found[name])


# ---------------------------------------------------------------- which is and what cannot be asked


def test_direction() -> None:
    assert direction("frechet_samples") == "minimize"
    assert direction("knn_accuracy") == "maximize"


@pytest.mark.parametrize("primary", ["frechet_sample", "frechet_floor", "generalization_gap", "confident_samples"])
def test_a_primary_that_judges_no_model(primary: str) -> None:
    with pytest.raises(SettingsError, match=r"primary=.*choose one of distortion, "):
        EvaluationConfig.parse({"primary": primary})
    with pytest.raises(SettingsError, match=primary):
        direction(primary)


def test_a_rate_is_no_primary_but_a_goal_beside_another() -> None:
    """The smallest one has a model whose codes tell nothing."""
    with pytest.raises(SettingsError, match=r"primary=rate: .* by itself .*; choose one of distortion, negative_elbo"):
        EvaluationConfig.parse({"primary": "rate"})
    assert TuningConfig(pareto=("distortion", "rate")).pareto == ("distortion", "rate")


def test_a_primary_that_the_model_does_not_have(digits: PreparedData, colour) -> None:
    check_primary(build(VAEConfig(), digits), digits, CONFIG)
    with pytest.raises(SettingsError, match=r"evaluation.primary=negative_elbo.*needs rate.*choose"):
        check_primary(build(AEConfig(), digits), digits, EvaluationConfig(primary="negative_elbo"))
    plain = colour["plain"]
    with pytest.raises(SettingsError, match=r"knn_accuracy.*labels"):
        evaluate(build(AEConfig(), plain), plain, None, CONFIG, only=("knn_accuracy",))


def test_a_model_for_other_images(digits: PreparedData, colour) -> None:
    with pytest.raises(SettingsError, match=r"\(1, 28, 28\).*\(3, 12, 12\)"):
        evaluate(build(AEConfig(), digits), colour["plain"], None, CONFIG)
    conditional = build(CVAEConfig(trunk=SMALL), colour["labelled"])
    with pytest.raises(SettingsError, match="conditional on 2 classes, folder has no labels; choose data"):
        evaluate(conditional, colour["plain"], None, CONFIG)
    other = colour["labelled"].model_copy(update={"classes": ("a", "b", "c")})
    with pytest.raises(SettingsError, match="conditional on 2 classes, folder has 3; choose data"):
        evaluate(conditional, other, None, CONFIG)
