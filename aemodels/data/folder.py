"""A person's own images: folders of PNG and JPEG files, nested class folders give the labels."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from pydantic import BeforeValidator, Field

from aemodels.config import UserError
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

SUFFIXES = (".png", ".jpg", ".jpeg")
FORMATS = ("PNG", "JPEG")  # what a file may be, whatever its suffix says: Pillow would start Ghostscript for some
# Measured with 2 cores: threads halve the speed of 32 x 32 images (they fight for the interpreter's lock), are even
# at 64 x 64 and bring 1.4 to 1.8 times from 96 x 96. Processes bring 1.4 times on small ones too, but may neither be
# forked beside Prefect's threads nor spawned from a script without a main guard.
WORTH_THREADS = 64 * 64  # pixels
MOST_THREADS = 8


def _paths(value: Any) -> Any:
    """One path, several, or several as JSON text (as `Config.flat` writes them) -> absolute paths."""
    if isinstance(value, str) and value.startswith("["):
        value = json.loads(value)
    several = [value] if isinstance(value, str | os.PathLike) else value
    if not isinstance(several, list | tuple) or not all(isinstance(path, str | os.PathLike) for path in several):
        return value
    if any(str(path) == "" for path in several):
        raise ValueError("is empty; give the folder of the images")
    # Absolute, so that a run resumes and a worker starts from any folder.
    return tuple(os.path.abspath(os.path.expanduser(path)) for path in several)


class FolderConfig(WithoutTestConfig):
    """PNG and JPEG images in folders; `path/cat/1.png` has the label cat."""

    name: Literal["folder"] = "folder"
    """Where the images come from."""
    path: Annotated[tuple[Path, ...], BeforeValidator(_paths), Field(min_length=1)]
    """Folder of the images, or a list of them; class folders of the same name in several are one class."""
    image_size: int | None = Field(None, ge=SMALLEST_SIDE)
    """Side of the square images, pixels; null keeps the files' own size, which has to be the same for all."""
    fit: Literal["resize", "crop"] = "resize"
    """How an image that is not square becomes so: squeezed, or its largest middle square."""
    on_error: Literal["raise", "skip"] = "raise"
    """What an unreadable image does: ends the preparation, or is left out and listed in the manifest."""

    not_in_digest: ClassVar[frozenset[str]] = WithoutTestConfig.not_in_digest | {"path", "on_error"}

    def fetch(self) -> Source:
        files = _find(self.path)
        origin = tuple(str(path) for path in self.path)
        stamps = [FileStamp(f"{file.folder}/{file.name}", file.bytes, file.mtime_ns) for file in files]
        return Source(origin, fingerprint(stamps), partial(_read, self, files))


class _File(NamedTuple):
    folder: Path
    name: str  # below the folder
    bytes: int
    mtime_ns: int

    @property
    def path(self) -> Path:
        return self.folder / self.name

    @property
    def label(self) -> str:
        """The class folder; "" for an image that lies in the folder itself."""
        return self.name.split("/")[0] if "/" in self.name else ""


def _find(folders: tuple[Path, ...]) -> list[_File]:
    """All images below the folders, in the order of their names."""
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
    except OSError as error:
        where = error.filename or folder
        raise UserError(
            f"data.path={folder}: {where} cannot be read ({error.strerror}); give read permission"
        ) from None


def _walk(folder: Path, inner: Path, prefix: str, above: frozenset[Path]) -> Iterator[_File]:
    """Files that are not hidden; links are followed, but not in circles."""
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
    first, pixels, area = _first_readable(config, files)
    _, height, width = pixels.shape
    if min(height, width) < SMALLEST_SIDE:
        raise UserError(
            f"data.image_size=null: {first.path} is {width}x{height} pixels, {SMALLEST_SIDE}x{SMALLEST_SIDE} is "
            "the least; set data.image_size to enlarge the images, for example to 32"
        )

    def load(row: int) -> Pixels:
        image = _decode(config, files[row])[0]
        if image.shape != pixels.shape:
            raise _unlike(first, pixels, files[row], image)
        return image

    threads = min(os.cpu_count() or 1, MOST_THREADS) if area >= WORTH_THREADS else 1
    shape = (len(pixels), height, width)
    skip = config.on_error == "skip"
    return Images(len(files), shape, load, labels, classes, skip_unreadable=skip, threads=threads)


def _labels(files: list[_File]) -> tuple[Rows | None, tuple[str, ...]]:
    """Numbers of classes (N,) and their names; none where there is but one class, which would tell nothing."""
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


def _first_readable(config: FolderConfig, files: list[_File]) -> tuple[_File, Pixels, int]:
    """The image that tells what the others have to be like: its file, its pixels, its area before it was resized."""
    reason: UnreadableError | None = None
    for file in files:
        try:
            return file, *_decode(config, file)
        except UnreadableError as error:
            if config.on_error == "raise":
                raise
            reason = reason or error
    raise UserError(f"data.path: none of the {len(files)} images can be read; the first: {reason}")


def _unlike(first: _File, pixels: Pixels, other: _File, image: Pixels) -> UserError:
    if len(pixels) != len(image):
        kind = {1: "grey", 3: "colour"}
        return UserError(
            f"data.path: {first.path} is {kind[len(pixels)]} and {other.path} is {kind[len(image)]}; "
            "convert the images to one kind, or give a folder that has one kind only"
        )
    sizes = [f"{x.shape[2]}x{x.shape[1]}" for x in (pixels, image)]
    return UserError(
        f"data.image_size=null: {first.path} is {sizes[0]} pixels and {other.path} {sizes[1]}; "
        "set data.image_size to bring them to one size, for example data.image_size=64"
    )


def _decode(config: FolderConfig, file: _File) -> tuple[Pixels, int]:
    """The pixels (C, H, W) of one file, and its area before it was resized."""
    remedy = "mend or remove it, or set data.on_error=skip to leave such images out"
    return decode(file.path, config.image_size, config.fit == "crop", remedy)


def decode(path: Path, size: int | None, crop: bool, remedy: str = "mend or remove it") -> tuple[Pixels, int]:
    """The pixels (C, H, W) of a file, size x size if a size is given, and its area before it was resized.

    Raises:
        UnreadableError: it is damaged, or no PNG or JPEG.
    """
    try:
        with Image.open(path, formats=FORMATS) as opened:
            area = opened.width * opened.height
            if size is not None:
                opened.draft(None, (2 * size, 2 * size))  # a JPEG is decoded at a fraction of its size: 4 times faster
            turned = opened.getexif().get(ExifTags.Base.Orientation, 1) != 1
            image = _grey_or_colour(ImageOps.exif_transpose(opened) if turned else opened)
            if size is not None and image.size != (size, size):
                image = square(image, size, crop=crop)
            pixels = np.asarray(image)
    except Exception as error:  # Pillow's readers raise anything on damaged files: OSError, SyntaxError, IndexError ...
        reason = "no PNG or JPEG" if isinstance(error, UnidentifiedImageError) else str(error)
        raise UnreadableError(str(path), reason, remedy) from None
    return (pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)), area


def _grey_or_colour(image: Image.Image) -> Image.Image:
    """Mode L or RGB with 8 bits; what is transparent becomes white, as it is on paper."""
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
