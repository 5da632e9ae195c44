"""Reads image files that a person hands to a trained model, in the shape that the model was made for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from aemodels.config import UserError
from aemodels.data.image_decoding import SUFFIXES, Reading, decode
from aemodels.data.source import Pixels


def image_files(paths: Sequence[Path]) -> list[Path]:
    """Returns the files of a person's list, and the PNG and JPEG images in its folders.

    Raises:
        UserError: one does not exist, or there is no image.
    """
    files: list[Path] = []
    for path in paths:
        if not path.exists():
            raise UserError(f"{path}: there is no such file or folder; give image files, or folders of them")
        if path.is_dir():
            files += sorted(file for file in path.rglob("*") if _is_image(file.relative_to(path)))
        else:
            files.append(path)
    if not files:
        raise UserError(f"{', '.join(map(str, paths))}: no PNG or JPEG images in it; give image files or their folder")
    return files


def has_images(path: Path) -> bool:
    """Tells whether a path is a file, or a folder with an image in it."""
    return path.is_file() or (path.is_dir() and any(_is_image(file.relative_to(path)) for file in path.rglob("*")))


def _is_image(path: Path) -> bool:
    """Tells by its name whether a file is an image; nothing in a hidden folder is."""
    return path.suffix.lower() in SUFFIXES and not any(part.startswith(".") for part in path.parts)


def read_images(files: Sequence[Path], image_shape: tuple[int, int, int], how: Reading) -> Pixels:
    """Returns images (N, C, H, W) of a model's shape, whatever the size of the files.

    Raises:
        UserError: a file is damaged, or of other channels.
    """
    return np.stack([_read_image(file, image_shape, how) for file in files])


class Fitting(NamedTuple):
    """Holds the images among some files, and why the other files are none."""

    images: Pixels  # (N, C, H, W)
    unfit: tuple[str, ...]


def fitting_images(files: Sequence[Path], image_shape: tuple[int, int, int], how: Reading) -> Fitting:
    """Returns the files that `read_images` takes, and what it says of the others."""
    images, unfit = [np.empty((0, *image_shape), np.uint8)], []
    for file in files:
        try:
            images.append(_read_image(file, image_shape, how)[None])
        except UserError as error:
            unfit.append(str(error))
    return Fitting(np.concatenate(images), tuple(unfit))


def _read_image(file: Path, image_shape: tuple[int, int, int], how: Reading) -> Pixels:
    channels, height, width = image_shape
    pixels, _ = decode(file, how._replace(size=(height, width)))
    return _with_channels(pixels, channels, file)


def _with_channels(pixels: Pixels, channels: int, file: Path) -> Pixels:
    """Makes grey those pixels that are grey but stored as colour; nothing else is converted."""
    if channels == 1 and len(pixels) == 3 and (pixels == pixels[:1]).all():
        return pixels[:1]
    if len(pixels) != channels:
        kind = {1: "grey", 3: "colour"}
        raise UserError(
            f"{file}: is {kind[len(pixels)]}, this model takes {kind[channels]} images; "
            "convert the image, or use a model of such images"
        )
    return pixels
