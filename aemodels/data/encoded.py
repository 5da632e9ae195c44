"""Reads images that are encoded in a format of image files, wherever they lie: in files of their own, or in tables.

N images, each (C, H, W): C channels, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import ClassVar, Literal

from pydantic import Field

from aemodels.config import UserError
from aemodels.data.channels import in_channels
from aemodels.data.image_bytes import ImageBytes
from aemodels.data.image_decoding import MEGAPIXELS, Reading, decode
from aemodels.data.resizing import Fit, Size
from aemodels.data.source import (
    SMALLEST_SIDE,
    Images,
    ImageSize,
    OwnImagesConfig,
    Pixels,
    Rows,
    SourceConfig,
    UnreadableError,
    sides_of,
)

LARGEST_UNASKED = 256  # pixels a side; larger images are meant only by who says so
REMEDY = "mend or remove it, or set data.on_error=skip to leave such images out"


class EncodedConfig(OwnImagesConfig):
    """Provides the base of sources whose images are encoded, each for itself."""

    image_size: ImageSize | None = None
    """Sets the side of square images in pixels, or [height, width].

    null keeps the images' own size, which has to be one for all."""
    fit: Fit = "resize"
    """Chooses how an image gets another shape: it is squeezed (resize), or cut to the largest middle part (crop).

    It can also get a border in the colour of its own edges (pad)."""
    levels: int | None = Field(None, ge=1, le=2**16 - 1)
    """Sets the value of white in the images, where it is lower than their format's: 4095 for 12 bits of 16."""
    largest_megapixels: float = Field(MEGAPIXELS, gt=0)
    """Sets the millions of pixels that one image may have; a small damaged file may claim to be enormous."""
    channels: Literal["auto", "grey", "colour"] = "auto"
    """Chooses how the images are read: as grey, as colour, or (auto) as colour if any of them shows colour."""
    on_error: Literal["raise", "skip"] = "raise"
    """Chooses what an unreadable image does: it ends the preparation, or is left out and listed in the manifest."""

    not_in_digest: ClassVar[frozenset[str]] = OwnImagesConfig.not_in_digest | {
        "channels",
        "on_error",
        "largest_megapixels",
    }
    in_reading: ClassVar[frozenset[str]] = OwnImagesConfig.in_reading | {"fit", "levels", "channels"}

    def reading(self, size: Size | None = None) -> Reading:
        """Returns how images are read: at their own size, or brought to a height and width."""
        return Reading(size, self.fit, self.levels, self.largest_megapixels)


def reading_later(source: SourceConfig) -> Reading:
    """Returns how files are read that a model of these images is given later."""
    return source.reading() if isinstance(source, EncodedConfig) else Reading()


def file_images(
    config: EncodedConfig, paths: Sequence[str | ImageBytes], labels: Rows | None, classes: tuple[str, ...]
) -> Images:
    """Returns the images in some files, wherever these lie; all are brought to one shape, or have it.

    Raises:
        UserError: none can be read, they are too small, or very large without a size that was asked for.
    """
    first, (height, width) = _first_readable(config, paths)
    if min(height, width) < SMALLEST_SIDE:
        raise UserError(
            f"data.image_size=null: {first} is {width}x{height} pixels, {SMALLEST_SIDE}x{SMALLEST_SIDE} is "
            "the least; set data.image_size to enlarge the images, for example to 32"
        )
    if config.image_size is None and max(height, width) > LARGEST_UNASKED:
        raise UserError(
            f"data.image_size=null: {first} is {width}x{height} pixels, and models of images that large take very long "
            f"to train; set data.image_size=64 or another side, or [{height}, {width}] if that is meant"
        )
    shape = (1 if config.channels == "grey" else 3, height, width)
    return Images(
        count=len(paths),
        shape=shape,
        decode=partial(_decode_alike, config, first, shape),
        labels=labels,
        classes=classes,
        skip_unreadable=config.on_error == "skip",
        files=paths,
        by_content=True,
        grey_if_all=config.channels == "auto",
    )


def _first_readable(config: EncodedConfig, paths: Sequence[str | ImageBytes]) -> tuple[str, tuple[int, int]]:
    """Returns the file, the height and the width of the first readable image, which the others have to match."""
    reason: UnreadableError | None = None
    for path in paths:
        try:
            _, height, width = _decode(config, path).shape
            return str(path), (height, width)
        except UnreadableError as error:
            if config.on_error == "raise":
                raise
            reason = reason or error
    raise UserError(f"data.path: none of the {len(paths)} images can be read; the first: {reason}")


def _decode_alike(config: EncodedConfig, first: str, shape: tuple[int, int, int], path: str | ImageBytes) -> Pixels:
    """Returns the pixels of a file, which have to be of the given shape, as the first image's are."""
    pixels = in_channels(_decode(config, path), shape[0])
    if pixels.shape != shape:
        sizes = [f"{width}x{height}" for _, height, width in (shape, pixels.shape)]
        raise UserError(
            f"data.image_size=null: {first} is {sizes[0]} pixels and {path} {sizes[1]}; "
            "set data.image_size to bring them to one size, for example data.image_size=64"
        )
    return pixels


def _decode(config: EncodedConfig, path: str | ImageBytes) -> Pixels:
    size = None if config.image_size is None else sides_of(config.image_size)
    return decode(path, config.reading(size), REMEDY)[0]
