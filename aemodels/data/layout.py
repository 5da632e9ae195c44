"""Finds the images in a person's folders, and the classes that their class folders give."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from aemodels.config import UserError
from aemodels.data.image_decoding import SUFFIXES
from aemodels.data.source import Rows


class ImageFile(NamedTuple):
    """Names an image file in one of the given folders."""

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


def find_files(folders: tuple[Path, ...]) -> list[ImageFile]:
    """Returns all images below the folders, in the order of their names."""
    real = [folder.resolve() for folder in folders]
    for i, inner in enumerate(real):
        if any(i != j and inner.is_relative_to(outer) for j, outer in enumerate(real)):
            raise UserError(f"data.path: {folders[i]} is given twice or lies in another of the folders; give it once")
    files: list[ImageFile] = []
    for folder in folders:
        found = sorted(_walk_checked(folder), key=lambda file: file.name)
        images = [file for file in found if file.name.lower().endswith(SUFFIXES)]
        if not images:
            other = f" ({len(found)} other files, such as {found[0].name})" if found else ""
            raise UserError(f"data.path={folder}: no PNG or JPEG images in it{other}; give the folder of the images")
        files += images
    return files


def _walk_checked(folder: Path) -> list[ImageFile]:
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


def _walk(folder: Path, inner: Path, prefix: str, above: frozenset[Path]) -> Iterator[ImageFile]:
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
                yield ImageFile(folder, prefix + entry.name, stat.st_size, stat.st_mtime_ns)


def labels_of(files: list[ImageFile]) -> tuple[Rows | None, tuple[str, ...]]:
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
