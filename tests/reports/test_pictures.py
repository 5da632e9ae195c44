"""Tests that pictures are the right way up, whole and labelled."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from paper import paper_around
from torch import Tensor

from aemodels.evaluation.evidence import Evidence
from aemodels.reports.figures.images import reconstructions
from aemodels.reports.pictures import GAP, Labels, sheet, tile


def cornered(n: int, colour: tuple[float, ...] = (1,), side: int = 8) -> Tensor:
    """Returns black images with one bright pixel at the top right."""
    images = torch.zeros(n, len(colour), side, side)
    images[:, :, 0, -1] = torch.tensor(colour)
    return images


def test_tile_is_the_right_way_up() -> None:
    picture = tile(cornered(3, (1, 0.5, 0)), across=2, factor=3)
    step = 8 * 3 + GAP
    assert picture.shape == (2 * step - GAP, 2 * step - GAP, 3)
    assert picture.dtype == np.uint8
    for top, left in ((0, 0), (0, step), (step, 0)):
        image = picture[top : top + 24, left : left + 24]
        assert (image[:3, 21:] == (255, 128, 0)).all()
        assert image.astype(int).sum() == 9 * (255 + 128)
    assert (picture[step:, step:] == 255).all()  # no fourth image
    assert (picture[24 : 24 + GAP] == 255).all()


def test_tile_of_grey_and_of_pixels_out_of_range() -> None:
    values = torch.tensor([0.5, -3.0, 7.0, torch.nan])[:, None, None, None].expand(4, 1, 8, 8)
    picture = tile(values, across=4, factor=1)
    assert picture[0, :: 8 + GAP].tolist() == [[128] * 3, [0] * 3, [255] * 3, [0] * 3]


@pytest.mark.parametrize("side", [8, 28, 33, 100])
def test_a_sheet_shows_the_grid_pixel_by_pixel(side: int) -> None:
    images = torch.rand(8, 3, side, side, generator=torch.Generator().manual_seed(0))
    picture = sheet(images, 4, Labels("title", ["one\n2.34 nats", "reconstruction"], ["a", "b", "c", "d"], "below"))
    factor = max(1, round(760 / (4 * (side + GAP))))
    grid = tile(images, 4, factor)
    assert np.array_equal(picture[36 : 36 + grid.shape[0], 104 : 104 + grid.shape[1]], grid)
    assert paper_around(picture)
    assert (picture[:36] < 128).any()  # the title
    assert (picture[36:-60, :104] < 128).any()  # the rows' labels


class Pairs(Evidence):
    """Holds given reconstructions."""

    def __init__(self, pairs: list[tuple[Tensor, Tensor]]) -> None:
        self.pairs, self.split = pairs, "test"

    def reconstructions(self):
        return iter(self.pairs)


def test_reconstructions_stand_above_their_originals() -> None:
    """Original i is of grey i / 16 with a bright corner. Its reconstruction has the same grey without the corner."""
    grey = (torch.arange(16) / 16)[:, None, None, None].expand(16, 1, 8, 8)
    original = torch.maximum(grey, cornered(16))
    picture = reconstructions(Pairs([(original, grey)]))
    factor = round(760 / (8 * (8 + GAP)))
    step, levels = 8 * factor + GAP, []
    for row in range(4):
        for column in range(8):
            top, left = 36 + row * step, 104 + column * step
            image = picture[top : top + 8 * factor, left : left + 8 * factor, 0]
            assert (image[0, -1] == 255) == (row % 2 == 1)
            levels.append(int(image[-1, 0]))
    expected = (torch.arange(16) / 16 * 255).round().int().tolist()
    assert levels == expected[:8] * 2 + expected[8:] * 2
