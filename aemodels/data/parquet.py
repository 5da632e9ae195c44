"""Reads images from Parquet files, in the form in which the Hugging Face hub stores data sets of images.

N images, numbered through all files. pyarrow reads them, which is the extra [parquet] of aemodels.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np

from aemodels.config import UserError
from aemodels.data.arrays import numbered
from aemodels.data.encoded import EncodedConfig, file_images
from aemodels.data.image_bytes import ImageBytes
from aemodels.data.layout import SPLIT_NAMES
from aemodels.data.paths import WholePaths
from aemodels.data.source import FileStamp, Images, Rows, Source, digest_of, fingerprint_by_content
from aemodels.runtime.environment import cache_folder
from aemodels.runtime.files import at_path

SUFFIX = ".parquet"
IMAGES, LABELS = ("image", "img"), ("label", "labels")  # names of columns
AT_ONCE = 64  # images that are read from a file at once


class ParquetConfig(EncodedConfig):
    """Holds the settings of images in Parquet files, as the Hugging Face hub has them."""

    name: Literal["parquet"] = "parquet"
    """Chooses where the images come from."""
    path: WholePaths
    """Names a `.parquet` file, a folder of such files, or a list of both.

    The images are in the column `image` or `img`, their classes in `label` or `labels`. Files named `train-...`,
    `validation-...` and `test-...`, or with an underscore, are given splits; what is not given is drawn from the
    training images."""

    not_in_digest: ClassVar[frozenset[str]] = EncodedConfig.not_in_digest | {"path"}

    @property
    def title(self) -> str:
        return " and ".join(path.name for path in self.path)

    def fetch(self) -> Source:
        files = _parquet_files(self.path)
        stamps = [FileStamp(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
        known, splits = fingerprint_by_content(stamps), [_split(file) for file in files]
        if any(splits):  # so that they are prepared anew where a release takes other names for splits
            known = digest_of([known, splits])
        return Source(tuple(map(str, self.path)), known, partial(_read, self, files))


def _parquet_files(paths: Sequence[Path]) -> list[Path]:
    """Returns the Parquet files among some files and folders, in the order of their names.

    Raises:
        UserError: there is none, or one is given twice.
    """
    files: list[Path] = []
    for path in paths:
        below = sorted(path.rglob(f"*{SUFFIX}")) if path.is_dir() else [path]
        hidden = {file for file in below if any(part.startswith(".") for part in file.relative_to(path).parts)}
        found = [file for file in below if file.suffix == SUFFIX and file.is_file() and file not in hidden]
        if not found:
            raise UserError(f"data.path={path}: there is no {SUFFIX} file; give such a file, or the folder of them")
        files += found
    if twice := [file for i, file in enumerate(files) if file in files[:i]]:
        raise UserError(f"data.path: {twice[0]} is given twice; give it once")
    return files


def _read(config: ParquetConfig, files: Sequence[Path]) -> Images:
    spool = Spool()
    columns = [_take(file, spool) for file in files]
    if not len(spool):
        raise UserError(f"data.path={config.path[0]}: there are no rows in it; give files with images")
    labels, classes = _numbered(files, columns)
    images = file_images(config, spool, labels, classes)
    return replace(images, given=_given(files, [column.rows for column in columns]))


# ---------------------------------------------------------------- the images


class Spool(Sequence[ImageBytes]):
    """Holds the contents of N image files in one file on disk, since rows of a Parquet file cannot be read singly.

    The file has no name, so it is gone when this process is. In memory there are 8 bytes for each image.
    """

    def __init__(self) -> None:
        folder = cache_folder()
        with at_path(folder):
            folder.mkdir(parents=True, exist_ok=True)
            self.file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  # it is open as long as this is held
        self.folder, self.ends = folder, array("q")
        self.sources: list[Path] = []
        self.firsts: list[int] = []  # the number of the first image from each source

    def begin(self, source: Path) -> None:
        """Begins with the images of another Parquet file."""
        self.sources.append(source)
        self.firsts.append(len(self))

    def append(self, contents: Sequence[bytes | None]) -> None:
        """Appends images; one that is missing is a file without content, which cannot be read."""
        with at_path(self.folder):
            for content in contents:
                self.file.write(content or b"")
                self.ends.append(self.file.tell())
            self.file.flush()

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, row: Any) -> Any:
        """Returns an image with its place, such as "train-0.parquet, row 7"; the first row is 0."""
        start = self.ends[row - 1] if row else 0
        source = bisect_right(self.firsts, row) - 1
        name = f"{self.sources[source]}, row {row - self.firsts[source]}"
        return ImageBytes(name, os.pread(self.file.fileno(), self.ends[row] - start, start))


class _Column(NamedTuple):
    """Holds the labels of the images in a file."""

    rows: int
    labels: list[Any] | None  # None where there is no such column
    names: tuple[str, ...]  # of the classes, where labels are their numbers


def _take(file: Path, spool: Spool) -> _Column:
    """Appends a file's images to a spool, a few at a time, and returns their labels.

    Raises:
        UserError: it is damaged, has no column of images, or only their paths.
    """
    start, labels, count = spool.file.tell(), list[Any](), 0
    spool.begin(file)
    with _opened(file) as content:
        schema = content.schema_arrow
        image, label = (next((name for name in names if name in schema.names), "") for names in (IMAGES, LABELS))
        if not image:
            raise UserError(f"data.path={file}: has no column {' or '.join(IMAGES)}, but {', '.join(schema.names)}")
        kind = schema.field(image).type
        inner = "bytes" in {kind.field(i).name for i in range(kind.num_fields)}
        if not inner and "binary" not in str(kind):
            raise UserError(
                f"data.path={file}: its column {image} is {kind}; give image files as bytes, or as a struct with bytes"
            )
        columns = [f"{image}.bytes" if inner else image, *filter(None, [label])]
        for rows in content.iter_batches(AT_ONCE, columns=columns):
            found = rows.column(image).to_pylist()
            spool.append([one and one["bytes"] for one in found] if inner else found)
            count += len(found)
            labels += rows.column(label).to_pylist() if label else []
    if count and spool.file.tell() == start:
        raise UserError(f"data.path={file}: its column {image} holds no contents of images; give files that do")
    return _Column(count, labels if label else None, _class_names(schema, label))


@contextmanager
def _opened(file: Path) -> Iterator[Any]:
    """Opens a Parquet file.

    Raises:
        UserError: pyarrow is not installed, or the file is damaged.
    """
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError:
        raise UserError(
            "data.name=parquet: pyarrow reads such files, and is not installed; pip install pyarrow, or install "
            "aemodels with its extra [parquet]"
        ) from None
    try:
        with ParquetFile(file, memory_map=True) as content:
            yield content
    except (ArrowException, OSError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"data.path={file}: cannot be read ({reason}); mend it, or fetch it again") from None


# ---------------------------------------------------------------- labels and splits


def _class_names(schema: Any, label: str) -> tuple[str, ...]:
    """Returns the names of the classes, which the hub's library keeps in the metadata of the columns."""
    with suppress(KeyError, ValueError, TypeError):  # another program's metadata, or none
        features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
        return tuple(map(str, features[label]["names"]))
    return ()


def _numbered(files: Sequence[Path], columns: Sequence[_Column]) -> tuple[Rows | None, tuple[str, ...]]:
    """Returns numbers of classes (N,) and their names, or none where there are no labels or one class.

    Raises:
        UserError: some images have no label, or files do not fit together.
    """
    for file, column in zip(files, columns, strict=True):
        if column.names != columns[0].names or (column.labels is None) != (columns[0].labels is None):
            raise UserError(
                f"data.path: {files[0]} and {file} have other classes; give files of one kind, as data.path=[...]"
            )
    labels = [label for column in columns for label in column.labels or ()]
    absent = sum(label is None or label == -1 for label in labels)  # the hub has -1 for labels that are kept secret
    if absent == len(labels):
        return None, ()
    if absent:
        where = next(file for file, column in zip(files, columns, strict=True) if {None, -1} & set(column.labels or ()))
        raise UserError(
            f"data.path: {absent:,} of {len(labels):,} images have no label, some in {where}; give only files with "
            "labels, as data.path=[...]"
        )
    if wrong := [label for label in labels if not isinstance(label, int | str)]:
        raise UserError(f"data.path: a label is {wrong[0]!r}; give whole numbers or names as labels")
    names = np.array(columns[0].names) if columns[0].names else None
    numbers, classes = numbered(np.array(labels), names, files[0])
    return (None, ()) if len(classes) == 1 else (numbers, classes)


def _given(files: Sequence[Path], counts: Sequence[int]) -> dict[str, Rows]:
    """Returns split -> the rows that are given for it by the names of their files; nothing if no file has such a name.

    Raises:
        UserError: some files are named by splits, and others not, or none of them for training.
    """
    splits = [_split(file) for file in files]
    known = set(splits) - {""}
    if len(known) < 2 and len(set(splits)) < 2:
        return {}
    if "train" not in known or "" in splits:
        other = next(file for file, split in zip(files, splits, strict=True) if split != "train")
        raise UserError(
            f"data.path: {other.name} is beside files of other splits, and "
            f"{'has no split in its name' if '' in splits else 'no file is named train-...'}; name each file by its "
            "split, such as train-1.parquet, or give only those that are meant, as data.path=[...]"
        )
    given: dict[str, list[Rows]] = {}
    for split, count, end in zip(splits, counts, accumulate(counts), strict=True):
        given.setdefault(split, []).append(np.arange(end - count, end))
    return {split: np.concatenate(rows) for split, rows in given.items() if split != "train"}


def _split(file: Path) -> str:
    """Returns the split that a file's name or its folder's begins with; "" where it is none."""
    # A folder such as test_images may well hold all of the images, so its name is not cut at an underscore.
    words = re.split(r"[-._]", file.name.lower())[0], re.split(r"[-.]", file.parent.name.lower())[0]
    return next((SPLIT_NAMES[word] for word in words if word in SPLIT_NAMES), "")
