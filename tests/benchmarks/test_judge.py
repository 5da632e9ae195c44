"""Tests the bench of yardsticks: what it does to images, its distances, and how pairs are counted."""

import numpy as np
import pytest
import torch

from benchmarks.judge import distances
from benchmarks.judge.candidates import candidates
from benchmarks.judge.degradations import DEGRADATIONS, copies, degraded, memorised, missing
from benchmarks.judge.table import as_order, pairs, share
from benchmarks.judge.views import map_columns


def smooth_images(count: int = 8, side: int = 28) -> torch.Tensor:
    x = torch.linspace(0, 1, side)
    tilts = torch.linspace(1, 4, count).view(-1, 1, 1, 1)
    return 0.5 + 0.5 * torch.sin(tilts * 6 * (x[:, None] + 0.5 * x)).expand(count, 1, side, side)


@pytest.mark.parametrize("name", [name for name in DEGRADATIONS if name not in ("shuffled", "warp")])
def test_each_level_takes_images_further_from_what_they_were(name):
    images = smooth_images()
    levels = range(1, len(DEGRADATIONS[name].strengths) + 1)
    errors = [float((degraded(images, name, level) - images).square().mean()) for level in levels]
    assert errors == sorted(errors)
    assert errors[0] > 0


def test_shuffled_images_have_the_same_pixels():
    images = (smooth_images(side=32) * 255).round() / 255
    again = degraded(images, "shuffled", 4)
    assert torch.equal(again.flatten().sort().values, images.flatten().sort().values)


def test_sets_grow_poorer():
    assert [len(np.unique(rows)) for rows in copies(300)] == [300, 100, 30, 10, 3]
    left = missing(np.arange(100) % 10)
    assert [len(np.unique(rows % 10)) for rows in left] == [10, 9, 7, 4]
    assert len({len(rows) for rows in left}) == 1
    assert [int((rows >= 8).sum()) for rows in memorised(8)] == [0, 2, 4, 8]


@pytest.mark.parametrize("distance", [distances.kernel, distances.energy])
def test_distances_without_bias_are_near_zero_for_images_of_one_kind(distance):
    real, others = torch.randn(2, 400, 5).unbind()
    assert abs(distance(real, others)) < 0.1 * distance(real, others + 1)


def test_pairs_are_counted_for_each_collection_alike():
    assert as_order([0.1, 0.2, float("nan")]) == "0.1 < 0.2 > nan"
    assert pairs("0.1 < 0.2 > nan") == [True, False]
    rows = [
        {"collection": "digits", "distances": {"blur": "1 < 2 < 3", "noise": "1 < 2"}},
        {"collection": "tiles", "distances": {"blur": "1 > 0.5"}},
    ]
    assert share(rows) == 0.5
    assert share(rows, ["noise"]) == 1
    assert share(rows, ["jpeg"]) is None


def test_few_candidates_are_tried_on_many_images():
    cheap = {candidate.name for candidate in candidates() if candidate.cheap}
    assert {"photo 64, maps 3-5, Frechet", "photo 64, head, kernel"} <= cheap
    assert len(cheap) < len(candidates()) / 2


def test_columns_are_those_of_a_map():
    assert map_columns(2, "spread") == slice(2 * 16 + 24, 2 * 16 + 48)
