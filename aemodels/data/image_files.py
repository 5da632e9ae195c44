"""Reads image files that a person hands to a trained model, in the shape that the model was made for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from aemodels.config import UserError
from aemodels.data.channels import in_channels, is_grey
from aemodels.data.image_decoding import Reading, decode
from aemodels.data.layout import Unused, ending, is_image, not_read, walk
from aemodels.data.source import Pixels


class ImageFiles(NamedTuple):
    """Holds image files, and counts what else lies beside them in folders."""

    files: list[Path]
    unused: Unused

    @property
    def told(self) -> str:
        """Says how many files are used and which are not; "" where all are."""
        folders = [f"{count:,} folders {name} left out" for name, count in sorted(self.unused.folders.items())]
        if not self.unused.files:
            return ", ".join(folders)
        total = len(self.files) + self.unused.files.total()
        return ", ".join([f"{total:,} files, {len(self.files):,} used; {not_read(self.unused.files)}", *folders])


def image_files(paths: Sequence[Path]) -> ImageFiles:
    """Returns the files of a person's list, and the images in its folders.

    Raises:
        UserError: one does not exist, or there is no image.
    """
    found = ImageFiles([], Unused(Counter(), Counter()))
    for path in paths:
        if not path.exists():
            raise UserError(f"{path}: there is no such file or folder; give image files, or folders of them")
        if path.is_dir():
            names = sorted(file.name for file in walk(path, found.unused))
            found.files.extend(path / name for name in names if is_image(name))
            found.unused.files.update(ending(name) for name in names if not is_image(name))
        else:
            found.files.append(path)
    if not found.files:
        other = f" ({not_read(found.unused.files)})" if found.unused.files else ""
        where = ", ".join(map(str, paths))
        raise UserError(f"{where}: no images in it{other}; give image files or their folder")
    return found


def has_images(path: Path) -> bool:
    """Tells whether a path is a file, or a folder with an image in it."""
    if not path.is_dir():
        return path.is_file()
    return any(is_image(file.name) for file in walk(path, Unused(Counter(), Counter())))


def read_images(
    files: Sequence[Path], image_shape: tuple[int, int, int], how: Reading, to_grey: bool = False
) -> Pixels:
    """Returns images (N, C, H, W) of a model's shape, whatever the size of the files.

    Args:
        to_grey: makes colour grey, for a model whose own images were made grey; else colour is refused there.

    Raises:
        UserError: a file is damaged, or of other channels.
    """
    return np.stack([_read_image(file, image_shape, how, to_grey) for file in files])


class Fitting(NamedTuple):
    """Holds the images among some files, and why the other files are none."""

    images: Pixels  # (N, C, H, W)
    unfit: tuple[str, ...]


def fitting_images(
    files: Sequence[Path], image_shape: tuple[int, int, int], how: Reading, to_grey: bool = False
) -> Fitting:
    """Returns the files that `read_images` takes, and what it says of the others."""
    images, unfit = [np.empty((0, *image_shape), np.uint8)], []
    for file in files:
        try:
            images.append(_read_image(file, image_shape, how, to_grey)[None])
        except UserError as error:
            unfit.append(str(error))
    return Fitting(np.concatenate(images), tuple(unfit))


def _read_image(file: Path, image_shape: tuple[int, int, int], how: Reading, to_grey: bool) -> Pixels:
    channels, height, width = image_shape
    pixels, _ = decode(file, how._replace(size=(height, width)))
    return _with_channels(pixels, channels, file, to_grey)


def _with_channels(pixels: Pixels, channels: int, file: Path, to_grey: bool) -> Pixels:
    """Brings grey images to the channels of the model; colour is made grey only where its own images were."""
    if len(pixels) > channels and not (to_grey or is_grey(pixels)):
        raise UserError(
            f"{file}: is colour, this model takes grey images; convert the image, or use a model of such images"
        )
    return in_channels(pixels, channels)
