"""Tests what is known of the training images before a training."""

from __future__ import annotations

import numpy as np
import torch

from aemodels.data import PreparedData
from aemodels.data.statistics import is_black_and_white, linear_code_of
from aemodels.nn.linear_code import linear_code, linear_code_over


def test_the_linear_code_is_that_of_the_training_images(digits: PreparedData) -> None:
    code = linear_code_of(digits, 5, None)
    images = np.asarray(digits.split("train").images) / 255
    torch.testing.assert_close(code.mean, torch.from_numpy(images.mean(0)).float())
    assert code.components.shape == (5, 784)
    for as_many in (digits.sizes["train"], 10**6):
        assert linear_code_of(digits, 5, as_many) is code


def test_the_linear_code_is_that_of_seen_images_alone(digits: PreparedData) -> None:
    code = linear_code_of(digits, 60, 40)
    images = np.asarray(digits.split("train").images[:40]) / 255
    torch.testing.assert_close(code.mean, torch.from_numpy(images.mean(0)).float())
    assert code.components.shape == (39, 784)
    assert linear_code_of(digits, 60, 41) is not code


def test_the_images_of_a_caller_stay_what_they_are() -> None:
    images = torch.rand(20, 1, 8, 8)
    before = images.clone()
    code = linear_code(images, 3)
    assert torch.equal(images, before)
    assert all(map(torch.equal, code[:3], linear_code_over(images, 3)[:3]))
    assert not torch.equal(images, before)


def test_grey_is_not_black_and_white(digits: PreparedData) -> None:
    assert not is_black_and_white(digits, None)
    assert is_black_and_white(digits.model_copy(update={"binarize": "static"}), None)
