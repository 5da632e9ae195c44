"""Image files that a person hands to a trained model, brought to the shape that it was made for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from aemodels.config import UserError
from aemodels.data.folder import SUFFIXES, decode
from aemodels.data.source import Pixels


def image_files(paths: Sequence[Path]) -> list[Path]:
    """The files, and the PNG and JPEG images in the folders, of a person's list.

    Raises:
        UserError: one does not exist, or there is no image.
    """
    files: list[Path] = []
    for path in paths:
        if not path.exists():
            raise UserError(f"{path}: there is no such file or folder; give image files, or folders of them")
        if path.is_dir():
            inside = (file for file in path.rglob("*") if not file.name.startswith("."))
            files += sorted(file for file in inside if file.suffix.lower() in SUFFIXES)
        else:
            files.append(path)
    if not files:
        raise UserError(f"{', '.join(map(str, paths))}: no PNG or JPEG images in it; give image files or their folder")
    return files


def read_images(files: Sequence[Path], image_shape: tuple[int, int, int], crop: bool) -> Pixels:
    """Images (N, C, H, W) of a model's shape: resized, after a centre crop if so asked.

    Raises:
        UserError: a file is damaged, of other channels, or of another size where the model's images are not square.
    """
    channels, height, width = image_shape
    size = height if height == width else None
    images = []
    for file in files:
        pixels, _ = decode(file, size, crop)
        if pixels.shape[1:] != (height, width):
            actual = f"{pixels.shape[2]}x{pixels.shape[1]}"
            raise UserError(f"{file}: {actual} pixels, this model takes {width}x{height}; resize it")
        images.append(_with_channels(pixels, channels, file))
    return np.stack(images)


def _with_channels(pixels: Pixels, channels: int, file: Path) -> Pixels:
    """Grey pixels that are stored as colour are grey; nothing else is converted."""
    if channels == 1 and len(pixels) == 3 and (pixels == pixels[:1]).all():
        return pixels[:1]
    if len(pixels) != channels:
        kind = {1: "grey", 3: "colour"}
        raise UserError(
            f"{file}: is {kind[len(pixels)]}, this model takes {kind[channels]} images; "
            "convert the image, or use a model of such images"
        )
    return pixels
