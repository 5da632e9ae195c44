"""Images that are arrays already: a `.npy` or `.npz` file, or arrays in memory, which are kept as such a file.

N images, each (H, W), (H, W, C) or (C, H, W): C channels (1 grey, 3 colour), H x W pixels, uint8 or from 0 to 1.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from aemodels.config import UserError
from aemodels.data.paths import WholePaths
from aemodels.data.source import (
    FileStamp,
    Images,
    Pixels,
    Source,
    WithoutTestConfig,
    array_images,
    fingerprint,
)
from aemodels.runtime.environment import cache_folder
from aemodels.runtime.files import write_whole

SUFFIXES = (".npy", ".npz")
PARTS = (
    "images",
    "labels",
    "classes",
    "test_images",
    "test_labels",
)  # of a `.npz` file; all but the first may be left out
CHANNELS = (1, 3)


class ArraysConfig(WithoutTestConfig):
    """Images of a `.npy` file, or `images`, `labels` and `classes` of a `.npz` file."""

    name: Literal["arrays"] = "arrays"
    """Where the images come from."""
    path: Annotated[WholePaths, Field(max_length=1)]
    """The file of N images, each (H, W), (H, W, C) or (C, H, W), uint8 or numbers from 0 to 1. A `.npz` file holds
    them as `images`; it may have `labels` (N whole numbers), `classes` (their names), and images of a test split
    of its own as `test_images` and `test_labels`."""

    not_in_digest: ClassVar[frozenset[str]] = WithoutTestConfig.not_in_digest | {"path"}

    def fetch(self) -> Source:
        (path,) = self.path
        if path.suffix not in SUFFIXES or not path.is_file():
            raise UserError(f"data.path={path}: not a {' or '.join(SUFFIXES)} file that is there")
        state = path.stat()
        stamp = FileStamp(str(path), state.st_size, state.st_mtime_ns)
        return Source((str(path),), fingerprint([stamp]), partial(_read, path, self.image_size))

    def held_out(self) -> dict[str, float]:
        """The shares of the images that are drawn; a file that has test images of its own lends none for a test."""
        if "test_images" in _parts(self.path[0]):
            return {"val": self.val_fraction}
        return super().held_out()


def _parts(path: Path) -> Sequence[str]:
    if path.suffix != ".npz":
        return ("images",)
    with np.load(path, allow_pickle=False) as content:
        return list(content.files)


def _read(path: Path, size: int | None) -> Images:
    try:
        loaded = np.load(path, allow_pickle=False)
        content = (
            {"images": loaded} if isinstance(loaded, np.ndarray) else {name: loaded[name] for name in loaded.files}
        )
    except (ValueError, OSError, EOFError) as error:
        raise UserError(
            f"data.path={path}: cannot be read ({error}); give a file that numpy.save or savez wrote"
        ) from None
    if "images" not in content or (unknown := content.keys() - set(PARTS)):
        wrong = f"{min(unknown)} is unknown" if "images" in content else "there are no `images` in it"
        raise UserError(f"data.path={path}: {wrong}; it may hold {', '.join(PARTS)}")
    pixels = as_pixels(content["images"])
    labels = content.get("labels")
    test = as_pixels(content["test_images"]) if "test_images" in content else None
    if test is not None:
        if test.shape[1:] != pixels.shape[1:]:
            raise UserError(f"data.path={path}: test_images are {test.shape[1:]}, images are {pixels.shape[1:]}")
        pixels = np.concatenate([pixels, test])
        labels = None if labels is None else np.concatenate([labels, content["test_labels"]])
    if labels is not None and labels.shape != (len(pixels),):
        raise UserError(f"data.path={path}: {len(pixels)} images and labels of shape {labels.shape}; give one for each")
    if labels is None:
        return array_images(pixels, size, None, (), 0 if test is None else len(test))
    known, numbers = np.unique(labels, return_inverse=True)
    names = [str(name) for name in content["classes"]] if "classes" in content else None
    if names is not None and not (known.dtype.kind in "iu" and known.min() >= 0 and known.max() < len(names)):
        raise UserError(
            f"data.path={path}: labels must be whole numbers from 0 to {len(names) - 1}, of {len(names)} classes"
        )
    classes = tuple(map(str, known)) if names is None else tuple(names)
    own = numbers.astype(np.int64) if names is None else labels.astype(np.int64)
    return array_images(pixels, size, own, classes, 0 if test is None else len(test))


def as_pixels(images: Any) -> Pixels:
    """Images (N, H, W), (N, H, W, C) or (N, C, H, W) -> (N, C, H, W), uint8.

    Raises:
        UserError: they have another shape or type, or other values than 0 to 255 or 0 to 1.
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
    if array.dtype == np.uint8:
        return np.ascontiguousarray(array)
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * np.uint8(255)
    if array.dtype.kind not in "iuf" or (array.dtype.kind == "f" and not np.isfinite(array).all()):
        raise UserError(f"images of {array.dtype}: give uint8, or finite numbers from 0 to 1")
    low, high = float(array.min()), float(array.max())
    most = 255 if array.dtype.kind in "iu" else 1
    if low < 0 or high > most:
        raise UserError(f"images with pixels from {low:g} to {high:g}: {array.dtype} pixels run from 0 to {most}")
    scaled = array if most == 255 else np.rint(array.astype(np.float32) * 255)
    return np.ascontiguousarray(scaled.astype(np.uint8))


def keep_arrays(**parts: NDArray[Any] | Sequence[str] | None) -> Path:
    """Writes arrays into the cache, under a name that is a hash of their content, and returns the file.

    Args:
        parts: by the names of PARTS; what is None is left out.
    """
    given = {name: np.asarray(part) for name, part in parts.items() if part is not None}
    for name in ("images", "test_images"):
        if name in given:
            given[name] = as_pixels(given[name])
    content = hashlib.sha256()
    for name, array in sorted(given.items()):
        content.update(f"{name} {array.dtype} {array.shape}".encode())
        content.update(np.ascontiguousarray(array).data)
    path = cache_folder() / "arrays" / f"{content.hexdigest()[:24]}.npz"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        buffer = io.BytesIO()
        np.savez(buffer, **given)  # type: ignore[arg-type]  # untyped
        write_whole(path, lambda partial: partial.write_bytes(buffer.getbuffer()))
    return path
