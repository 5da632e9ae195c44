"""Puts all images that a person gives in the place of a model's test images.

N images, each (C, H, W).
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Iterable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from aemodels.config import UserError
from aemodels.data.decoding import Decoder, Skipped, key_of
from aemodels.data.encoded import EncodedConfig
from aemodels.data.folder import FolderConfig
from aemodels.data.notes import count, counted, some, unreadable
from aemodels.data.own_images import fetched
from aemodels.data.prepared import FORMAT, PreparedData, finish_folder, hashed_part, opened, prepare_alone
from aemodels.data.source import Images, Rows, Source, SourceConfig, digest_of
from aemodels.data.stored_arrays import ArrayRecord, ArrayWriter, write_array
from aemodels.runtime.environment import cache_folder
from aemodels.runtime.progress import Progress, Steps

GONE = (
    "the images of the model's training are gone from the cache: what is measured beside them is left out, and whether "
    "it was trained on some of these images cannot be told"
)


class Expected(NamedTuple):
    """Holds what a model expects of images, and the data that it was trained on."""

    image_shape: tuple[int, int, int]
    classes: tuple[str, ...]
    conditional: bool
    own: PreparedData | None  # None if they are gone


def with_test_images(expected: Expected, config: SourceConfig) -> Steps[PreparedData]:
    """Returns all images of a person's own source as test images, beside a model's own training and validation images.

    Images among those that the model was trained or validated on are left out, as they say nothing of new ones. Labels
    are matched with the model's classes by name. Images of other classes are left out for a conditional model; for
    another model there are no labels then, and a note says so. Where the model's own data are gone, there are test
    images only.

    Raises:
        UserError: the images are missing, damaged, of another shape, all of unknown classes, or all the model's own.
    """
    work = f"preparing {config.title}"
    yield Progress(work, 0, 1, "looking for the images")
    if isinstance(config, EncodedConfig):
        config = config.override({"channels": {1: "grey", 3: "colour"}[expected.image_shape[0]]})
    if isinstance(config, FolderConfig):
        config = config.override({"val_path": [], "test_path": []})
    source = fetched(config)
    own = expected.own.digest if expected.own is not None else expected.classes
    kind = [FORMAT, own, expected.image_shape, expected.conditional]
    key = digest_of([*kind, config.model_dump(mode="json"), source.fingerprint])[:16]
    folder = cache_folder() / "prepared" / f"evaluated-{key}"
    if not folder.exists():
        yield from prepare_alone(folder, work, partial(_write, expected, config, source, work))
    return (yield from opened(folder, config, work, source.beside))


def keys_of(data: PreparedData, splits: Iterable[str]) -> frozenset[int]:
    """Returns the hashes of the pixels of all images in some splits."""
    return frozenset(key_of(image) for split in splits for image in data.split(split).images)


class _Labels(NamedTuple):
    """Holds the model's class of each image, -1 for an image that is left out; none where there are no labels."""

    numbers: Rows | None  # (N,)
    unknown: Counter[str]  # class that the model does not know -> how many images are of it

    @property
    def named(self) -> str:
        """Names the first classes that the model does not know, and counts their images."""
        return some([f"{name} ({number:,})" for name, number in self.unknown.most_common()])


def _labels(expected: Expected, images: Images) -> _Labels:
    """Matches the images' classes with the model's by name."""
    number = {name: i for i, name in enumerate(expected.classes)}
    if images.labels is None:
        return _Labels(None, Counter())
    numbers = np.array([number.get(name, -1) for name in images.classes])[images.labels]
    unknown = Counter(images.classes[label] for label in images.labels[numbers < 0])
    return _Labels(numbers if expected.conditional or not unknown else None, unknown)


class _Used(NamedTuple):
    """Holds which images are evaluated, and which are not."""

    rows: list[int]
    labels: _Labels
    skipped: list[Skipped]
    known: int  # images that the model was trained or validated on
    brightest: int  # the highest value of all pixels


def _write(expected: Expected, config: SourceConfig, source: Source, work: str, folder: Path) -> Steps[None]:
    """Writes the test images; the other arrays are the model's own files."""
    images = source.read()
    _check_shape(expected.image_shape, images.shape)
    used = _Used([], _labels(expected, images), [], 0, 0)
    order = np.random.default_rng(config.split_seed).permutation(images.count)
    own = frozenset[int]() if expected.own is None else keys_of(expected.own, ("train", "val"))
    numbers = used.labels.numbers
    wanted = order if numbers is None else order[numbers[order] >= 0]
    with (
        closing(Decoder(images)) as decoder,
        ArrayWriter(folder / "test_images.npy", np.dtype(np.uint8), (images.count, *images.shape)) as writer,
    ):
        done = 0
        for block in decoder.blocks(wanted):
            new = np.array([key not in own for key in block.keys.tolist()], np.bool_)
            pixels = block.pixels[new]
            writer.append(pixels)
            used.rows.extend(np.asarray(block.rows)[new].tolist())
            used.skipped.extend(block.skipped)
            brightest = max(used.brightest, int(pixels.max(initial=0)))
            used = used._replace(known=used.known + int((~new).sum()), brightest=brightest)
            done += block.done
            yield Progress(work, done, len(wanted), unreadable(used.skipped) if used.skipped else "")
        arrays = {"test_images.npy": writer.finish()}
    if not used.rows:
        raise UserError(_none_left(expected, images, used))
    if numbers is not None:
        arrays["test_labels.npy"] = write_array(folder / "test_labels.npy", numbers[used.rows])
    arrays |= _of_training(expected, folder, numbers is not None)
    manifest = _manifest(expected, config, arrays, used, images)
    finish_folder(folder, manifest | {"source": source.origin, "beside": source.beside._asdict()})


def _check_shape(expected: tuple[int, int, int], found: tuple[int, int, int]) -> None:
    """Checks that images have the shape (C, H, W) that a model takes.

    Raises:
        UserError: they have another one.
    """
    (channels, high, wide), (given, height, width) = expected, found
    if (high, wide) != (height, width):
        size = high if high == wide else [high, wide]
        raise UserError(
            f"data.path: images of {width}x{height} pixels, the model takes {wide}x{high}; set data.image_size={size}"
        )
    if channels != given:
        kinds = {1: "grey", 3: "colour"}
        raise UserError(f"data.path: {kinds[given]} images, the model takes {kinds[channels]} ones; give such images")


def _none_left(expected: Expected, images: Images, used: _Used) -> str:
    """Says why none of the images can be evaluated."""
    if used.known:
        return (
            f"all {used.known:,} images are among those that the model was trained or validated on, and say nothing "
            "of new ones; give others, or none for the model's own test images"
        )
    return (
        f"data.path: none of the {images.count} images can be evaluated: their classes are {some(images.classes)}, "
        f"those of the model are {some(expected.classes)}; rename the class folders"
    )


def _of_training(expected: Expected, folder: Path, labelled: bool) -> dict[str, ArrayRecord]:
    """Links the training and validation arrays into the folder, so that they take no room twice.

    They are empty where the model's own data are gone.
    """
    own, kinds = expected.own, ["images", "labels"] if labelled else ["images"]
    names = [f"{split}_{kind}.npy" for split in ("train", "val") for kind in kinds]
    if own is None:
        no_images, no_labels = np.empty((0, *expected.image_shape), np.uint8), np.empty(0, np.int64)
        return {name: write_array(folder / name, no_images if "images" in name else no_labels) for name in names}
    for name in names:
        _link(own.path / name, folder / name)
    known = own.manifest()["arrays"]
    return {name: ArrayRecord(**known[name]) for name in names}


def _link(file: Path, name: Path) -> None:
    """Gives a file another name, or copies it where the file system or the file's owner allows no links."""
    try:
        os.link(file, name)
    except OSError:
        shutil.copyfile(file, name)


def _manifest(
    expected: Expected, config: SourceConfig, arrays: dict[str, ArrayRecord], used: _Used, images: Images
) -> dict[str, object]:
    evaluated = arrays["test_images.npy"].shape[0]
    known = f"{used.known:,} are among those that the model was trained or validated on" if used.known else ""
    reasons = [unreadable(used.skipped)] if used.skipped else []
    reasons += [known] if known else []
    labels, unknown = used.labels.numbers, used.labels.unknown.total()
    if unknown and labels is not None:
        reasons.append(f"{unknown:,} of classes that the model does not know: {used.labels.named}")
    notes = []
    if unknown and labels is None and expected.classes:
        lost = "so there are no labels, and what needs labels is left out"
        notes.append(f"the model does not know {used.labels.named}, {lost}")
    if expected.image_shape[0] == 1 and images.files:
        notes.append("read as grey, as the model's own are")
    own = "train and val are the model's own" if expected.own is not None else GONE
    verb = "is" if evaluated == 1 else "are"
    told = f"{count(evaluated, 'image', 'images')} of {config.title} {verb} evaluated; {own}"
    classes = expected.classes if labels is not None else ()
    return hashed_part(config, expected.image_shape, classes, arrays) | {
        "skipped": sorted(file for file, _ in used.skipped),
        "notes": [told, *notes],
        "brightest": used.brightest,
        "counted": counted(images, evaluated, reasons),
        "doubt": f"of {images.count:,} images {known}, and are left out" if known else ("" if expected.own else GONE),
    }
