"""Decides which classes images have, by the names of the class folders that they lie in.

N images.
"""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet

import numpy as np

from aemodels.config import UserError
from aemodels.data.layout import Found, ImageFile
from aemodels.data.source import Rows


def labels_of(files: Sequence[ImageFile]) -> tuple[Rows | None, tuple[str, ...]]:
    """Returns numbers of classes (N,) and their names, or none where there are no class folders."""
    names = {file.label: file for file in files}
    if names.keys() == {""}:
        return None, ()
    if "" in names:
        inside = next(file for label, file in names.items() if label)
        raise UserError(
            f"data.path: {names[''].path} has no class folder and {inside.path} has one; "
            "move all images into class folders, or none"
        )
    classes = tuple(sorted(names))
    number = {name: i for i, name in enumerate(classes)}
    return np.array([number[file.label] for file in files], dtype=np.int64), classes


def with_classes(found: Found) -> Found:
    """Takes all labels away where the images of a given split have none, or those of training; notes doubtful names.

    Nothing could be learned of labels that only given images have, and nothing be told by those of training alone.

    Raises:
        UserError: the images of a given split are a class folder of the training images.
    """
    found.class_notes.extend(_written_alike({file.label for file in found.files}))
    labelled: dict[str, bool] = {}
    for file in found.files:
        labelled[file.split] = labelled.get(file.split, False) or file.label != ""
    with_labels, without = ([split for split, has in labelled.items() if has == wanted] for wanted in (True, False))
    if not with_labels or not without:
        return found
    _check_no_class_is_given(found.files)
    named = sorted({file.label for file in found.files} - {""})
    some = ", ".join(named[:3]) + (", ..." if len(named) > 3 else "")
    bare, given = ("training" if "train" in without else " and ".join(without)), " and ".join(with_labels)
    note = f"the {bare} images are in no class folders, so the class folders of {given} ({some}) give no labels"
    if "train" not in without:
        note += "; to keep the classes, give data.path the folder of the training images alone"
    files = [file._replace(label="") for file in found.files]
    return found._replace(files=files, class_notes=[*found.class_notes, note])


def _written_alike(classes: AbstractSet[str]) -> list[str]:
    """Says which classes have names that differ in capital letters alone, since they may be meant as one."""
    same: dict[str, list[str]] = {}
    for name in sorted(classes):
        same.setdefault(name.casefold(), []).append(name)
    return [
        f"{' and '.join(names)} are {len(names)} classes; give them one name if they are meant as one"
        for names in same.values()
        if len(names) > 1
    ]


def _check_no_class_is_given(files: Sequence[ImageFile]) -> None:
    """Refuses validation or test images that are a class folder of the training images.

    Raises:
        UserError: they are one.
    """
    given = {(file.split, file.folder) for file in files if file.split != "train" and not file.label}
    outer = {file.folder for file in files if file.split == "train" and file.label}
    for split, inner in sorted(given):
        for folder in sorted(outer - {inner}):
            if inner.resolve().is_relative_to(folder.resolve()):
                raise UserError(
                    f"data.{split}_path={inner}: lies inside data.path={folder}, among its class folders; "
                    "give a folder beside it, with class folders of its own"
                )
