"""Reads a person's own images from folders, in which class folders give the labels."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from aemodels.config import UserError
from aemodels.data.channels import in_channels
from aemodels.data.image_decoding import decode
from aemodels.data.layout import Found, find_files, labels_of
from aemodels.data.paths import NoneOrWholePaths, WholePaths
from aemodels.data.source import (
    SMALLEST_SIDE,
    FileStamp,
    Images,
    Pixels,
    Source,
    UnreadableError,
    WithoutTestConfig,
    fingerprint,
)

REMEDY = "mend or remove it, or set data.on_error=skip to leave such images out"


class FolderConfig(WithoutTestConfig):
    """Holds the settings of PNG and JPEG images in folders; `path/cat/1.png` has the label cat."""

    name: Literal["folder"] = "folder"
    """Chooses where the images come from."""
    path: WholePaths
    """Names the folder of the images, or a list of folders; class folders of the same name in several are one class.

    Folders named train, val and test in it are its splits."""
    val_path: NoneOrWholePaths = ()
    """Names folders of validation images; without any, they are drawn from the training images."""
    test_path: NoneOrWholePaths = ()
    """Names folders of test images; without any, they are drawn from the training images."""
    channels: Literal["auto", "grey", "colour"] = "auto"
    """Chooses how the images are read: as grey, as colour, or (auto) as colour if any of them shows colour."""
    image_size: int | None = Field(None, ge=SMALLEST_SIDE)
    """Sets the side of the square images in pixels; null keeps the files' own size, which has to be one for all."""
    fit: Literal["resize", "crop"] = "resize"
    """Chooses how an image that is not square becomes square: it is squeezed, or cut to its largest middle square."""
    on_error: Literal["raise", "skip"] = "raise"
    """Chooses what an unreadable image does: it ends the preparation, or is left out and listed in the manifest."""

    not_in_digest: ClassVar[frozenset[str]] = WithoutTestConfig.not_in_digest | {
        "path",
        "val_path",
        "test_path",
        "channels",
        "on_error",
    }

    @property
    def title(self) -> str:
        return " and ".join(path.name for path in self.path)

    def fetch(self) -> Source:
        found = find_files(self.path, self.val_path, self.test_path)
        origin = tuple(str(path) for path in (*self.path, *self.val_path, *self.test_path))
        stamps = [FileStamp(file.path, file.bytes, file.mtime_ns) for file in found.files]
        return Source(origin, fingerprint(stamps), partial(_read, self, found))

    def with_folders(self, folders: Sequence[Path]) -> FolderConfig:
        """Returns these images with those of other folders; folders that lie in these already change nothing.

        Raises:
            UserError: they do not fit together.
        """
        more = [folder for folder in folders if not self.holds(folder)]
        joined = self.override({"path": [*map(str, self.path), *map(str, more)]})
        labels_of(find_files(joined.path, joined.val_path, joined.test_path).files)
        return joined

    def holds(self, path: Path) -> bool:
        """Tells whether a file or folder lies in one of these folders."""
        folders = (*self.path, *self.val_path, *self.test_path)
        return any(path.resolve().is_relative_to(folder.resolve()) for folder in folders)


def _read(config: FolderConfig, found: Found) -> Images:
    labels, classes = labels_of(found.files)
    paths = [file.path for file in found.files]
    first, (height, width) = _first_readable(config, paths)
    if min(height, width) < SMALLEST_SIDE:
        raise UserError(
            f"data.image_size=null: {first} is {width}x{height} pixels, {SMALLEST_SIDE}x{SMALLEST_SIDE} is "
            "the least; set data.image_size to enlarge the images, for example to 32"
        )
    shape = (1 if config.channels == "grey" else 3, height, width)
    splits = np.array([file.split for file in found.files])
    return Images(
        count=len(paths),
        shape=shape,
        decode=partial(_decode_alike, config, first, shape),
        labels=labels,
        classes=classes,
        skip_unreadable=config.on_error == "skip",
        files=paths,
        content=file_content,
        given={split: np.flatnonzero(splits == split) for split in ("val", "test") if (splits == split).any()},
        grey_if_all=config.channels == "auto",
        unused=found.unused.files,
        notes=tuple(found.notes),
    )


def file_content(path: str) -> bytes:
    """Returns a hash of a file's content.

    Raises:
        UnreadableError: it cannot be read.
    """
    try:
        with open(path, "rb", buffering=0) as file:  # decoding has just read it, so it does not come from the disk
            return hashlib.blake2b(file.read(), digest_size=16).digest()
    except OSError as error:
        raise UnreadableError(path, str(error.strerror), REMEDY) from None


def _first_readable(config: FolderConfig, paths: list[str]) -> tuple[str, tuple[int, int]]:
    """Returns the file, the height and the width of the first readable image, which the others have to match."""
    reason: UnreadableError | None = None
    for path in paths:
        try:
            _, height, width = _decode(config, path).shape
            return path, (height, width)
        except UnreadableError as error:
            if config.on_error == "raise":
                raise
            reason = reason or error
    raise UserError(f"data.path: none of the {len(paths)} images can be read; the first: {reason}")


def _decode_alike(config: FolderConfig, first: str, shape: tuple[int, int, int], path: str) -> Pixels:
    """Returns the pixels of a file, which have to be of the given shape, as the first image's are."""
    pixels = in_channels(_decode(config, path), shape[0])
    if pixels.shape != shape:
        sizes = [f"{width}x{height}" for _, height, width in (shape, pixels.shape)]
        raise UserError(
            f"data.image_size=null: {first} is {sizes[0]} pixels and {path} {sizes[1]}; "
            "set data.image_size to bring them to one size, for example data.image_size=64"
        )
    return pixels


def _decode(config: FolderConfig, path: str) -> Pixels:
    return decode(path, config.image_size, config.fit == "crop", REMEDY)[0]
