"""Renders white shapes on black with known factors, in memory, as in dSprites (Matthey et al., 2017).

N images, F = 5 factors. Lengths and places are shares of the image's side. As the mutual information gap assumes, the
factors are independent of each other, and no image has two values of one: a rotation counts up to where its shape
repeats.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from aemodels.data.resizing import Size
from aemodels.data.source import (
    Factors,
    Images,
    ImageSize,
    Pixels,
    Source,
    WithoutTestConfig,
    digest_of,
    sides_of,
)

Points = NDArray[np.float32]
Inside = NDArray[np.bool_]

RENDERER = "sprites 1"  # goes up when the same settings make other images
POINTS = 8  # along a pixel's side: its grey is the share of 8 x 8 points that lie inside the shape, 8 to a byte
SCALES = 0.18, 0.36  # sides of the squares
PLACES = 0.3, 0.7  # places of the centre; every shape is whole everywhere, as its reach (REACH * SCALES) is below 0.3
REACH = math.sqrt(2 / math.pi)  # the ellipse's long half axis: how far the furthest point of a shape of area 1 lies


def _square(u: Points, v: Points) -> Inside:
    return np.maximum(np.abs(u), np.abs(v)) <= 0.5


def _ellipse(u: Points, v: Points) -> Inside:
    """Tells which points lie inside an ellipse that is twice as long as wide."""
    return 0.5 * u * u + 2 * v * v <= 1 / math.pi


def _heart(u: Points, v: Points) -> Inside:
    """Tells which points lie inside a heart, u^2 - |u| v + v^2 <= r^2.

    It is the right half of an ellipse of area 2 pi r^2 / sqrt(3), and its mirror image. It is moved down by its centre
    of mass, which is 4 r / (3 sqrt(3) pi) above the point where the halves meet.
    """
    squared_radius = math.sqrt(3) / (2 * math.pi)
    v = v + 4 / (3 * math.sqrt(3) * math.pi) * math.sqrt(squared_radius)
    return u * u - np.abs(u) * v + v * v <= squared_radius


class Shape(NamedTuple):
    """A shape has area 1 and its centre of mass in the origin."""

    inside: Callable[[Points, Points], Inside]  # takes points, u to the right and v upwards
    period: float  # turns after which it repeats


SHAPES = {"square": Shape(_square, 1 / 4), "ellipse": Shape(_ellipse, 1 / 2), "heart": Shape(_heart, 1)}


class Sprite(NamedTuple):
    """Holds the factors of an image, in the order of the columns (N, F)."""

    shape: float  # its number in SHAPES
    scale: float  # side of the square of the same area
    rotation: float  # in 0 to 1, counter-clockwise: share of the turn after which the shape repeats
    x: float  # place of the centre of mass, from the left
    y: float  # its place from the top


class SpritesConfig(WithoutTestConfig):
    """Holds the settings of squares, ellipses and hearts with known factors, which are drawn independently.

    The factors are shape, scale, rotation, x and y.
    """

    name: Literal["sprites"] = "sprites"
    """Chooses where the images come from."""
    count: int = Field(20_000, ge=1)
    """Sets the number of images."""
    image_size: ImageSize = 32
    """Sets the side of the images in pixels, or [height, width]."""
    seed: int = Field(0, ge=0)
    """Seeds the draw of the factors; a larger count adds images to those of a smaller one."""

    def fetch(self) -> Source:
        return Source((f"rendered, {RENDERER}",), digest_of(RENDERER), self._images)

    def _images(self) -> Images:
        factors, size = draw_factors(self.count, self.seed), sides_of(self.image_size)
        return Images(
            self.count,
            (1, *size),
            partial(_decode, factors, size),
            labels=factors[:, 0].astype(np.int64),
            classes=tuple(SHAPES),
            factors=factors,
            factor_names=Sprite._fields,
        )


def draw_factors(count: int, seed: int) -> Factors:
    """Draws independent and uniform factors, (N, F)."""
    low, high = np.array([(0, len(SHAPES)), SCALES, (0, 1), PLACES, PLACES]).T
    factors: Factors = low + (high - low) * np.random.default_rng(seed).random((count, len(low)))
    factors[:, 0] = np.floor(factors[:, 0])
    return factors


def _decode(factors: Factors, size: Size, row: int) -> Pixels:
    return render(Sprite(*factors[row].tolist()), size)


def render(sprite: Sprite, size: int | Size) -> Pixels:
    """Renders the image (1, height, width); a sprite's place is a share of both, and its size one of the shorter."""
    shape = list(SHAPES.values())[int(sprite.shape)]
    height, width = sides_of(size)
    side = min(height, width)
    across, down = sprite.x * (width / side), sprite.y * (height / side)  # the centre, in units of the shorter side
    reach = REACH * sprite.scale
    left, right = math.floor((across - reach) * side), math.ceil((across + reach) * side)
    top, bottom = math.floor((down - reach) * side), math.ceil((down + reach) * side)
    # Only the points of these pixels are computed, from the centre, in units of the scale.
    x = (_points(left, right, side) - across) / sprite.scale
    y = (down - _points(top, bottom, side)[:, None]) / sprite.scale  # upwards
    angle = 2 * math.pi * sprite.rotation * shape.period
    cosine, sine = math.cos(angle), math.sin(angle)
    inside = shape.inside(cosine * x + sine * y, cosine * y - sine * x)
    bits = np.packbits(inside, axis=1).reshape(bottom - top, POINTS, right - left)
    counted = np.bitwise_count(bits).sum(1)  # (bottom - top, right - left), 0 to 64
    image = np.zeros((1, height, width), np.uint8)
    image[0, top:bottom, left:right] = np.rint(counted * (255 / POINTS**2))
    return image


def _points(first: int, last: int, side: int) -> Points:
    """Returns where the points of the pixels first to last - 1 of a line lie, as shares of the side."""
    places: Points = np.arange(first * POINTS, last * POINTS, dtype=np.float32) + np.float32(0.5)
    return places / np.float32(side * POINTS)
