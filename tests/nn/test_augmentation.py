"""Tests what augmentation does to images: range, shape, each change, and the same noise for every share of a batch."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from aemodels.config import SettingsError
from aemodels.experiment import Experiment
from aemodels.nn.augmentation import AugmentationConfig
from aemodels.runtime import torchrun
from aemodels.runtime.randomness import seeded

SHAPES = [(1, 8, 8), (3, 12, 20), (1, 33, 9)]
SETTINGS = [
    {"flip": True},
    {"shift": 3},
    {"crop": 0.4},
    {"brightness": 0.5},
    {"contrast": 0.9},
    {"flip": True, "shift": 2, "crop": 0.2, "brightness": 0.3, "contrast": 0.3},
]


def images(shape: tuple[int, int, int], n: int = 40) -> Tensor:
    with seeded(1):
        return torch.rand(n, *shape)


def applied(x: Tensor, seed: int = 0, **settings: object) -> Tensor:
    with seeded(seed):
        return AugmentationConfig.parse(settings).apply(x)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("settings", SETTINGS)
def test_shape_range_and_seed(shape: tuple[int, int, int], settings: dict[str, object]) -> None:
    x = images(shape)
    before = x.clone()
    y = applied(x, **settings)
    assert (y.shape, y.dtype) == (x.shape, x.dtype)
    assert 0 <= y.min() < y.max() <= 1
    assert torch.equal(x, before)
    assert (y != x).flatten(1).any(1).float().mean() > 0.3
    assert torch.equal(y, applied(x, **settings))
    assert not torch.equal(y, applied(x, seed=1, **settings))


def test_off_it_draws_nothing() -> None:
    x = images((1, 8, 8))
    with seeded(0):
        assert AugmentationConfig().apply(x) is x
        drawn = torch.rand(1)
    with seeded(0):
        assert torch.equal(torch.rand(1), drawn)


@pytest.mark.parametrize("shape", SHAPES)
def test_half_of_the_images_are_mirrored_exactly(shape: tuple[int, int, int]) -> None:
    x = images(shape, 400)
    y = applied(x, flip=True)
    mirrored = (y == x.flip(-1)).flatten(1).all(1)
    assert (mirrored | (y == x).flatten(1).all(1)).all()
    assert mirrored.float().mean() == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize("shape", SHAPES)
def test_shifts_are_by_whole_pixels_of_every_number(shape: tuple[int, int, int]) -> None:
    x = images(shape, 300)
    y = applied(x, shift=2)
    height, width = shape[1:]
    found = set()
    for one, moved in zip(x, y, strict=True):
        places = [
            (down, right)
            for down in range(-2, 3)
            for right in range(-2, 3)
            if torch.equal(
                moved,
                one[:, (torch.arange(height) + down).clamp(0, height - 1)][
                    :, :, (torch.arange(width) + right).clamp(0, width - 1)
                ],
            )
        ]
        assert len(places) == 1
        found.add(places[0])
    assert len(found) == 25


def test_a_crop_shows_a_part_of_the_image_larger() -> None:
    slope = torch.linspace(0, 1, 21).expand(300, 1, 11, 21)  # brightness is the place from left to right
    y = applied(slope, crop=0.4)
    rows = y[:, 0]
    assert torch.allclose(rows, rows[:, :1].expand_as(rows), atol=1e-5)
    step = rows[:, 0].diff(dim=1)
    assert torch.allclose(step, step[:, :1].expand_as(step), atol=1e-5)  # a straight line still, not shifted out
    assert step.min() >= 0.6 / 20 - 1e-5
    assert step.max() <= 1 / 20 + 1e-5
    assert rows[:, 0, 0].min() < 0.02 < 0.3 < rows[:, 0, 0].max() <= 0.4


def test_brightness_and_contrast() -> None:
    x = images((3, 8, 8), 300) * 0.5 + 0.2
    factor = applied(x, brightness=0.2) / x
    assert torch.allclose(factor, factor[:, :1, :1, :1].expand_as(factor))
    assert 0.8 <= factor.min() < 0.85 < 1.15 < factor.max() <= 1.2
    y = applied(x, contrast=0.4)
    mean = x.mean((1, 2, 3), keepdim=True)
    assert torch.allclose(y.mean((1, 2, 3)), mean.flatten(), atol=1e-6)
    spread = (y - mean).flatten(1).norm(dim=1) / (x - mean).flatten(1).norm(dim=1)
    assert 0.6 <= spread.min() < 0.65 < 1.35 < spread.max() <= 1.4


def test_what_is_set_does_not_alter_what_the_others_draw() -> None:
    x = images((1, 8, 8))
    assert torch.equal(applied(applied(x, flip=True), contrast=0.2), applied(x, flip=True, contrast=0.2))


@pytest.mark.parametrize("settings", SETTINGS)
def test_every_process_makes_its_share_of_the_whole_batch(settings: dict[str, object]) -> None:
    x = images((3, 12, 20), 10)
    whole = applied(x, **settings)
    for rows in (slice(0, 3), slice(3, 10)):
        with torchrun.sharing(torchrun.Share(rows, 10)):
            assert torch.equal(applied(x[rows], **settings), whole[rows])


def test_black_and_white_images_stay_so() -> None:
    x = images((1, 8, 8)).round()
    assert set(applied(x, flip=True, shift=3).unique().tolist()) == {0.0, 1.0}
    assert Experiment.parse({"data.binarize": "dynamic", "training.augmentation.shift": 2})
    with pytest.raises(SettingsError, match=r"training.augmentation.crop=0.1: makes grey .* data.binarize=threshold"):
        Experiment.parse({"data.binarize": "threshold", "training.augmentation.crop": 0.1})


@pytest.mark.parametrize("setting", ["shift=-1", "crop=1", "brightness=1", "contrast=-0.1"])
def test_settings_out_of_range(setting: str) -> None:
    key, _, value = setting.partition("=")
    with pytest.raises(SettingsError, match=f"augmentation.{setting}"):
        Experiment.parse({f"training.augmentation.{key}": value})
