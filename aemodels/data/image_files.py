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
from aemodels.data.notes import count, too_dark
from aemodels.data.source import Pixels, UnreadableError

MOST_NAMED = 10  # files that a note names, at most
LATER = "give files that use the whole range, or train a model with data.levels set to that value"


class ImageFiles(NamedTuple):
    """Holds image files, and counts what else lies beside them in folders."""

    files: list[Path]
    unused: Unused
    named: frozenset[Path]  # the files that were given themselves, and not with their folder

    @property
    def told(self) -> str:
        """Says how many files are used and which are not; "" where all are."""
        folders = [f"{count(number, 'folder', 'folders')} {name} left out" for name, number in self._folders()]
        if not self.unused.files:
            return ", ".join(folders)
        total = len(self.files) + self.unused.files.total()
        return ", ".join([f"{total:,} files, {len(self.files):,} used; {not_read(self.unused.files)}", *folders])

    def _folders(self) -> list[tuple[str, int]]:
        return sorted(self.unused.folders.items())


def image_files(paths: Sequence[Path]) -> ImageFiles:
    """Returns the files of a person's list, and the images in its folders.

    Raises:
        UserError: one does not exist, or there is no image.
    """
    named = frozenset(path for path in paths if not path.is_dir())
    found = ImageFiles([], Unused(Counter(), Counter()), named)
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


class Read(NamedTuple):
    """Holds the images that were read of some files, and what a person should know about it."""

    images: Pixels  # (N, C, H, W)
    files: list[Path]  # N
    unfit: tuple[str, ...]  # the other files, each with the reason why it cannot be read
    made_grey: int  # how many of the images are colour in their files
    dark: str  # what to do where all images are far darker than white; "" where they are not

    @property
    def left_out(self) -> str:
        """Counts and names the files that cannot be read; "" where all can."""
        if not self.unfit:
            return ""
        counted = count(len(self.unfit), "file cannot be read and is", "files cannot be read and are")
        more = f" and {len(self.unfit) - MOST_NAMED:,} more" if len(self.unfit) > MOST_NAMED else ""
        return f"{counted} left out: {', '.join(self.unfit[:MOST_NAMED])}{more}"

    @property
    def grey(self) -> str:
        """Says how many colour images were made grey; "" where none was."""
        if not self.made_grey:
            return ""
        counted = count(self.made_grey, "image is colour and is", "images are colour and are")
        return f"{counted} read as grey, as the model's own images are"

    @property
    def notes(self) -> tuple[str, ...]:
        """Returns a sentence for each thing that a person should know."""
        return tuple(filter(None, (self.left_out, self.grey, self.dark)))


def read_images(found: ImageFiles, image_shape: tuple[int, int, int], how: Reading) -> Read:
    """Returns images (N, C, H, W) of a model's shape, whatever the size and the channels of the files.

    A file below a folder that cannot be read is left out.

    Raises:
        UnreadableError: a file that was given itself cannot be read.
    """
    channels, *size = image_shape
    images, files, unfit, made_grey = [np.empty((0, *image_shape), np.uint8)], [], [], 0
    for file in found.files:
        try:
            pixels, _ = decode(file, how._replace(size=(size[0], size[1])))
        except UnreadableError as error:
            if file in found.named:
                raise
            unfit.append(f"{file} ({error.reason})")
            continue
        made_grey += len(pixels) > channels and not is_grey(pixels)
        images.append(in_channels(pixels, channels)[None])
        files.append(file)
    read = np.concatenate(images)
    dark = too_dark(int(read.max(initial=0)), "these", LATER) if how.levels is None and files else ""
    return Read(read, files, tuple(unfit), made_grey, dark)
