"""Tests sprites: images show what their factors say, and the factors survive preparation."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from aemodels.config import UserError
from aemodels.data import prepare
from aemodels.data.digits import DigitsConfig
from aemodels.data.sprites import PLACES, SCALES, SHAPES, Sprite, SpritesConfig, draw_factors, render
from aemodels.runtime.progress import finish

KINDS = pytest.mark.parametrize("shape", range(len(SHAPES)), ids=list(SHAPES))


def grey(sprite: Sprite, side: int) -> np.ndarray:
    return render(sprite, side)[0] / 255.0


# ---- rendering


@pytest.mark.parametrize("side", [8, 9, 32, 100])
def test_area_follows_scale_and_centre_of_mass_follows_x_and_y(side: int) -> None:
    middle, near = (np.arange(side) + 0.5) / side, (0.1 if side < 32 else 0.02) / side  # of a pixel
    for factors in draw_factors(60, seed=1).tolist():
        sprite = Sprite(*factors)
        image = grey(sprite, side)
        assert image.mean() == pytest.approx(sprite.scale**2, rel=0.06 if side < 32 else 0.02)
        assert image.sum(0) @ middle / image.sum() == pytest.approx(sprite.x, abs=near)
        assert image.sum(1) @ middle / image.sum() == pytest.approx(sprite.y, abs=near)


@KINDS
def test_edges_are_smooth_and_shapes_whole(shape: int) -> None:
    for x, y in itertools.product(PLACES, PLACES):
        for rotation in np.linspace(0, 1, 9):
            area = grey(Sprite(shape, SCALES[1], rotation, x, y), 32).mean()
            assert area == pytest.approx(SCALES[1] ** 2, rel=0.01)
    between = grey(Sprite(shape, SCALES[1], 0.3, 0.5, 0.5), 32)
    assert ((between > 0) & (between < 1)).sum() > 10


@KINDS
def test_a_shape_repeats_after_its_period_and_not_before(shape: int) -> None:
    turns = [grey(Sprite(shape, 0.3, k / 12, 0.5, 0.5), 64) for k in range(13)]
    np.testing.assert_allclose(turns[12], turns[0], atol=3 / 64)  # rounding moves a point over an edge
    for one, other in itertools.combinations(turns[:12], 2):
        assert np.abs(one - other).max() > 0.3


def test_rotation_is_counter_clockwise() -> None:
    """A quarter turn is half of the ellipse's period, and a heart is upright at first."""
    for shape, quarter in ((1, 0.5), (2, 0.25)):
        first, turned = (grey(Sprite(shape, 0.3, rotation, 0.5, 0.5), 32) for rotation in (0, quarter))
        np.testing.assert_allclose(turned, np.rot90(first), atol=3 / 64)
    heart = grey(Sprite(2, 0.3, 0, 0.5, 0.5), 32)
    np.testing.assert_allclose(heart, heart[:, ::-1], atol=3 / 64)
    rows = np.flatnonzero(heart.sum(1))
    assert heart[rows[1]].sum() > 2 * heart[rows[-2]].sum()  # two arcs above, a tip below


def test_factors_are_independent_and_fill_their_ranges() -> None:
    factors = draw_factors(20_000, seed=0)
    assert np.bincount(factors[:, 0].astype(int)).tolist() == pytest.approx([6667] * 3, rel=0.05)
    spans = [SCALES, (0, 1), PLACES, PLACES]
    np.testing.assert_allclose(factors[:, 1:].min(0), [low for low, _ in spans], atol=1e-3)
    np.testing.assert_allclose(factors[:, 1:].max(0), [high for _, high in spans], atol=1e-3)
    assert np.abs(np.corrcoef(factors.T) - np.eye(5)).max() < 0.03


# ---- prepared


def test_prepared_factors_agree_with_the_images() -> None:
    config = SpritesConfig(count=200, image_size=12, seed=3)
    data = finish(prepare(config))
    assert (data.image_shape, data.classes, data.factors) == ((1, 12, 12), tuple(SHAPES), Sprite._fields)
    seen = []
    for split, size in data.sizes.items():
        images, labels, factors = data.stored(split)
        assert factors is not None
        assert factors.shape == (size, 5)
        np.testing.assert_array_equal(factors[:, 0], labels)
        np.testing.assert_array_equal(images.read(), np.stack([render(Sprite(*row), 12) for row in factors.tolist()]))
        seen += factors.tolist()
    assert sorted(seen) == sorted(draw_factors(200, seed=3).tolist())


def test_same_seed_same_images_and_a_larger_count_adds_to_them(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    digests = []
    for cache in ("a", "b"):
        monkeypatch.setenv("AEMODELS_CACHE", str(tmp_path / cache))
        digests.append(finish(prepare(SpritesConfig(count=50))).digest)
    assert digests[0] == digests[1] != finish(prepare(SpritesConfig(count=50, seed=1))).digest
    np.testing.assert_array_equal(draw_factors(80, 0)[:50], draw_factors(50, 0))


def test_damaged_factors_are_named() -> None:
    data = finish(prepare(SpritesConfig(count=50)))
    file = data.path / "val_factors.npy"
    content = file.read_bytes()
    file.chmod(0o644)
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(UserError, match=r"val_factors\.npy is damaged"):
        finish(prepare(SpritesConfig(count=50)))


def test_sources_without_factors_are_prepared_as_before_there_were_any() -> None:
    data = finish(prepare(DigitsConfig(image_size=None)))
    assert (data.factors, data.stored("val").factors) == ((), None)
    assert "factors" not in data.manifest()
    assert not list(data.path.glob("*_factors.npy"))
