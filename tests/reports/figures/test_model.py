"""Tests that figures exist for every kind of model and data, and show what they say."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from autoencoders import build
from paper import paper_around
from PIL import Image
from quick import first
from torch import Tensor

from aemodels.config import section_kinds
from aemodels.data import PreparedData, prepare
from aemodels.data.folder import FolderConfig
from aemodels.data.sprites import SpritesConfig
from aemodels.evaluation.config import EvaluationConfig
from aemodels.evaluation.evaluate import evaluate
from aemodels.evaluation.evidence import TRAINING_CODES, Codes, Evidence
from aemodels.evaluation.features import Features, features_of
from aemodels.evaluation.images import TrainedOn
from aemodels.experiment import Experiment
from aemodels.models import AEConfig, CVAEConfig, GANConfig, VAEConfig, VAEGANConfig
from aemodels.models.ae import AE
from aemodels.models.base import Autoencoder, ModelConfig
from aemodels.models.cvae import CVAE
from aemodels.nn.trunks import MLPConfig
from aemodels.reports.figures import codes, images
from aemodels.reports.figures.codes import unlike_pairs
from aemodels.reports.figures.images import ACROSS, nearest
from aemodels.reports.figures.model import FIGURES, draw_figures, drawing_figures, reconstruction_grid, sample_grid
from aemodels.reports.figures.training import _curves
from aemodels.reports.pictures import GAP, Labels, shrunk, tile
from aemodels.runtime.progress import Progress, finish
from aemodels.training.config import TrainingConfig
from aemodels.training.train import train

SMALL = MLPConfig(widths=(16,))
MODELS: list[Any] = list(section_kinds(Experiment.model_fields["model"]).values())  # the union
HISTORY = [
    {"train/loss": 9.0 - i, "train/distortion": 7.0 - i, "train/rate": 1.0, "train/negative_elbo": 8.0 - i}
    | {"val/distortion": 7.5 - i, "val/rate": 1.0, "val/negative_elbo": 8.5 - i, "val/objective": 9.5 - i}
    | {"train/seconds": 1.0, "train/images_per_second": 1e3, "train/learning_rate": 1e-3}
    for i in range(3)
]


@pytest.fixture(scope="module")
def colour(tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    """Returns forty colour images of 8 x 8 pixels without labels."""
    root, rng = tmp_path_factory.mktemp("plain"), np.random.default_rng(0)
    for i in range(40):
        Image.fromarray(rng.integers(0, 256, (8, 8, 3)).astype(np.uint8)).save(root / f"{i}.png")
    return finish(prepare(FolderConfig(path=(root,))))


@pytest.mark.parametrize(
    ("kind", "source", "latent_dim"),
    first(
        len(MODELS) + 2,
        [
            *itertools.product(MODELS, ("digits",), (2,)),
            *itertools.product((AEConfig, VAEConfig), ("colour",), (2,)),
            *itertools.product((AEConfig, VAEConfig, CVAEConfig), ("digits",), (40, 1)),
            *itertools.product((AEConfig, VAEConfig), ("colour",), (1, 40)),
        ],
    ),
)
def test_every_figure_of_every_model(kind: type[ModelConfig], source: str, latent_dim: int, request) -> None:
    data = request.getfixturevalue(source)
    torch.manual_seed(0)
    settings = {"latent_dim": latent_dim, "trunk": SMALL}
    model = kind.model_validate(settings).build(data.image_shape, data.num_classes)
    features = finish(features_of(data, torch.device("cpu")))
    evidence = evaluate(
        Evidence(model, data, features, EvaluationConfig(denoising=True), history=HISTORY), only=()
    ).evidence
    pictures, left_out = draw_figures(evidence)
    few = data.sizes["test"] < 10 and latent_dim > 2 and not evidence.has("conditional")
    assert left_out.keys() == ({"codes_tsne"} if few else set())
    absent = {"codes_tsne"} if latent_dim <= 2 or data.sizes["test"] < 10 else set()
    absent |= {"manifold"} if latent_dim != 2 else set()
    absent |= set() if evidence.has("unit_rates") else {"rate_per_unit"}
    absent |= set() if evidence.has("fitted_prior") else {"samples_standard_normal"}
    absent |= set() if evidence.has("labels") else {"like"}
    absent |= {"codes", "codes_tsne"} if evidence.has("conditional") else {"classes"}
    expected = set(FIGURES) - absent
    assert set(pictures) == (expected if evidence.has("autoencoder") else {"samples", "nearest", "training_curves"})
    for picture in pictures.values():
        assert picture.dtype == np.uint8
        assert picture.ndim == 3
        assert picture.shape[2] == 3
        assert 600 < picture.shape[1] < 1200
        assert paper_around(picture)
        assert picture.std() > 5


RECTANGLES = [(12, 20), (16, 128), *(pytest.param(size, marks=pytest.mark.slow) for size in ((20, 12), (200, 160)))]


@pytest.mark.parametrize("size", RECTANGLES)
@pytest.mark.parametrize("kind", [VAEConfig, CVAEConfig, GANConfig])
def test_figures_of_rectangles_and_of_large_images_can_be_looked_at(kind: Any, size: tuple[int, int]) -> None:
    data = finish(prepare(SpritesConfig(count=120, image_size=size)))
    torch.manual_seed(0)
    settings = {"latent_dim": 2, "trunk": SMALL}
    model = kind.model_validate(settings).build(data.image_shape, data.num_classes)
    features = finish(features_of(data, torch.device("cpu")))
    evidence = evaluate(
        Evidence(model, data, features, EvaluationConfig(denoising=True), history=HISTORY), only=()
    ).evidence
    pictures, left_out = draw_figures(evidence)
    assert not left_out
    cards = [sample_grid(model)] + ([reconstruction_grid(model, data)] if evidence.has("autoencoder") else [])
    for picture in pictures.values():
        assert picture.shape[1] > 300
        assert max(picture.shape[:2]) < 1_500
    assert all(max(card.shape[:2]) < 1_500 for card in cards)


def test_large_images_are_shrunk_to_means() -> None:
    images = torch.rand(3, 3, 7, 10)
    smaller = shrunk(images, 1.2)
    assert smaller.shape == (3, 3, 4, 5)
    torch.testing.assert_close(smaller[:, :, 0, 0], images[:, :, :2, :2].mean((2, 3)))
    torch.testing.assert_close(smaller[:, :, 3, 0], images[:, :, 6, :2].mean(2))
    assert shrunk(images, 1) is images


def test_names_of_classes_are_no_formulas(digits: PreparedData) -> None:
    named = digits.model_copy(update={"classes": ("$\\frac$", "$x", "_hidden", *digits.classes[3:])})
    model = build(VAEConfig(trunk=SMALL, latent_dim=3), named)
    evidence = evaluate(Evidence(model, named, None, EvaluationConfig()), only=()).evidence
    assert len(draw_figures(evidence, only=("codes", "codes_tsne")).found) == 2


def test_codes_that_are_all_the_same_are_drawn(digits: PreparedData) -> None:
    model = build(AEConfig(trunk=SMALL, latent_dim=3), digits)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(0)
    evidence = evaluate(Evidence(model, digits, None, EvaluationConfig()), only=()).evidence
    assert "codes_tsne" in draw_figures(evidence).found


def test_figures_repeat_and_disturb_nothing(digits: PreparedData) -> None:
    model = build(VAEConfig(trunk=SMALL), digits).train()
    before = torch.get_rng_state()
    evidence = [evaluate(Evidence(model, digits, None, EvaluationConfig()), only=()).evidence for _ in range(2)]
    pictures = [draw_figures(each).found for each in evidence]
    grids = [(reconstruction_grid(model, digits), sample_grid(model)) for _ in range(2)]
    assert torch.equal(torch.get_rng_state(), before)
    assert all(module.training for module in model.modules())
    assert "training_curves" not in pictures[0]  # without a history
    assert all(np.array_equal(pictures[0][name], pictures[1][name]) for name in pictures[0])
    assert all(np.array_equal(a, b) for a, b in zip(*grids, strict=True))
    assert not np.array_equal(grids[0][1], sample_grid(model, seed=1))


def test_grids_fit_a_card(digits: PreparedData) -> None:
    model = build(VAEConfig(trunk=SMALL), digits)
    for grid in (reconstruction_grid(model, digits), sample_grid(model)):
        assert 300 < grid.shape[0] <= 360
        assert grid.shape[1] > 1.9 * grid.shape[0]
    grid = reconstruction_grid(model, digits, "test")
    original = torch.tensor(digits.split("test").images[:8]).float() / 255
    assert np.array_equal(grid[86 : 86 + 84], tile(original, 8, 3))  # the second row


@pytest.mark.slow
def test_a_model_that_is_not_finite_is_drawn(digits: PreparedData) -> None:
    model = build(VAEConfig(trunk=SMALL), digits)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(torch.nan)
    features = finish(features_of(digits, torch.device("cpu")))
    evidence = evaluate(Evidence(model, digits, features, EvaluationConfig(), history=HISTORY), only=()).evidence
    pictures, left_out = draw_figures(evidence)
    assert not left_out
    assert set(pictures) == set(FIGURES) - {"manifold", "classes", "denoising"}


class Plane(Evidence):
    """Holds two-dimensional codes of images of class 3."""

    def __init__(self, z: Tensor, model: Autoencoder, data: PreparedData) -> None:
        self.codes, self.model, self.data, self.split = Codes(z, torch.full((len(z),), 3)), model, data, "test"
        self.unit_rates = None if isinstance(model, AE) else torch.ones(2)


@pytest.fixture
def decoded(digits: PreparedData, monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """Returns the codes that figures decode."""
    seen: list[Tensor] = []

    def decode(evidence: Evidence, z: Tensor, _: Tensor | None) -> Tensor:
        del evidence
        seen.append(z)
        return torch.zeros(len(z), *digits.image_shape)

    monkeypatch.setattr(codes, "decode", decode)
    return seen


PLANE = torch.rand(1000, 2, generator=torch.Generator().manual_seed(0)) * torch.tensor([2.0, 20.0])


@pytest.mark.parametrize("kind", [VAEConfig, AEConfig])
def test_the_manifold_has_unit_0_to_the_right_and_unit_1_upwards(
    kind: type[ModelConfig], digits: PreparedData, decoded: list[Tensor]
) -> None:
    model = build(kind.model_validate({"latent_dim": 2, "trunk": SMALL}), digits)
    picture = codes.manifold(Plane(PLANE, model, digits))
    assert paper_around(picture)
    grid = decoded[0].reshape(16, 16, 2)  # (row, column, unit)
    assert (grid[:, 1:, 0] > grid[:, :-1, 0]).all()
    assert (grid[1:, :, 1] < grid[:-1, :, 1]).all()
    assert (grid[:1, :, 1] == grid[0, 0, 1]).all()
    if kind is AEConfig:  # over the codes
        assert grid[0, -1].tolist() == pytest.approx([1.98, 19.8], rel=0.01)
    else:  # each of the 16 has a sixteenth of N(0, 1)
        shares = torch.special.ndtr(grid[0, :, 0])
        assert shares.tolist() == pytest.approx([(i + 0.5) / 16 for i in range(16)], abs=1e-5)


def test_traversals_and_manifold_lie_where_the_class_has_its_prior(digits: PreparedData, decoded: list[Tensor]) -> None:
    model = build(CVAEConfig(latent_dim=2, trunk=SMALL, conditional_prior=True), digits)
    assert isinstance(model, CVAE)
    assert model.class_prior is not None
    with torch.no_grad():
        model.class_prior.mean.weight[:, 3] = torch.tensor([5.0, -7.0])
        model.class_prior.log_variance.weight[:, 3] = torch.tensor([-3.0, 2.0])
        p_z = model.prior(torch.tensor([3]))
    mean, spread = p_z.mean[0], p_z.stddev[0]
    evidence = Plane(PLANE, model, digits)

    codes.manifold(evidence)
    grid = decoded[0].reshape(16, 16, 2)
    shares = torch.special.ndtr((torch.stack([grid[0, :, 0], grid[:, 0, 1].flip(0)], 1) - mean) / spread)
    assert shares.T.tolist() == [pytest.approx([(i + 0.5) / 16 for i in range(16)], abs=1e-5)] * 2

    codes.traversals(evidence)
    rows = decoded[1].reshape(2, 13, 2)
    for unit in (0, 1):
        expected = mean[unit] + spread[unit] * torch.linspace(-3, 3, 13)
        assert rows[unit, :, unit].tolist() == pytest.approx(expected.tolist(), abs=1e-5)
        assert (rows[unit, :, 1 - unit] == PLANE[0, 1 - unit]).all()


def test_nearest_training_images_of_copies_are_their_originals(digits: PreparedData) -> None:
    """Samples that are training images stand above themselves."""
    features = finish(features_of(digits, torch.device("cpu")))
    evidence = evaluate(
        Evidence(build(VAEConfig(trunk=SMALL), digits), digits, features, EvaluationConfig()), only=()
    ).evidence
    copies = torch.tensor(digits.split("train").images[100:132]).float() / 255
    evidence.samples = lambda n, part=0: copies[:n]
    shown = nearest(evidence)[36:, 104:]
    step = 28 * 3 + GAP
    for row in (0, 2):
        upper, lower = (shown[i * step : i * step + 84, : 8 * step - GAP] for i in (row, row + 1))
        assert np.array_equal(upper, lower)
        assert np.array_equal(upper, tile(copies[4 * row : 4 * row + 8], 8, 3))


@pytest.fixture(scope="module")
def sprites() -> PreparedData:
    """Returns more training images than the metrics encode."""
    data = finish(prepare(SpritesConfig(count=14_500, image_size=8)))
    assert data.sizes["train"] > TRAINING_CODES + ACROSS
    return data


class _Pixels(Features):
    """Takes the pixels themselves for features."""

    def embed(self, images: Tensor) -> Tensor:
        return images.flatten(1)

    def of_split(self, data: PreparedData, split: str, count: int, device: torch.device) -> Tensor:
        return self.embed(torch.tensor(data.split(split).images[:count]).float() / 255)


@pytest.mark.parametrize("seen", [0, 10_100])
def test_the_nearest_is_looked_for_in_all_images_that_the_model_saw(
    sprites: PreparedData, seen: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Copies of the last images are found. Where there are too many, the picture names those that were searched."""
    pixels = _Pixels("pixels")
    model, last = build(VAEConfig(trunk=SMALL), sprites), (seen or sprites.sizes["train"]) - ACROSS
    evidence = evaluate(
        Evidence(model, sprites, pixels, EvaluationConfig(), trained_on=TrainedOn(sprites, seen)), only=()
    ).evidence
    copies = torch.tensor(sprites.split("train").images[last : last + ACROSS]).float() / 255
    evidence.samples = lambda n, part=0: copies[:n]
    told: list[str] = []

    def rows(images: Tensor, across: int, labels: Labels) -> Tensor:
        told.append(labels.title)
        return images.unflatten(0, (-1, across))

    monkeypatch.setattr(images, "sheet", rows)
    monkeypatch.setattr(images, "POOL", last + ACROSS)
    new, found = nearest(evidence)
    assert torch.equal(new, found)
    monkeypatch.setattr(images, "POOL", last)
    new, found = nearest(evidence)
    assert not torch.equal(new, found)
    total = f"{last + ACROSS:,}"
    assert [title.partition(" of ")[2] for title in told] == [
        f"{total} training images",
        f"the first {last:,} of {total} training images",
    ]


def test_interpolations_are_between_classes() -> None:
    assert unlike_pairs([0, 0, 1, 1, 2], 5) == [(0, 2), (1, 3)]
    assert unlike_pairs(None, 3) == [(0, 1)]
    assert unlike_pairs([5, 5], 2) == [(0, 1)]


def test_curves_leave_out_what_repeats() -> None:
    panels = _curves(HISTORY)
    assert list(panels) == ["distortion", "rate", "negative_elbo", "objective"]
    assert panels["objective"] == {"train": [(1, 9), (2, 8), (3, 7)], "val": [(1, 9.5), (2, 8.5), (3, 7.5)]}
    assert set(_curves([{"train/a/gap": 1.0, "train/b/gap": 2.0}])) == {"a gap", "b gap"}
    same = [epoch | {"train/loss": epoch["train/negative_elbo"]} for epoch in HISTORY]
    assert "objective" not in _curves(same)


def test_curves_of_parts_that_play_against_each_other(digits: PreparedData) -> None:
    """One panel shows what is measured on both kinds of images. The loss of a generator is its only term."""

    def splits(config: ModelConfig) -> dict[str, str]:
        rules = TrainingConfig(epochs=2, images=64, batch_size=32)
        panels = _curves([epoch.metrics for epoch in train(config, digits, rules, seed=0)])
        return {name: " ".join(sorted(curves)) for name, curves in panels.items()}

    of_discriminator = {"drawn_as_drawn": "train", "gradient_penalty": "train", "discriminator loss": "train"}
    assert splits(GANConfig(trunk=SMALL)) == of_discriminator | {"drawn_as_real": "train", "real_as_real": "train val"}
    assert splits(VAEGANConfig(trunk=SMALL)) == of_discriminator | {
        "rate": "train val",
        "feature_distortion": "train val",
        "drawn_as_real": "train",
        "real_as_real": "train",
        "encoder loss": "train",
        "decoder loss": "train",
        "distortion": "val",
        "negative_elbo": "val",
    }


def test_quick_figures_leave_out_what_is_slow_and_all_are_told_of(digits: PreparedData, features: Features) -> None:
    rules = EvaluationConfig(level="quick", samples=100)
    model = VAEConfig(trunk=MLPConfig(widths=(16,)), latent_dim=3).build(digits.image_shape, digits.num_classes)
    told: list[Progress] = []
    pictures = finish(drawing_figures(Evidence(model, digits, features, rules)), told.append).found
    assert {"reconstructions", "samples", "traversals", "interpolations", "codes"} <= pictures.keys()
    assert not {"codes_tsne", "nearest", "like"} & pictures.keys()
    assert [report.note for report in told] == list(pictures)
    assert told[-1][:3] == ("drawing figures", len(pictures) - 1, len(pictures))
