"""Finds the images in a person's folders, and the splits and classes that the folders' names give."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import NamedTuple

from aemodels.config import UserError
from aemodels.data.image_decoding import SUFFIXES

SPLIT_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
# Folders that systems and programs make, in small letters; those whose names begin with a dot are of this kind too.
TOOL_FOLDERS = frozenset(
    ("@eadir", "__macosx", "#recycle", "$recycle.bin", "system volume information", "lost+found", "__pycache__")
)
HIDDEN = "hidden"


class ImageFile(NamedTuple):
    """Names an image file in one of the given folders."""

    folder: Path
    name: str  # below the folder
    bytes: int
    mtime_ns: int
    split: str = "train"  # val and test are drawn from train where they are not given
    label: str = ""  # the name of the class folder; "" for an image that lies in none

    @property
    def path(self) -> str:
        return f"{self.folder}/{self.name}"


class Unused(NamedTuple):
    """Counts what lies in folders and is not read."""

    files: Counter[str]  # by ending, such as .heic
    folders: Counter[str]  # folders of tools, by name


class Found(NamedTuple):
    """Holds the images in some folders, what else lies there, and what their names were taken for."""

    files: list[ImageFile]
    unused: Unused
    notes: list[str]
    class_notes: list[str]  # those that hold where the folders' names give the classes


def find_files(folders: Sequence[Path], val: Sequence[Path] = (), test: Sequence[Path] = ()) -> Found:
    """Returns all images below the folders, in the order of their names; `val` and `test` hold those given for it.

    Raises:
        UserError: a folder does not exist, has no images or lies in another one, or is no clear layout.
    """
    found = Found([], Unused(Counter(), Counter()), [], [])
    given = {"path": folders, "val_path": val, "test_path": test}
    _check_apart(given)
    apart = frozenset(folder.resolve() for folder in (*val, *test))
    for key, several in given.items():
        for folder in several:
            images = _images_in(folder, key, apart - {folder.resolve()}, found.unused)
            where = f"{folder.name}: " if sum(map(len, given.values())) > 1 else ""
            if key == "path":
                images = _understood(folder, images, where, found)
                _check_given_once(folder, images, given)
            else:
                images = [file._replace(split=key.removesuffix("_path")) for file in _labelled(images, 0)]
                found.class_notes.extend(_deeper(images, where, 0))
            found.files.extend(images)
    found.notes.extend(_left_out(found.unused.folders))
    return found


def _check_apart(given: Mapping[str, Sequence[Path]]) -> None:
    """Refuses a folder that lies in another; only val_path and test_path may lie in path, which then is without them.

    Raises:
        UserError: one does.
    """
    real = [(key, folder, folder.resolve()) for key, several in given.items() for folder in several]
    for i, (inner_key, folder, inner) in enumerate(real):
        for j, (key, _, outer) in enumerate(real):
            within = inner.is_relative_to(outer) if key == inner_key or key != "path" else inner == outer
            if i != j and within:
                raise UserError(
                    f"data.{inner_key}: {folder} is given twice or lies in another of the folders; give it once"
                )


def _check_given_once(folder: Path, images: Sequence[ImageFile], given: Mapping[str, Sequence[Path]]) -> None:
    for split in {file.split for file in images} - {"train"}:
        if given[f"{split}_path"]:
            raise UserError(
                f"data.{split}_path={given[f'{split}_path'][0]}: {folder} has a folder for {split} too; give one"
            )


def _images_in(folder: Path, key: str, apart: AbstractSet[Path], unused: Unused) -> list[ImageFile]:
    """Returns the images below a folder, not yet with splits and classes, and counts what else is there."""
    found = sorted(_walk_checked(folder, key, apart, unused), key=lambda file: file.name)
    images = [file for file in found if is_image(file.name)]
    if not images:
        other = f" ({len(found)} other files, such as {found[0].name})" if found else ""
        raise UserError(f"data.{key}={folder}: no images in it{other}; give the folder of the images")
    unused.files.update(ending(file.name) for file in found if not is_image(file.name))
    return images


def is_image(name: str) -> bool:
    """Tells by its name whether a file is an image."""
    return name.lower().endswith(SUFFIXES)


def ending(name: str) -> str:
    """Returns the kind of a file as a person reads it: its ending, in small letters."""
    return os.path.splitext(name)[1].lower() or "without ending"


# ---- what the names of folders mean


def _understood(folder: Path, images: list[ImageFile], where: str, found: Found) -> list[ImageFile]:
    """Returns the images with their splits and classes, without those that lie beside folders of splits."""
    depth = _wrappers(images)
    if depth:
        wrapper = "/".join(images[0].name.split("/")[:depth])
        found.notes.append(f"{where}{wrapper} is the only folder and was entered")
    names = {part: SPLIT_NAMES.get(part.lower(), "") for part in _folders_at(images, depth)}
    splits = set(names.values()) - {""}
    if len(splits) > 1 and "train" not in splits:
        raise UserError(
            f"data.path={folder}: has {' and '.join(sorted(filter(names.get, names)))} and no folder train; "
            "move the images that are to be trained on into a folder train"
        )
    if len(splits) > 1:
        return _given(images, depth, names, where, found)
    for name in filter(names.get, names):  # such as a class of locomotives, named train
        found.class_notes.append(
            f"{where}{name} lies beside other class folders and was taken for a class; "
            "if it is a split, move the others into a folder train"
        )
    labelled = _labelled(images, depth)
    found.class_notes.extend(_deeper(labelled, where, depth))
    return labelled


def _given(images: list[ImageFile], depth: int, names: Mapping[str, str], where: str, found: Found) -> list[ImageFile]:
    """Returns the images of the folders train, val and test; what lies beside them is left out, and counted."""
    used, beside = [], Counter[str]()
    for file in _labelled(images, depth + 1):
        parts = file.name.split("/")
        split = names[parts[depth]] if len(parts) > depth + 1 else ""
        if split:
            used.append(file._replace(split=split))
        else:
            beside[parts[depth] if len(parts) > depth + 1 else "no folder"] += 1
    for name, count in sorted(beside.items()):
        found.unused.files[f"in {name} (beside the splits)"] += count
    found.class_notes.extend(_deeper(used, where, depth + 1))
    return used


def _wrappers(images: Sequence[ImageFile]) -> int:
    """Returns how many folders lie around everything: each is the only one at its place, and no image is beside it.

    The last folder around the images stays, as it may be a class, unless it has the name of a split.
    """
    depth = 0
    while True:
        parts = [file.name.split("/", depth + 2) for file in images]
        around = {part[depth] for part in parts if len(part) > depth + 1}
        if len(around) != 1 or any(len(part) == depth + 1 for part in parts):
            return depth
        if any(len(part) == depth + 2 for part in parts) and around.pop().lower() not in SPLIT_NAMES:
            return depth
        depth += 1


def _folders_at(images: Sequence[ImageFile], depth: int) -> list[str]:
    parts = (file.name.split("/", depth + 1) for file in images)
    return sorted({part[depth] for part in parts if len(part) > depth + 1})


def _labelled(images: Sequence[ImageFile], depth: int) -> list[ImageFile]:
    """Returns the images with their classes: the names of the folders so many levels below the given one."""
    labelled = []
    for file in images:
        parts = file.name.split("/", depth + 1)
        label = unicodedata.normalize("NFC", parts[depth]) if len(parts) > depth + 1 else ""
        try:
            label.encode()
        except UnicodeEncodeError:
            raise UserError(
                f"data.path={file.folder}: the name of the class folder {label} is no UTF-8; rename the folder"
            ) from None
        labelled.append(file._replace(label=label))
    return labelled


def _deeper(images: Sequence[ImageFile], where: str, depth: int) -> Iterator[str]:
    """Yields a sentence if there are folders in class folders."""
    parents = {os.path.dirname(file.name) for file in images}
    deeper = sorted(name for name in parents if name.count("/") > depth)
    if deeper:
        verb = "folder belongs to its class" if len(deeper) == 1 else "folders belong to their classes"
        yield f"{where}{len(deeper):,} deeper {verb}, such as {deeper[0]}"


def _left_out(folders: Mapping[str, int]) -> Iterator[str]:
    for name, count in sorted(folders.items()):
        yield f"{count:,} {'folder' if count == 1 else 'folders'} {name} left out"


# ---- the walk


def _walk_checked(folder: Path, key: str, apart: AbstractSet[Path], unused: Unused) -> list[ImageFile]:
    if not folder.exists():
        raise UserError(f"data.{key}={folder}: there is no such folder; give the folder of the images")
    if not folder.is_dir():
        raise UserError(f"data.{key}={folder}: is a file; give the folder that it lies in")
    try:
        return list(walk(folder, unused, apart))
    except PermissionError as error:
        where = error.filename or folder
        raise UserError(
            f"data.{key}={folder}: {where} cannot be read ({error.strerror}); give read permission"
        ) from None


def walk(folder: Path, unused: Unused, apart: AbstractSet[Path] = frozenset()) -> Iterator[ImageFile]:
    """Yields all files below a folder, and counts what is hidden and what tools made.

    Args:
        apart: folders, resolved, that are read by themselves.
    """
    yield from _walk(folder, folder, "", apart, unused)


def _walk(folder: Path, inner: Path, prefix: str, above: AbstractSet[Path], unused: Unused) -> Iterator[ImageFile]:
    """Yields the files; links are followed, but not in circles."""
    real = inner.resolve()
    if real in above:
        return
    with os.scandir(inner) as entries:
        for entry in entries:
            if entry.is_dir():
                if entry.name.startswith(".") or entry.name.lower() in TOOL_FOLDERS:
                    unused.folders[entry.name] += 1
                else:
                    yield from _walk(folder, Path(entry.path), f"{prefix}{entry.name}/", above | {real}, unused)
            elif entry.name.startswith("."):
                unused.files[HIDDEN] += 1
            elif entry.is_file():
                stat = entry.stat()
                yield ImageFile(folder, prefix + entry.name, stat.st_size, stat.st_mtime_ns)


# ---- in words


def not_read(files: Mapping[str, int]) -> str:
    """Names the files that are not read by their kinds, most first: "20 .heic and 1 .txt not read"."""
    kinds = sorted(files.items(), key=lambda kind: (-kind[1], kind[0]))
    *most, last = [f"{count:,} {kind}" for kind, count in kinds]
    return f"{', '.join(most)} and {last} not read" if most else f"{last} not read"
