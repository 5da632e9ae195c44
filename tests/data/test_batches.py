"""Batches: every image once with its label, binarisation that repeats or is drawn anew, resident or streamed."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from aemodels.data.batches import Batches
from aemodels.data.prepared import PreparedData, Split
from aemodels.distributions import seeded
from aemodels.models.base import Batch

CPU = torch.device("cpu")
BINARIZE = ["none", "threshold", "static", "dynamic"]


class InMemory(PreparedData, arbitrary_types_allowed=True):
    """All splits hold the same images, and their index as label."""

    pixels: NDArray[np.uint8]

    def split(self, name: str) -> Split:
        return Split(self.pixels, np.arange(len(self.pixels)))


def batches(binarize: str, pixels: NDArray[np.uint8], limit: int | None = None) -> Batches:
    count, *shape = pixels.shape
    data = InMemory(
        name="memory",
        path=Path(),
        digest="",
        image_shape=tuple(shape),
        classes=tuple(map(str, range(count))),
        sizes={"train": count, "val": count, "test": count},
        binarize=binarize,
        pixels=pixels,
    )
    return Batches(data, "train", CPU, limit)


def noise() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (50, 3, 5, 4), dtype=np.uint8)


def ramps(count: int = 4000) -> NDArray[np.uint8]:
    """Equal images (N, 1, 4, 4) of all greys from 0 to 255 in steps of 17."""
    return np.broadcast_to((np.arange(16, dtype=np.uint8) * 17).reshape(1, 4, 4), (count, 1, 4, 4)).copy()


def joined(passes: Iterable[Batch]) -> tuple[Tensor, Tensor]:
    """One pass: images (N, C, H, W) by their index, and the index in the order of the pass (N,)."""
    all_batches = list(passes)
    index = torch.cat([batch.y for batch in all_batches if batch.y is not None])
    x = torch.cat([batch.x for batch in all_batches])
    return x[index.argsort()], index


def test_every_image_comes_once_with_its_label() -> None:
    some = batches("none", noise(), limit=43)
    expected = torch.from_numpy(noise()[:43]).float() / 255
    assert [len(batch.x) for batch in some.shuffled(10, seed=1)] == [10, 10, 10, 10, 3]
    for passes, ordered in ((some.in_order(10), True), (some.shuffled(10, seed=1), False)):
        x, index = joined(passes)
        assert index.sort().values.tolist() == list(range(43))
        assert (index.tolist() == list(range(43))) == ordered
        assert torch.equal(x, expected)


def test_the_order_is_a_function_of_the_seed() -> None:
    some = batches("none", noise())
    orders = [joined(some.shuffled(8, seed))[1].tolist() for seed in (1, 1, 2)]
    assert orders[0] == orders[1] != orders[2]


@pytest.mark.parametrize("binarize", BINARIZE)
def test_an_evaluation_repeats_whatever_is_drawn_elsewhere(binarize: str) -> None:
    some = batches(binarize, noise())
    with seeded(1):
        before = torch.get_rng_state()
        first, _ = joined(some.in_order(20))
        assert torch.equal(torch.get_rng_state(), before)
    with seeded(2):
        joined(some.shuffled(20, seed=0))
        again, _ = joined(some.in_order(20))
    assert torch.equal(first, again)


@pytest.mark.parametrize(
    ("binarize", "anew"), [("none", False), ("threshold", False), ("static", False), ("dynamic", True)]
)
def test_only_dynamic_binarisation_is_drawn_anew_in_training(binarize: str, anew: bool) -> None:
    some = batches(binarize, noise())
    with seeded(0):
        first, second = (joined(some.shuffled(16, seed=3))[0] for _ in range(2))
    held_out, _ = joined(some.in_order(16))
    assert torch.equal(first, second) != anew
    assert torch.equal(first, held_out) != anew
    with seeded(0):
        assert torch.equal(first, joined(some.shuffled(16, seed=3))[0])


def test_binary_pixels_have_the_grey_value_as_their_mean() -> None:
    grey = torch.arange(16).view(1, 4, 4) / 15
    with seeded(0):
        passes = {
            "static": joined(batches("static", ramps()).in_order(1000))[0],
            "dynamic": joined(batches("dynamic", ramps()).shuffled(1000, seed=0))[0],
            "dynamic, held out": joined(batches("dynamic", ramps()).in_order(1000))[0],
        }
    for name, x in passes.items():
        assert set(x.unique().tolist()) == {0, 1}, name
        torch.testing.assert_close(x.mean(0), grey, atol=0.04, rtol=0)  # five standard errors
        assert (x.mean(0)[grey == 0] == 0).all(), name
        assert (x.mean(0)[grey == 1] == 1).all(), name
        pairs = torch.corrcoef(x.flatten(1).T[1:-1]) - torch.eye(14)
        assert pairs.abs().max() < 0.08, name  # no pixel knows of another
    assert torch.equal(passes["static"], passes["dynamic, held out"])
    assert torch.equal(joined(batches("threshold", ramps(3)).in_order(2))[0], (grey > 0.5).float().expand(3, 1, 4, 4))


@pytest.mark.parametrize("binarize", ["static", "dynamic"])
def test_fixed_flips_do_not_depend_on_the_batch_nor_on_the_limit(binarize: str) -> None:
    whole, _ = joined(batches(binarize, noise()).in_order(50))
    assert torch.equal(joined(batches(binarize, noise()).in_order(7))[0], whole)
    assert torch.equal(joined(batches(binarize, noise(), limit=20).in_order(7))[0], whole[:20])


@pytest.mark.parametrize("binarize", BINARIZE)
def test_streamed_equals_resident(binarize: str, monkeypatch: pytest.MonkeyPatch) -> None:
    resident = batches(binarize, noise(), limit=40)
    monkeypatch.setattr("aemodels.data.batches.fits", lambda *_: False)
    streamed = batches(binarize, noise(), limit=40)
    assert resident.resident is not None
    assert streamed.resident is None
    with seeded(0):
        expected = [*resident.shuffled(16, seed=1), *resident.in_order(16)]
    with seeded(0):
        got = [*streamed.shuffled(16, seed=1), *streamed.in_order(16)]
    assert len(got) == len(expected) == 6
    for a, b in zip(got, expected, strict=True):
        assert torch.equal(a.x, b.x)
        assert torch.equal(a.y, b.y)
