"""Reads the labels of image files from a CSV file, in place of class folders."""

from __future__ import annotations

import csv
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import NamedTuple

import numpy as np

from aemodels.config import OwnWarning, UserError
from aemodels.data.layout import ImageFile
from aemodels.data.source import Rows

COLUMNS = ("file", "label")
NAMED = 3  # examples in a message


class Labelled(NamedTuple):
    """Holds the image files that have a label, and their labels."""

    files: list[ImageFile]  # N
    labels: Rows | None  # (N,), numbers of classes; None if there is but one class, which would tell nothing
    classes: tuple[str, ...]


class _Row(NamedTuple):
    """Holds what one line of the file says."""

    line: int
    file: str
    label: str


def labels_from(table: Path, files: Sequence[ImageFile], leave_out: bool) -> Labelled:
    """Returns the labels that a table of files and labels gives to image files; folders of classes mean nothing.

    A file is named from the table's own folder, or else from a folder of the images. A warning counts the rows that
    name no image.

    Args:
        leave_out: leaves out images without a label, with a warning; they are refused otherwise.

    Raises:
        UserError: the table cannot be read, names no image, or contradicts itself, or images have no label.
    """
    found, without = _matched(table, files)
    if not found:
        such = f", such as {without[0]}" if without else ""
        raise UserError(
            f"data.labels={table}: none of its {len(without):,} rows{such} names one of the {len(files):,} images, "
            f"such as {files[0].name}; write names with their endings, from the folder of the table or of the images"
        )
    if without:
        _warn(table, f"{len(without):,} of its rows name no image ({_some(without)}) and are not used")
    bare = [file.name for file in files if not found.get(file.path)]
    if bare and not leave_out:
        raise UserError(
            f"data.labels={table}: {len(bare):,} of {len(files):,} images have no label there ({_some(bare)}); "
            "add them, or set data.on_error=skip to leave such images out"
        )
    if bare:
        _warn(table, f"{len(bare):,} of {len(files):,} images have no label there ({_some(bare)}) and are left out")
    kept = [file for file in files if found.get(file.path)]
    if not kept:
        raise UserError(f"data.labels={table}: all its labels are empty; give each image one")
    return _numbered(kept, found)


def content_of(table: Path) -> str:
    """Returns the text of a table, of which a change is noticed.

    Raises:
        UserError: there is no such file, or it is no text in UTF-8.
    """
    try:
        return table.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(
            f"data.labels={table}: cannot be read ({error.strerror}); give a CSV file with the columns file and label"
        ) from None
    except UnicodeDecodeError as error:
        raise UserError(f"data.labels={table}: is no text in UTF-8 ({error.reason}); save it as CSV in UTF-8") from None


def _rows(table: Path) -> Iterator[_Row]:
    """Yields what the lines of a table say; where its first line names file and label, it may have other columns.

    Raises:
        UserError: a line has too few columns, or too many without such a first line.
    """
    reader = csv.reader(StringIO(content_of(table)))
    places, width = (0, 1), 2
    try:
        for number, cells in enumerate(reader):
            head = [cell.strip().lower() for cell in cells]
            if number == 0 and set(COLUMNS) <= set(head):
                places, width = (head.index("file"), head.index("label")), 0
            elif any(head):
                if len(cells) <= max(places) or (width and len(cells) != width):
                    raise UserError(
                        f"data.labels={table}: line {reader.line_num} has {len(cells)} columns; give two, file and "
                        "label, with a comma between them, or name them so in the first line"
                    )
                yield _Row(reader.line_num, *(cells[place].strip() for place in places))
    except csv.Error as error:
        raise UserError(f"data.labels={table}: line {reader.line_num} is no CSV ({error}); mend it") from None


def _matched(table: Path, files: Sequence[ImageFile]) -> tuple[dict[str, str], list[str]]:
    """Returns path -> label of the files that the table names, and the names that are none of them.

    Raises:
        UserError: a name may mean two files, or a file has two labels.
    """
    paths = {file.path for file in files}
    bases = {str(file.folder) for file in files}
    found: dict[str, str] = {}
    without: list[str] = []
    for line, name, label in _rows(table):
        own = os.path.normpath(table.parent / name)
        named = {own} & paths or {os.path.normpath(os.path.join(base, name)) for base in bases} & paths
        if len(named) > 1:
            raise UserError(
                f"data.labels={table}: line {line}: {name} may be {' or '.join(sorted(named)[:2])}; "
                "write its whole path"
            )
        for path in named:
            if found.setdefault(path, label) != label:
                raise UserError(
                    f"data.labels={table}: line {line}: {name} is {label!r} and was {found[path]!r} before; give one"
                )
        if not named:
            without.append(name)
    return found, without


def _numbered(files: list[ImageFile], found: Mapping[str, str]) -> Labelled:
    classes = tuple(sorted({found[file.path] for file in files}))
    if len(classes) == 1:
        return Labelled(files, None, ())
    number = {name: i for i, name in enumerate(classes)}
    return Labelled(files, np.array([number[found[file.path]] for file in files], dtype=np.int64), classes)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:NAMED]) + (" ..." if len(names) > NAMED else "")


def _warn(table: Path, text: str) -> None:
    warnings.warn(f"data.labels={table}: {text}", OwnWarning, stacklevel=2)
