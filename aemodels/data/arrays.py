"""Images that are arrays already: a `.npy` or `.npz` file, or arrays in memory, which are kept as such a file.

N images, each (H, W), (H, W, C) or (C, H, W): C channels (1 grey, 3 colour), H x W pixels, uint8 or from 0 to 1.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal
from zipfile import BadZipFile

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray
from pydantic import Field

from aemodels.config import UserError
from aemodels.data.paths import WholePaths
from aemodels.data.resizing import Size
from aemodels.data.source import (
    FileStamp,
    Images,
    OwnImagesConfig,
    Pixels,
    Rows,
    Source,
    array_images,
    fingerprint_by_content,
)
from aemodels.runtime.arrays import require_range
from aemodels.runtime.environment import cache_folder
from aemodels.runtime.files import at_path, write_whole

SUFFIXES = (".npy", ".npz")
# The arrays of a `.npz` file; all but the first may be left out.
PARTS = ("images", "labels", "classes", "val_images", "val_labels", "test_images", "test_labels")
CHANNELS = (1, 3)


class ArraysConfig(OwnImagesConfig):
    """Reads the images of a `.npy` file, or `images`, `labels` and `classes` of a `.npz` file."""

    name: Literal["arrays"] = "arrays"
    """Chooses where the images come from."""
    path: Annotated[WholePaths, Field(max_length=1)]
    """Names the file of N images (H, W), (H, W, C) or (C, H, W), uint8 or numbers from 0 to 1. A `.npz` file holds
    them as `images`; it may have `labels` (N whole numbers), `classes` (their names), and images that are given for
    a split, as `val_images` and `val_labels`, `test_images` and `test_labels`."""

    not_in_digest: ClassVar[frozenset[str]] = OwnImagesConfig.not_in_digest | {"path"}

    def fetch(self) -> Source:
        (path,) = self.path
        if path.suffix not in SUFFIXES or not path.is_file():
            raise UserError(f"data.path={path}: there is no such {' or '.join(SUFFIXES)} file; give the path of one")
        state = path.stat()
        stamp = FileStamp(str(path), state.st_size, state.st_mtime_ns)
        return Source((str(path),), fingerprint_by_content([stamp]), partial(_read, path, self.image_size))


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Opens a file of numpy's.

    Raises:
        UserError: it is damaged, or holds other objects than arrays.
    """
    try:
        loaded = np.load(path, allow_pickle=False)
        with nullcontext(loaded) if isinstance(loaded, np.ndarray) else loaded as content:
            yield content
    except (ValueError, EOFError, BadZipFile) as error:
        raise UserError(f"data.path={path}: cannot be read ({error}); give what numpy.save or savez wrote") from None


def _read(path: Path, size: int | Size | None) -> Images:
    with _opened(path) as content:
        parts = (
            {"images": content} if isinstance(content, np.ndarray) else {name: content[name] for name in content.files}
        )
    if "images" not in parts or (parts.keys() - set(PARTS)):
        wrong = f"{min(parts.keys() - set(PARTS))} is unknown" if "images" in parts else "there are no `images` in it"
        raise UserError(f"data.path={path}: {wrong}; write only {', '.join(PARTS)} into the file")
    pixels, labels, given = _joined(parts, path)
    if labels is None:
        return replace(array_images(pixels, size, None, ()), given=given, by_content=True)
    numbers, classes = numbered(labels, parts.get("classes"), path)
    return replace(array_images(pixels, size, numbers, classes), given=given, by_content=True)


def _joined(parts: Mapping[str, NDArray[Any]], path: Path) -> tuple[Pixels, NDArray[Any] | None, dict[str, Rows]]:
    """Returns all images, their labels if there are any, and the rows of those that are given for a split.

    Raises:
        UserError: a split's images have another shape, or not one label each where the others have labels.
    """
    taken = np.asarray if path.parent == _kept() else as_pixels  # what is kept here has been checked
    pixels, given = taken(parts["images"]), {}
    labels = parts.get("labels")
    _check_length(labels, pixels, "labels", path)
    for split in ("val", "test"):
        if (f"{split}_images" in parts and labels is not None) != (f"{split}_labels" in parts):
            raise UserError(
                f"data.path={path}: give {split}_labels exactly if there are both {split}_images and labels"
            )
        if f"{split}_images" not in parts:
            continue
        own = taken(parts[f"{split}_images"])
        if own.shape[1:] != pixels.shape[1:]:
            raise UserError(
                f"data.path={path}: {split}_images {own.shape[1:]}, images {pixels.shape[1:]}; give one shape"
            )
        _check_length(parts.get(f"{split}_labels"), own, f"{split}_labels", path)
        given[split] = np.arange(len(pixels), len(pixels) + len(own))
        pixels = np.concatenate([pixels, own])
        labels = None if labels is None else np.concatenate([labels, parts[f"{split}_labels"]])
    return pixels, labels, given


def _check_length(labels: NDArray[Any] | None, images: Pixels, name: str, path: Path) -> None:
    """Refuses labels that are not one for each image."""
    if labels is not None and labels.shape != (len(images),):
        raise UserError(f"data.path={path}: {len(images)} images and {name} of shape {labels.shape}; give one for each")


def numbered(labels: NDArray[Any], names: NDArray[Any] | None, path: Path) -> tuple[Rows, tuple[str, ...]]:
    """Returns labels as numbers of classes, and the names of the classes.

    Raises:
        UserError: names of classes are given, and the labels are not their numbers.
    """
    known, numbers = np.unique(labels, return_inverse=True)
    if names is None:
        return numbers.astype(np.int64), tuple(map(str, known))
    if known.dtype.kind not in "iu" or known.min() < 0 or known.max() >= len(names):
        most = len(names) - 1
        raise UserError(f"data.path={path}: labels must be whole numbers from 0 to {most}, of {len(names)} classes")
    return labels.astype(np.int64), tuple(map(str, names))


def as_pixels(images: Any) -> Pixels:
    """Brings images (N, H, W), (N, H, W, C) or (N, C, H, W) into the form (N, C, H, W), uint8.

    Raises:
        UserError: they have another shape or type, or other values than 0 to 255 or 0 to 1, or they are integers that
            are all 0 or 1.
    """
    array = np.asarray(images)
    if array.ndim == 3:
        array = array[:, None]
    elif array.ndim == 4 and array.shape[1] not in CHANNELS and array.shape[-1] in CHANNELS:
        array = np.moveaxis(array, -1, 1)
    if array.ndim != 4 or array.shape[1] not in CHANNELS or not len(array):
        raise UserError(
            f"images of shape {np.shape(images)}: give (N, H, W), (N, H, W, C) or (N, C, H, W), with C 1 or 3"
        )
    require_range(array)
    if array.dtype == np.uint8:
        return np.ascontiguousarray(array)
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * np.uint8(255)
    if array.dtype.kind not in "iuf":
        raise UserError(f"images of {array.dtype}: give uint8, or numbers from 0 to 1")
    if array.dtype.kind == "f" and (wrong := int((~np.isfinite(array)).sum())):
        raise UserError(f"images with {wrong:,} pixels that are NaN or infinite: give finite numbers from 0 to 1")
    low, high = float(array.min()), float(array.max())
    most = 255 if array.dtype.kind in "iu" else 1
    if low < 0 or high > most:
        remedy = "divide them by 255" if low >= 0 and high <= 255 else "shift and scale them"
        told = f"images with pixels from {low:g} to {high:g}: {array.dtype} pixels run from 0 to {most}"
        raise UserError(f"{told}; {remedy}")
    scaled = array if most == 255 else np.rint(array.astype(np.float32) * 255)
    return np.ascontiguousarray(scaled.astype(np.uint8))


def keep_arrays(
    images: Any,
    labels: Any = None,
    classes: Sequence[str] | None = None,
) -> Path:
    """Writes arrays into the cache, under a name that is a hash of their content, and returns the file.

    Args:
        images: as `as_pixels` takes them.
        labels: the class of each image, as numbers or names.
        classes: the names of the classes, if labels are numbers.

    Raises:
        UserError: the images cannot be used, or labels are not one for each.
    """
    parts: dict[str, NDArray[Any]] = {"images": as_pixels(images)}
    if labels is not None:
        parts["labels"] = as_labels(labels, len(parts["images"]))
    if classes is not None:
        parts["classes"] = np.asarray(classes, dtype=np.str_)
    path = _kept() / f"{_hash_of(parts)}.npz"
    if not path.exists():  # what is kept already needs no file system that can be written to
        with at_path(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(path.with_suffix(".lock")):  # another process may write the same at the same time
                write_whole(path, partial(_write, parts))
    return path


def _write(parts: dict[str, NDArray[Any]], path: Path) -> None:
    with path.open("wb") as file:  # to a name, numpy may add an ending
        np.savez(file, **parts)  # type: ignore[arg-type]  # untyped


def _kept() -> Path:
    """Returns the folder of the arrays that programs gave."""
    return cache_folder() / "arrays"


def _hash_of(parts: Mapping[str, NDArray[Any]]) -> str:
    content = hashlib.sha256()
    for name, array in sorted(parts.items()):
        content.update(f"{name} {array.dtype} {array.shape}".encode())
        content.update(np.ascontiguousarray(array).data)
    return content.hexdigest()[:24]


def as_labels(labels: Any, count: int) -> NDArray[Any]:
    """Checks that there is a number or a name for each of so many images, and returns them as an array (N,).

    Raises:
        UserError: there are more or fewer, or they are something else.
    """
    array = np.asarray(labels)
    if array.dtype.kind == "O":
        if unknown := sum(label is None or label != label for label in array.ravel()):
            raise UserError(f"labels: {unknown} of {array.size} are None or NaN; give every image its class, or none")
        array = np.asarray([str(label) for label in array.ravel()]).reshape(array.shape)
    if array.shape != (count,) or array.dtype.kind not in "iubUS":
        raise UserError(
            f"labels of shape {array.shape} and {array.dtype}: give a whole number or a name for each of {count} images"
        )
    return array.astype(np.str_) if array.dtype.kind == "S" else array
