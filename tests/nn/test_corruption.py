"""Tests what denoising models are shown: how many pixels change, and how."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from aemodels.nn.corruption import GaussianCorruption, MaskingCorruption, NoCorruption, SaltAndPepperCorruption
from aemodels.runtime.randomness import seeded

GREY = torch.full((500, 3, 20, 20), 0.5)  # 200,000 pixels of 3 channels


def corrupted(corruption: GaussianCorruption | SaltAndPepperCorruption | MaskingCorruption, x: Tensor) -> Tensor:
    before = x.clone()
    with seeded(0):
        shown = corruption.apply(x)
    assert torch.equal(x, before)  # the target stays clean
    return shown


def share(condition: Tensor) -> float:
    return condition.float().mean().item()


def test_no_corruption_shows_the_images_themselves() -> None:
    assert NoCorruption().apply(GREY) is None


def test_gaussian_noise_has_its_standard_deviation_on_every_channel() -> None:
    noise = corrupted(GaussianCorruption(sigma=0.1), GREY) - 0.5
    assert noise.mean().item() == pytest.approx(0, abs=1e-3)
    assert noise.std().item() == pytest.approx(0.1, rel=0.01)
    channels = noise.transpose(0, 1).flatten(1)
    torch.testing.assert_close(channels.corrcoef(), torch.eye(3), atol=0.01, rtol=0)


def test_gaussian_noise_is_cut_off_at_black_and_white() -> None:
    """On black half of it is cut off. The mean of the rest is that of half a normal distribution."""
    for color, sign in ((0.0, 1), (1.0, -1)):
        noise = (corrupted(GaussianCorruption(sigma=0.2), torch.full_like(GREY, color)) - color) * sign
        assert noise.min() == 0
        assert share(noise == 0) == pytest.approx(0.5, abs=0.01)
        assert noise.mean().item() == pytest.approx(0.2 / math.sqrt(2 * math.pi), rel=0.02)
    assert corrupted(GaussianCorruption(sigma=2), GREY).max() == 1


@pytest.mark.parametrize("part", [0.1, 0.5, 1.0])
def test_salt_and_pepper_is_half_black_half_white_and_on_all_channels_alike(part: float) -> None:
    shown = corrupted(SaltAndPepperCorruption(share=part), GREY)
    assert share(shown == 0) == pytest.approx(part / 2, abs=0.01)
    assert share(shown == 1) == pytest.approx(part / 2, abs=0.01)
    assert share(shown == 0.5) == pytest.approx(1 - part, abs=0.01)
    assert torch.equal(shown, shown[:, :1].expand_as(shown))


@pytest.mark.parametrize("part", [0.1, 0.5, 0.9])
def test_masking_makes_pixels_black_on_all_channels_alike(part: float) -> None:
    shown = corrupted(MaskingCorruption(share=part), GREY)
    assert share(shown == 0) == pytest.approx(part, abs=0.01)
    assert share(shown == 0.5) == pytest.approx(1 - part, abs=0.01)
    assert torch.equal(shown, shown[:, :1].expand_as(shown))
