"""Reads a person's own images: folders of PNG and JPEG files, in which nested class folders give the labels."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from pydantic import Field

from aemodels.config import OutageError, UserError
from aemodels.data.paths import WholePaths
from aemodels.data.source import (
    SMALLEST_SIDE,
    FileStamp,
    Images,
    Pixels,
    Rows,
    Source,
    UnreadableError,
    WithoutTestConfig,
    fingerprint,
    square,
)
from aemodels.runtime.files import in_words

SUFFIXES = (".png", ".jpg", ".jpeg")
FORMATS = ("PNG", "JPEG")  # the only formats that are read, as Pillow would start Ghostscript for others


class FolderConfig(WithoutTestConfig):
    """Holds the settings of PNG and JPEG images in folders; `path/cat/1.png` has the label cat."""

    name: Literal["folder"] = "folder"
    """Chooses where the images come from."""
    path: WholePaths
    """Names the folder of the images, or a list of folders; class folders of the same name in several are one class."""
    image_size: int | None = Field(None, ge=SMALLEST_SIDE)
    """Sets the side of the square images in pixels; null keeps the files' own size, which has to be one for all."""
    fit: Literal["resize", "crop"] = "resize"
    """Chooses how an image that is not square becomes square: it is squeezed, or cut to its largest middle square."""
    on_error: Literal["raise", "skip"] = "raise"
    """Chooses what an unreadable image does: it ends the preparation, or is left out and listed in the manifest."""

    not_in_digest: ClassVar[frozenset[str]] = WithoutTestConfig.not_in_digest | {"path", "on_error"}

    @property
    def title(self) -> str:
        return " and ".join(path.name for path in self.path)

    def fetch(self) -> Source:
        files = _find(self.path)
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
        _labels(_find(joined.path))
        return joined

    def holds(self, path: Path) -> bool:
        """Tells whether a file or folder lies in one of these folders."""
        return any(path.resolve().is_relative_to(folder.resolve()) for folder in self.path)


class _File(NamedTuple):
    folder: Path
    name: str  # below the folder
    bytes: int
    mtime_ns: int

    @property
    def path(self) -> str:
        return f"{self.folder}/{self.name}"

    @property
    def label(self) -> str:
        """Returns the name of the class folder, or "" for an image that lies in the folder itself."""
        return self.name.split("/")[0] if "/" in self.name else ""


def _find(folders: tuple[Path, ...]) -> list[_File]:
    """Returns all images below the folders, in the order of their names."""
    real = [folder.resolve() for folder in folders]
    for i, inner in enumerate(real):
        if any(i != j and inner.is_relative_to(outer) for j, outer in enumerate(real)):
            raise UserError(f"data.path: {folders[i]} is given twice or lies in another of the folders; give it once")
    files: list[_File] = []
    for folder in folders:
        found = sorted(_walk_checked(folder), key=lambda file: file.name)
        images = [file for file in found if file.name.lower().endswith(SUFFIXES)]
        if not images:
            other = f" ({len(found)} other files, such as {found[0].name})" if found else ""
            raise UserError(f"data.path={folder}: no PNG or JPEG images in it{other}; give the folder of the images")
        files += images
    return files


def _walk_checked(folder: Path) -> list[_File]:
    if not folder.exists():
        raise UserError(f"data.path={folder}: there is no such folder; give the folder of the images")
    if not folder.is_dir():
        raise UserError(f"data.path={folder}: is a file; give the folder that it lies in")
    try:
        return list(_walk(folder, folder, "", frozenset()))
    except PermissionError as error:
        where = error.filename or folder
        raise UserError(
            f"data.path={folder}: {where} cannot be read ({error.strerror}); give read permission"
        ) from None


def _walk(folder: Path, inner: Path, prefix: str, above: frozenset[Path]) -> Iterator[_File]:
    """Yields the files that are not hidden; links are followed, but not in circles."""
    real = inner.resolve()
    if real in above:
        return
    with os.scandir(inner) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                yield from _walk(folder, Path(entry.path), f"{prefix}{entry.name}/", above | {real})
            elif entry.is_file():
                stat = entry.stat()
                yield _File(folder, prefix + entry.name, stat.st_size, stat.st_mtime_ns)


def _read(config: FolderConfig, files: list[_File]) -> Images:
    labels, classes = _labels(files)
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


def _labels(files: list[_File]) -> tuple[Rows | None, tuple[str, ...]]:
    """Returns numbers of classes (N,) and their names, or none if there is but one class, which would tell nothing."""
    names = {file.label: file for file in files}
    if "" in names and len(names) > 1:
        inside = next(file for label, file in names.items() if label)
        raise UserError(
            f"data.path: {names[''].path} has no class folder and {inside.path} has one; "
            "move all images into class folders, or none"
        )
    classes = tuple(sorted(names))
    if len(classes) == 1:
        return None, ()
    number = {name: i for i, name in enumerate(classes)}
    return np.array([number[file.label] for file in files], dtype=np.int64), classes


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
    return decode(path, config.image_size, config.fit == "crop", remedy)[0]


def decode(path: Path | str, size: int | None, crop: bool, remedy: str = "mend or remove it") -> tuple[Pixels, int]:
    """Returns the pixels (C, H, W) of a file, size x size if a size is given, and its area before it was resized.

    Raises:
        UnreadableError: it is damaged, or no PNG or JPEG.
    """
    try:
        with open(path, "rb") as file:  # opened here, as Pillow takes longer to open and to close a file
            image: Image.Image = Image.open(file, formats=FORMATS)
            area = image.width * image.height
            if size is not None:
                image.draft(None, (2 * size, 2 * size))  # a JPEG is decoded at a fraction of its size: 4 times faster
            image.load()
            # The orientation is read after loading, as a PNG may hold it behind its pixels.
            if image.info and image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
                image = ImageOps.exif_transpose(image)
            image = _grey_or_colour(image)
            if size is not None and image.size != (size, size):
                image = square(image, size, crop=crop)
        pixels = np.frombuffer(image.tobytes(), dtype=np.uint8)
    except Exception as error:  # Pillow's readers raise anything on damaged files: OSError, SyntaxError, IndexError ...
        if isinstance(told := in_words(error), OutageError):  # not the image's fault
            raise told from error
        reason = "no PNG or JPEG" if isinstance(error, UnidentifiedImageError) else str(error)
        raise UnreadableError(str(path), reason, remedy) from None
    return pixels.reshape(image.height, image.width, -1).transpose(2, 0, 1), area


def _grey_or_colour(image: Image.Image) -> Image.Image:
    """Returns the image in mode L or RGB with 8 bits; what is transparent becomes white, as it is on paper."""
    if image.mode in ("L", "RGB") and "transparency" not in image.info:
        return image
    if image.mode.startswith("I"):  # 16-bit grey
        return Image.fromarray(np.rint(np.asarray(image) / 257).astype(np.uint8))
    mode = "L" if image.mode in ("1", "L", "LA") or _grey_palette(image) else "RGB"
    if image.has_transparency_data:
        paper = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(paper, image.convert("RGBA"))
    return image if image.mode == mode else image.convert(mode)


def _grey_palette(image: Image.Image) -> bool:
    palette = image.getpalette("RGB") if image.mode in ("P", "PA") else None
    return palette is not None and palette[0::3] == palette[1::3] == palette[2::3]
