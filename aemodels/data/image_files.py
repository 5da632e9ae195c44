"""Reads image files that a person hands to a trained model, in the shape that the model was made for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
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
        """Says how many files are images and which are not; "" where all are."""
        return self._told(f"{count(len(self.files), 'image', 'images')}")

    def told_of(self, used: int) -> str:
        """Says the same where it is known how many of the images could be read."""
        return self._told(f"{used:,} used")

    def _told(self, images: str) -> str:
        folders = [f"{count(number, 'folder', 'folders')} {name} left out" for name, number in self._folders()]
        if not self.unused.files:
            return ", ".join(folders)
        total = len(self.files) + self.unused.files.total()
        return ", ".join([f"{total:,} files, {images}; {not_read(self.unused.files)}", *folders])

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


@dataclass
class Looked:
    """Counts what became of files that were read, and says what a person should know about it."""

    levels: int | None  # the value of white, where a person gave it
    unfit: list[str] = field(default_factory=list)  # the files that cannot be read, each with the reason
    made_grey: int = 0  # how many of the images are colour in their files
    brightest: int = 0

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
    def dark(self) -> str:
        """Says what to do where all images are far darker than white; "" where they are not."""
        return too_dark(self.brightest, "these", LATER) if self.levels is None else ""

    @property
    def notes(self) -> tuple[str, ...]:
        """Returns a sentence for each thing that a person should know."""
        return tuple(filter(None, (self.left_out, self.grey, self.dark)))


class Read(NamedTuple):
    """Holds some images, and the files that they come from."""

    images: Pixels  # (N, C, H, W)
    files: list[Path]  # N


def read_in_blocks(
    found: ImageFiles, image_shape: tuple[int, int, int], how: Reading, looked: Looked, size: int
) -> Iterator[Read]:
    """Yields images (N, C, H, W) of a model's shape, whatever the size and the channels of the files, some at a time.

    A file below a folder that cannot be read is left out.

    Args:
        looked: counts what became of the files.
        size: the files of a block.

    Raises:
        UnreadableError: a file that was given itself cannot be read.
    """
    channels, *side = image_shape
    for start in range(0, len(found.files), size):
        images, files = [np.empty((0, *image_shape), np.uint8)], []
        for file in found.files[start : start + size]:
            try:
                pixels, _ = decode(file, how._replace(size=(side[0], side[1])))
            except UnreadableError as error:
                if file in found.named:
                    # There are no settings of data where a model is asked.
                    remedy = error.remedy if error.needed_megapixels is None else "make it smaller"
                    raise UnreadableError(error.file, error.reason, remedy) from None
                looked.unfit.append(f"{file} ({error.reason})")
                continue
            looked.made_grey += len(pixels) > channels and not is_grey(pixels)
            images.append(in_channels(pixels, channels)[None])
            files.append(file)
        read = np.concatenate(images)
        looked.brightest = max(looked.brightest, int(read.max(initial=0)))
        yield Read(read, files)


def read_images(found: ImageFiles, image_shape: tuple[int, int, int], how: Reading) -> tuple[Read, Looked]:
    """Returns all images at once, and what became of the files.

    Raises:
        UnreadableError: a file that was given itself cannot be read.
    """
    looked = Looked(how.levels)
    (read,) = read_in_blocks(found, image_shape, how, looked, max(1, len(found.files)))
    return read, looked
