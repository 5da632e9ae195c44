"""Reads a person's own images from folders, in which class folders give the labels."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from aemodels.config import UserError
from aemodels.data.image_decoding import MEGAPIXELS, Reading, decode
from aemodels.data.layout import ImageFile, find_files, labels_of
from aemodels.data.paths import WholePaths
from aemodels.data.source import (
    SMALLEST_SIDE,
    FileStamp,
    Fit,
    Images,
    ImageSize,
    Pixels,
    Size,
    Source,
    UnreadableError,
    WithoutTestConfig,
    fingerprint,
    sides_of,
)


class FolderConfig(WithoutTestConfig):
    """Holds the settings of image files in folders; `path/cat/1.png` has the label cat."""

    name: Literal["folder"] = "folder"
    """Chooses where the images come from."""
    path: WholePaths
    """Names the folder of the images, or a list of folders; class folders of the same name in several are one class."""
    image_size: ImageSize | None = None
    """Sets the side of square images in pixels, or [height, width].

    null keeps the files' own size, which has to be one for all."""
    fit: Fit = "resize"
    """Chooses how an image gets another shape: it is squeezed (resize), or cut to the largest middle part (crop).

    It can also get a border in the colour of its own edges (pad)."""
    levels: int | None = Field(None, ge=1, le=2**16 - 1)
    """Sets the value of white in the files, where it is lower than their format's: 4095 for 12 bits in 16-bit files."""
    largest_megapixels: float = Field(MEGAPIXELS, gt=0)
    """Sets the millions of pixels that one file may have; a small damaged file may claim to be enormous."""
    on_error: Literal["raise", "skip"] = "raise"
    """Chooses what an unreadable image does: it ends the preparation, or is left out and listed in the manifest."""

    not_in_digest: ClassVar[frozenset[str]] = WithoutTestConfig.not_in_digest | {
        "path",
        "on_error",
        "largest_megapixels",
    }

    @property
    def title(self) -> str:
        return " and ".join(path.name for path in self.path)

    def reading(self, size: Size | None = None) -> Reading:
        """Returns how files are read: at their own size, or brought to a height and width."""
        return Reading(size, self.fit, self.levels, self.largest_megapixels)

    def fetch(self) -> Source:
        files = find_files(self.path)
        origin = tuple(str(path) for path in self.path)
        stamps = [FileStamp(file.path, file.bytes, file.mtime_ns) for file in files]
        return Source(origin, fingerprint(stamps), partial(_read, self, files))

    def with_folders(self, folders: Sequence[Path]) -> FolderConfig:
        """Returns these images with those of other folders; folders that lie in these already change nothing.

        Raises:
            UserError: they do not fit together.
        """
        more = [folder for folder in folders if not self.holds(folder)]
        joined = self.override({"path": [*map(str, self.path), *map(str, more)]})
        labels_of(find_files(joined.path))
        return joined

    def holds(self, path: Path) -> bool:
        """Tells whether a file or folder lies in one of these folders."""
        return any(path.resolve().is_relative_to(folder.resolve()) for folder in self.path)


def _read(config: FolderConfig, files: list[ImageFile]) -> Images:
    labels, classes = labels_of(files)
    paths = [file.path for file in files]
    first, shape = _first_readable(config, paths)
    _, height, width = shape
    if min(height, width) < SMALLEST_SIDE:
        raise UserError(
            f"data.image_size=null: {first} is {width}x{height} pixels, {SMALLEST_SIDE}x{SMALLEST_SIDE} is "
            "the least; set data.image_size to enlarge the images, for example to 32"
        )
    decode_alike = partial(_decode_alike, config, first, shape)
    return Images(len(files), shape, decode_alike, labels, classes, 0, config.on_error == "skip", paths)


def _first_readable(config: FolderConfig, paths: list[str]) -> tuple[str, tuple[int, int, int]]:
    """Returns the file and the shape of the first readable image, which the others have to match."""
    reason: UnreadableError | None = None
    for path in paths:
        try:
            channels, height, width = _decode(config, path).shape
            return path, (channels, height, width)
        except UnreadableError as error:
            if config.on_error == "raise":
                raise
            reason = reason or error
    raise UserError(f"data.path: none of the {len(paths)} images can be read; the first: {reason}")


def _decode_alike(config: FolderConfig, first: str, shape: tuple[int, int, int], path: str) -> Pixels:
    """Returns the pixels of a file, which have to be of the given shape, as the first image's are."""
    pixels = _decode(config, path)
    if pixels.shape != shape:
        raise _unlike(first, shape, path, pixels.shape)
    return pixels


def _unlike(first: str, shape: tuple[int, ...], other: str, other_shape: tuple[int, ...]) -> UserError:
    if shape[0] != other_shape[0]:
        kind = {1: "grey", 3: "colour"}
        return UserError(
            f"data.path: {first} is {kind[shape[0]]} and {other} is {kind[other_shape[0]]}; "
            "convert the images to one kind, or give a folder that has one kind only"
        )
    sizes = [f"{width}x{height}" for _, height, width in (shape, other_shape)]
    return UserError(
        f"data.image_size=null: {first} is {sizes[0]} pixels and {other} {sizes[1]}; "
        "set data.image_size to bring them to one size, for example data.image_size=64"
    )


def _decode(config: FolderConfig, path: str) -> Pixels:
    remedy = "mend or remove it, or set data.on_error=skip to leave such images out"
    size = None if config.image_size is None else sides_of(config.image_size)
    return decode(path, config.reading(size), remedy)[0]
