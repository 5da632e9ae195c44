"""Tests batches: they hold every image once with its label, and binarisation repeats or is drawn anew."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from aemodels.data import streaming
from aemodels.data.batches import Batches, _binarized, _fixed_uniform
from aemodels.data.prepared import PreparedData, StoredSplit
from aemodels.data.stored_arrays import ArrayWriter, stored_array
from aemodels.nn.batch import Batch
from aemodels.runtime.randomness import seeded

CPU = torch.device("cpu")
BINARIZE = ["none", "threshold", "static", "dynamic"]

MakeBatches = Callable[..., Batches]


class OneArray(PreparedData, arbitrary_types_allowed=True):
    """Holds the same images in all splits; the label of an image is its index, or there is none."""

    images: StoredSplit

    def stored(self, name: str) -> StoredSplit:
        return self.images


@pytest.fixture
def batches(tmp_path: Path) -> MakeBatches:
    """Returns a function (binarize, pixels (N, C, H, W), limit, labelled) that makes batches of images on disk."""

    def make(binarize: str, pixels: NDArray[np.uint8], limit: int | None = None, labelled: bool = True) -> Batches:
        file = tmp_path / f"{len(list(tmp_path.iterdir()))}.npy"
        with ArrayWriter(file, pixels.dtype, pixels.shape) as writer:
            writer.append(pixels)
            record = writer.finish()
        count, *shape = pixels.shape
        data = OneArray(
            name="one",
            path=tmp_path,
            digest="",
            image_shape=tuple(shape),
            classes=tuple(map(str, range(count))) if labelled else (),
            sizes={"train": count, "val": count, "test": count},
            binarize=binarize,
            images=StoredSplit(stored_array(file, record), np.arange(count) if labelled else None),
        )
        return Batches(data, "train", CPU, limit)

    return make


@pytest.fixture
def small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes images have 60 bytes, blocks 3 images, windows up to 12, and windows in order 8."""
    monkeypatch.setattr(streaming, "BLOCK", 200)
    monkeypatch.setattr(streaming, "WINDOW", 720)
    monkeypatch.setattr(streaming, "ORDERED_WINDOW", 500)


def noise() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (50, 3, 5, 4), dtype=np.uint8)


def ramps(count: int = 4000) -> NDArray[np.uint8]:
    """Returns equal images (N, 1, 4, 4) with all greys from 0 to 255 in steps of 17."""
    return np.broadcast_to((np.arange(16, dtype=np.uint8) * 17).reshape(1, 4, 4), (count, 1, 4, 4)).copy()


def joined(passes: Iterable[Batch]) -> tuple[Tensor, Tensor]:
    """Returns the images (N, C, H, W) of one pass by their index, and the indices in the order of the pass (N,)."""
    all_batches = list(passes)
    index = torch.cat([batch.y for batch in all_batches if batch.y is not None])
    x = torch.cat([batch.x for batch in all_batches])
    return x[index.argsort()], index


def test_every_image_comes_once_with_its_label(batches: MakeBatches) -> None:
    some = batches("none", noise(), limit=43)
    expected = torch.from_numpy(noise()[:43]).float() / 255
    assert [len(batch.x) for batch in some.shuffled(10, seed=1)] == [10, 10, 10, 10, 3]
    for passes, ordered in ((some.in_order(10), True), (some.shuffled(10, seed=1), False)):
        x, index = joined(passes)
        assert index.sort().values.tolist() == list(range(43))
        assert (index.tolist() == list(range(43))) == ordered
        assert torch.equal(x, expected)


def test_the_order_is_a_function_of_the_seed(batches: MakeBatches) -> None:
    some = batches("none", noise())
    orders = [joined(some.shuffled(8, seed))[1].tolist() for seed in (1, 1, 2)]
    assert orders[0] == orders[1] != orders[2]


@pytest.mark.parametrize("binarize", BINARIZE)
def test_an_evaluation_repeats_whatever_is_drawn_elsewhere(batches: MakeBatches, binarize: str) -> None:
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
def test_only_dynamic_binarisation_is_drawn_anew_in_training(batches: MakeBatches, binarize: str, anew: bool) -> None:
    some = batches(binarize, noise())
    with seeded(0):
        first, second = (joined(some.shuffled(16, seed=3))[0] for _ in range(2))
    held_out, _ = joined(some.in_order(16))
    assert torch.equal(first, second) != anew
    assert torch.equal(first, held_out) != anew
    with seeded(0):
        assert torch.equal(first, joined(some.shuffled(16, seed=3))[0])


def test_a_share_of_a_batch_may_be_empty() -> None:
    none = torch.zeros(0, 1, 4, 4)
    for how in ("static", "dynamic", "threshold"):
        assert _binarized(none.clone(), how, torch.zeros(0, dtype=torch.int64), drawn=False).shape == none.shape


def test_binary_pixels_have_the_grey_value_as_their_mean(batches: MakeBatches) -> None:
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
def test_fixed_flips_do_not_depend_on_the_batch_nor_on_the_limit(batches: MakeBatches, binarize: str) -> None:
    whole, _ = joined(batches(binarize, noise()).in_order(50))
    assert torch.equal(joined(batches(binarize, noise()).in_order(7))[0], whole)
    assert torch.equal(joined(batches(binarize, noise(), limit=20).in_order(7))[0], whole[:20])


def test_images_without_labels(batches: MakeBatches, monkeypatch: pytest.MonkeyPatch) -> None:
    assert all(batch.y is None for batch in batches("none", noise(), labelled=False).shuffled(20, seed=0))
    monkeypatch.setattr("aemodels.data.batches.fits", lambda *_: False)
    assert all(batch.y is None for batch in batches("none", noise(), labelled=False).shuffled(20, seed=0))


def test_fixed_flips_are_the_hash_that_they_have_always_been() -> None:
    def triple32(index: int, pixel: int) -> float:
        h = (index * 0x9E3779B1 + pixel * 0x85EBCA77) % 2**32
        for shift, factor in ((17, 0xED5AD4BB), (11, 0xAC4C1B51), (15, 0x31848BAB)):
            h = (h ^ h >> shift) * factor % 2**32
        return ((h ^ h >> 14) >> 8) / 2**24

    index = [0, 1, 59_999, 123_456_789]
    expected = torch.tensor([[triple32(i, pixel) for pixel in range(784)] for i in index])
    assert torch.equal(_fixed_uniform(torch.tensor(index), 784), expected)


@pytest.mark.usefixtures("small_windows")
@pytest.mark.parametrize("binarize", BINARIZE)
@pytest.mark.parametrize("batch_size", [1, 7, 12, 30, 100])
def test_streamed_equals_resident(
    batches: MakeBatches, binarize: str, batch_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    resident = batches(binarize, noise(), limit=49)
    monkeypatch.setattr("aemodels.data.batches.fits", lambda *_: False)
    streamed = batches(binarize, noise(), limit=49)
    assert resident.resident is not None
    assert streamed.resident is None
    with seeded(0):
        expected = [*resident.shuffled(batch_size, seed=1), *resident.in_order(batch_size)]
    with seeded(0):
        got = [*streamed.shuffled(batch_size, seed=1), *streamed.in_order(batch_size)]
    assert len(got) == len(expected) == 2 * -(-49 // batch_size)
    for a, b in zip(got, expected, strict=True):
        assert torch.equal(a.x, b.x)
        assert torch.equal(a.y, b.y)


@pytest.mark.usefixtures("small_windows")
@pytest.mark.parametrize("binarize", BINARIZE)
def test_a_pass_is_its_order_gathered(batches: MakeBatches, binarize: str) -> None:
    some = batches(binarize, noise())
    order = some.order(5)
    assert order.sort().values.tolist() == list(range(50))
    assert order.tolist() != torch.randperm(50, generator=torch.Generator().manual_seed(5)).tolist()  # several windows
    with seeded(0):
        expected = list(some.shuffled(16, seed=5))
    with seeded(0):
        got = [some.gather(index, drawn=True) for index in order.split(16)]
    for a, b in zip(got, expected, strict=True):
        assert torch.equal(a.x, b.x)
        assert torch.equal(a.y, b.y)
    fixed = some.gather(torch.arange(16), drawn=False)
    assert torch.equal(fixed.x, next(some.in_order(16)).x)


def test_batches_are_nobody_elses_memory(batches: MakeBatches, monkeypatch: pytest.MonkeyPatch) -> None:
    for resident in (True, False):
        monkeypatch.setattr("aemodels.data.batches.fits", lambda *_, value=resident: value)
        some = batches("none", noise())
        next(some.in_order(50)).x.zero_()
        assert torch.equal(next(some.in_order(50)).x, torch.from_numpy(noise()).float() / 255)


@pytest.mark.usefixtures("small_windows")
def test_a_pass_that_is_not_finished_leaves_no_thread(batches: MakeBatches, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aemodels.data.batches.fits", lambda *_: False)
    some = batches("none", noise())
    for passes in (some.shuffled(4, seed=0), some.in_order(4)):
        next(passes)
        assert any(thread.name.startswith("read-ahead") for thread in threading.enumerate())
        passes.close()
        assert not any(thread.name.startswith("read-ahead") for thread in threading.enumerate())
    first = next(some.in_order(4))  # the iterator is dropped
    assert len(first.x) == 4
    assert not any(thread.name.startswith("read-ahead") for thread in threading.enumerate())


def test_a_gpu_machine_needs_no_psutil() -> None:
    code = "import sys; sys.modules['psutil'] = None; import aemodels.data.batches"
    subprocess.run([sys.executable, "-c", code], check=True)
