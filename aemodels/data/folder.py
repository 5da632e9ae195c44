"""Reads a person's own images from folders, in which class folders or a CSV file give the labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np

from aemodels.data.class_folders import labels_of, with_classes
from aemodels.data.encoded import EncodedConfig, file_images
from aemodels.data.label_file import Labelled, content_of, labels_from
from aemodels.data.layout import Found, ImageFile, ending, find_files
from aemodels.data.paths import NoneOrWholePaths, WholePath, WholePaths
from aemodels.data.source import Beside, FileStamp, Images, Source, digest_of, fingerprint_by_content


class FolderConfig(EncodedConfig):
    """Holds the settings of image files in folders; `path/cat/1.png` has the label cat."""

    name: Literal["folder"] = "folder"
    """Chooses where the images come from."""
    path: WholePaths
    """Names the folder of the images, or a list of folders; class folders of the same name in several are one class.

    Folders named train, val and test in it are its splits."""
    val_path: NoneOrWholePaths = ()
    """Names folders of validation images; without any, they are drawn from the training images."""
    test_path: NoneOrWholePaths = ()
    """Names folders of test images; without any, they are drawn from the training images."""
    labels: WholePath | None = None
    """Names a CSV file of files and labels, which takes the place of class folders.

    A file is named from the folder of the CSV file, or else from a folder of the images."""

    not_in_digest: ClassVar[frozenset[str]] = EncodedConfig.not_in_digest | {"path", "val_path", "test_path", "labels"}
    in_splits: ClassVar[frozenset[str]] = EncodedConfig.in_splits | {"val_path", "test_path"}
    in_reading: ClassVar[frozenset[str]] = EncodedConfig.in_reading | {"labels"}

    @property
    def title(self) -> str:
        return " and ".join(path.name for path in self.path)

    @property
    def folders(self) -> tuple[Path, ...]:
        """Returns the folders of all splits."""
        return (*self.path, *self.val_path, *self.test_path)

    def find(self) -> Found:
        """Returns the images in the folders, and what else lies there.

        Raises:
            UserError: a folder does not exist, has no images or lies in another one, or is no clear layout.
        """
        found = find_files(self.path, self.val_path, self.test_path)
        return with_classes(found) if self.labels is None else found

    def fetch(self) -> Source:
        found = self.find()
        labelled = _labelled(self, found.files)
        origin = tuple(map(str, self.folders))
        known = fingerprint_by_content(FileStamp(file.path, file.bytes, file.mtime_ns) for file in found.files)
        if self.labels is not None:
            origin = (*origin, str(self.labels))
            known = digest_of([known, str(self.labels), content_of(self.labels)])
        return Source(origin, known, partial(_read, self, labelled), _beside(self, found, len(labelled.files)))

    def with_folders(self, folders: Sequence[Path]) -> FolderConfig:
        """Returns these images with those of other folders; folders that lie in these already change nothing.

        Raises:
            UserError: they do not fit together.
        """
        more = [folder for folder in folders if not self.holds(folder)]
        joined = self.override({"path": [*map(str, self.path), *map(str, more)]})
        _labelled(joined, joined.find().files)
        return joined

    def holds(self, path: Path) -> bool:
        """Tells whether a file or folder lies in one of these folders."""
        return any(path.resolve().is_relative_to(folder.resolve()) for folder in self.folders)


def _read(config: FolderConfig, labelled: Labelled) -> Images:
    files, labels, classes = labelled
    splits = np.array([file.split for file in files])
    return replace(
        file_images(config, [file.path for file in files], labels, classes),
        given={split: np.flatnonzero(splits == split) for split in ("val", "test") if (splits == split).any()},
    )


def _labelled(config: FolderConfig, files: list[ImageFile]) -> Labelled:
    if config.labels is None:
        return Labelled(files, *labels_of(files))
    return labels_from(config.labels, files, config.on_error == "skip")


def _beside(config: FolderConfig, found: Found, used: int) -> Beside:
    """Counts what is not read; that are images without a label too, but not the file of the labels."""
    unused = found.unused.files + Counter({"without a label": len(found.files) - used})
    if config.labels is None:
        return Beside(unused, (*found.notes, *found.class_notes))
    if config.holds(config.labels):
        unused -= Counter({ending(config.labels.name): 1})
    return Beside(unused, tuple(found.notes))
