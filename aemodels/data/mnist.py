"""Defines the data sets of torchvision: MNIST and those in its file format, and CIFAR-10.

They lie where torchvision puts them, below the data root: MNIST/raw, FashionMNIST/raw, KMNIST/raw,
cifar-10-batches-py. MNIST's files are read as they lie, gzipped or not, and nothing is written beside them.
"""

from __future__ import annotations

import contextlib
import gzip
import http.client
import io
import math
import os
import shutil
import socket
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from filelock import FileLock

from aemodels.config import UserError
from aemodels.data.source import FileStamp, Images, Pixels, Source, SourceConfig, array_images, fingerprint
from aemodels.runtime.environment import data_root
from aemodels.runtime.files import in_words

IDX_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
CIFAR_FOLDER = "cifar-10-batches-py"
CIFAR_FILES = (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta")
CIFAR_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
PATIENCE = 10  # seconds that a server may be silent


class _IdxConfig(SourceConfig):
    """Holds the settings of 60,000 training and 10,000 test images, grey, 28 x 28, in MNIST's file format."""

    folder: ClassVar[str]
    class_names: ClassVar[tuple[str, ...]]

    def fetch(self) -> Source:
        raw = f"{self.folder}/raw"
        find, download = partial(_idx_files, data_root() / raw), partial(_download_idx, self.folder)
        files = _found(self.name, raw, len(IDX_FILES), find, download)
        return Source(_names(files), fingerprint(map(_stamp, files)), partial(self._read, files))

    def _read(self, files: list[Path]) -> Images:
        train, train_labels, test, test_labels = map(_read_idx, files)
        for some, their, file in ((train, train_labels, files[1]), (test, test_labels, files[3])):
            if their.shape != some.shape[:1] or their.max() >= len(self.class_names):
                raise _damaged(file, f"labels {their.shape} up to {their.max()} for images {some.shape}")
        pixels = np.concatenate([train, test])[:, None]  # (N, 1, 28, 28)
        labels = np.concatenate([train_labels, test_labels]).astype(np.int64)
        return array_images(pixels, self.image_size, labels, self.class_names, own_test=len(test))


class MnistConfig(_IdxConfig):
    """Holds the settings of MNIST, handwritten digits (LeCun et al., 1998).

    It has 60,000 training and 10,000 test images, grey, 28 x 28.
    """

    name: Literal["mnist"] = "mnist"
    """Chooses where the images come from."""
    folder: ClassVar[str] = "MNIST"
    class_names: ClassVar[tuple[str, ...]] = tuple("0123456789")


class FashionMnistConfig(_IdxConfig):
    """Holds the settings of Fashion-MNIST, photographs of clothes (Xiao et al., 2017).

    It has 60,000 training and 10,000 test images, grey, 28 x 28.
    """

    name: Literal["fashion_mnist"] = "fashion_mnist"
    """Chooses where the images come from."""
    folder: ClassVar[str] = "FashionMNIST"
    class_names: ClassVar[tuple[str, ...]] = (
        "t-shirt",
        "trouser",
        "pullover",
        "dress",
        "coat",
        "sandal",
        "shirt",
        "sneaker",
        "bag",
        "ankle boot",
    )


class KmnistConfig(_IdxConfig):
    """Holds the settings of KMNIST, cursive Japanese characters (Clanuwat et al., 2018).

    It has 60,000 training and 10,000 test images, grey, 28 x 28.
    """

    name: Literal["kmnist"] = "kmnist"
    """Chooses where the images come from."""
    folder: ClassVar[str] = "KMNIST"
    class_names: ClassVar[tuple[str, ...]] = ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo")


class Cifar10Config(SourceConfig):
    """Holds the settings of CIFAR-10, photographs of ten kinds (Krizhevsky, 2009).

    It has 50,000 training and 10,000 test images, colour, 32 x 32.
    """

    name: Literal["cifar10"] = "cifar10"
    """Chooses where the images come from."""

    def fetch(self) -> Source:
        files = _found(self.name, CIFAR_FOLDER, len(CIFAR_FILES), _cifar_files, _download_cifar)
        return Source(_names(files), fingerprint(map(_stamp, files)), self._read)

    def _read(self) -> Images:
        from torchvision.datasets import CIFAR10  # seconds to import: only when they are not prepared yet

        try:
            # torchvision compares each file with its known hash before it unpickles it.
            train, test = (CIFAR10(data_root(), train=own) for own in (True, False))
        except RuntimeError as error:
            raise _damaged(data_root() / CIFAR_FOLDER, str(error)) from None
        pixels = np.concatenate([train.data, test.data]).transpose(0, 3, 1, 2)  # (N, 3, 32, 32)
        labels = np.array([*train.targets, *test.targets], dtype=np.int64)
        return array_images(pixels, self.image_size, labels, CIFAR_CLASSES, own_test=len(test.data))


def _idx_files(raw: Path) -> list[Path]:
    """Returns the four files, each plain or gzipped; fewer if some are missing."""
    pairs = [(raw / name, raw / f"{name}.gz") for name in IDX_FILES]
    return [next(file for file in pair if file.is_file()) for pair in pairs if any(file.is_file() for file in pair)]


def _cifar_files() -> list[Path]:
    return [file for name in CIFAR_FILES if (file := data_root() / CIFAR_FOLDER / name).is_file()]


def _read_idx(file: Path) -> Pixels:
    """Reads an array in the idx format.

    The file has 0, 0, a type (8: uint8), the number of axes, their lengths (big-endian), and the data.

    Raises:
        UserError: the file is damaged.
    """
    try:
        content = file.read_bytes()
        if file.suffix == ".gz":
            content = gzip.decompress(content)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise _damaged(file, str(error)) from None
    axes = 3 if "idx3" in file.name else 1
    start = 4 + 4 * axes
    shape = tuple(np.frombuffer(content[4:start], dtype=">u4").tolist()) if len(content) > start else ()
    if content[:4] != bytes([0, 0, 8, axes]) or len(content) != start + math.prod(shape):
        raise _damaged(file, f"{len(content)} bytes do not fit its header {content[:start].hex()}")
    return np.frombuffer(content, dtype=np.uint8, offset=start).reshape(shape)


def _damaged(file: Path, reason: str) -> UserError:
    return UserError(
        f"AEMODELS_DATA={data_root()}: {file} is damaged ({reason}); delete it, so that it is fetched again"
    )


def _stamp(file: Path) -> FileStamp:
    stat = file.stat()
    return FileStamp(str(file), stat.st_size, stat.st_mtime_ns)


def _names(files: list[Path]) -> tuple[str, ...]:
    return tuple(map(str, files))


# ---- download


def _found(
    name: str, folder: str, needed: int, find: Callable[[], list[Path]], download: Callable[[Path], None]
) -> list[Path]:
    """Returns the files of a data set below the data root, downloaded if they are not all there.

    Raises:
        UserError: the files are neither on disk nor downloadable.
    """
    if len(files := find()) == needed:
        return files
    root = data_root()
    try:
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / f".{name}.lock"):  # two commands at once download once
            if len(find()) < needed:
                _download_aside(root, root / f".{name}.partial", folder, download)
    except (OSError, RuntimeError, http.client.HTTPException) as error:
        if (told := in_words(error, root)) is not None:
            raise told from error
        reason = " ".join(str(error).split())
        raise UserError(
            f"data.name={name}: neither on disk nor downloadable: {root / folder} has {len(find())} of {needed} files, "
            f"and the download failed ({reason[:200]}); put the files there, or set AEMODELS_DATA to the folder "
            f"that has {folder} in it (now {root})"
        ) from None
    return find()


def _download_aside(root: Path, aside: Path, folder: str, download: Callable[[Path], None]) -> None:
    """Downloads into a folder aside and moves the files when all are whole, so that files in place can be trusted."""
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    try:
        with _quiet_and_impatient():
            download(aside)
        (root / folder).mkdir(parents=True, exist_ok=True)
        for file in (aside / folder).iterdir():
            file.replace(root / folder / file.name)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


@contextlib.contextmanager
def _quiet_and_impatient() -> Iterator[None]:
    """Silences torchvision's download and limits its wait, as it offers no setting for either."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(PATIENCE)
    try:
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        socket.setdefaulttimeout(before)


def _download_idx(folder: str, into: Path) -> None:
    from torchvision import datasets

    {"MNIST": datasets.MNIST, "FashionMNIST": datasets.FashionMNIST, "KMNIST": datasets.KMNIST}[folder](
        into, download=True
    )


def _download_cifar(into: Path) -> None:
    from torchvision.datasets import CIFAR10

    archive = data_root() / CIFAR10.filename
    if archive.is_file():
        os.symlink(archive, into / archive.name)  # torchvision then unpacks it and downloads nothing
    CIFAR10(into, download=True)
