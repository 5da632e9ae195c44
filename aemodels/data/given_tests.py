"""Puts all images of a person's folders in the place of a model's test images.

N images, each (C, H, W).
"""

from __future__ import annotations

import os
from collections import Counter
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from aemodels.config import UserError
from aemodels.data.decoding import Decoder
from aemodels.data.folder import FolderConfig
from aemodels.data.layout import not_read
from aemodels.data.notes import count, some, unreadable
from aemodels.data.own_images import fetched
from aemodels.data.prepared import FORMAT, PreparedData, finish_folder, opened, prepare_alone
from aemodels.data.source import Images, Rows, digest_of
from aemodels.data.stored_arrays import ArrayRecord, ArrayWriter
from aemodels.runtime.environment import cache_folder
from aemodels.runtime.progress import Progress, Steps


def with_test_images(own: PreparedData, config: FolderConfig, conditional: bool) -> Steps[PreparedData]:
    """Returns a model's own training and validation images, with all images of some folders as test images.

    Labels are matched with the model's classes by name. Images of other classes are left out for a conditional model;
    for another model there are no labels then.

    Raises:
        UserError: the images are missing, damaged, of another shape, or all of unknown classes.
    """
    work = f"preparing {config.title}"
    yield Progress(work, 0, 1, "looking for the images")
    kind = {1: "grey", 3: "colour"}[own.image_shape[0]]
    config = config.override({"val_path": [], "test_path": [], "channels": kind})
    source = fetched(config)
    key = digest_of([FORMAT, own.digest, conditional, config.model_dump(mode="json"), source.fingerprint])[:16]
    folder = cache_folder() / "prepared" / f"judged-{key}"
    if not folder.exists():
        yield from prepare_alone(folder, work, partial(_write, own, config, source.read(), conditional, work))
    return (yield from opened(folder, config, work))


class _Labels(NamedTuple):
    """Holds the model's class of each image, -1 for an image that is left out; none where there are no labels."""

    numbers: Rows | None  # (N,)
    unknown: Counter[str]


def _labels(own: PreparedData, images: Images, conditional: bool) -> _Labels:
    """Matches the images' classes with the model's by name."""
    number = {name: i for i, name in enumerate(own.classes)}
    if images.labels is None or not (conditional or set(images.classes) <= number.keys()):
        return _Labels(None, Counter())
    numbers = np.array([number.get(name, -1) for name in images.classes])[images.labels]
    return _Labels(numbers, Counter(images.classes[label] for label in images.labels[numbers < 0]))


def _write(
    own: PreparedData, config: FolderConfig, images: Images, conditional: bool, work: str, folder: Path
) -> Steps[None]:
    """Writes the test images; the other arrays are the model's own files."""
    if images.shape != own.image_shape:
        (_, height, width), (_, high, wide) = images.shape, own.image_shape
        size = high if high == wide else [high, wide]
        raise UserError(
            f"data.path: images of {width}x{height} pixels, the model takes {wide}x{high}; set data.image_size={size}"
        )
    labels = _labels(own, images, conditional)
    order = np.random.default_rng(config.split_seed).permutation(images.count)
    skipped: list[str] = []
    rows: list[int] = []
    with (
        closing(Decoder(images)) as decoder,
        ArrayWriter(folder / "test_images.npy", np.dtype(np.uint8), (images.count, *images.shape)) as writer,
    ):
        wanted = order if labels.numbers is None else order[labels.numbers[order] >= 0]
        for block in decoder.blocks(wanted):
            writer.append(block.pixels)
            rows += block.rows
            skipped += block.skipped
            yield Progress(work, len(rows), len(wanted), unreadable(skipped) if skipped else "")
        arrays = {"test_images.npy": writer.finish()}
    if not rows:
        raise UserError(
            f"data.path: none of the {images.count} images can be evaluated: their classes are "
            f"{some(images.classes)}, those of the model are {some(own.classes)}; rename the class folders"
        )
    if labels.numbers is not None:
        arrays["test_labels.npy"] = _write_labels(folder / "test_labels.npy", labels.numbers[rows])
    arrays |= _linked(own, folder, labels.numbers is not None)
    finish_folder(folder, _manifest(own, config, arrays, labels, skipped, images))


def _write_labels(file: Path, labels: Rows) -> ArrayRecord:
    with ArrayWriter(file, labels.dtype, labels.shape) as writer:
        writer.append(labels)
        return writer.finish()


def _linked(own: PreparedData, folder: Path, labelled: bool) -> dict[str, ArrayRecord]:
    """Links the training and validation arrays into the folder, so that they take no room twice."""
    kinds = ["images", "labels"] if labelled else ["images"]
    names = [f"{split}_{kind}.npy" for split in ("train", "val") for kind in kinds]
    for name in names:
        os.link(own.path / name, folder / name)
    known = own.manifest()["arrays"]
    return {name: ArrayRecord(**known[name]) for name in names}


def _manifest(
    own: PreparedData,
    config: FolderConfig,
    arrays: dict[str, ArrayRecord],
    labels: _Labels,
    skipped: list[str],
    images: Images,
) -> dict[str, object]:
    size = arrays["test_images.npy"].shape[0]
    reasons = [not_read(images.unused)] if images.unused else []
    reasons += [unreadable(skipped)] if skipped else []
    if labels.unknown:
        classes = [f"{name} ({number:,})" for name, number in labels.unknown.most_common()]
        reasons.append(f"{labels.unknown.total():,} of classes that the model does not know: {some(classes)}")
    total = images.count + sum(images.unused.values())
    grey = ["read as grey, as the model's own are"] if own.image_shape[0] == 1 else []
    told = [f"all {count(size, 'image', 'images')} of {config.title} are evaluated; train and val are the model's own"]
    told += [f"{count(total, 'file', 'files')}, {size:,} used; {', '.join(reasons)}"] if reasons else []
    return {
        "format": FORMAT,
        "name": config.name,
        "settings": config.model_dump(mode="json", exclude=set(config.not_in_digest)),
        "image_shape": own.image_shape,
        "classes": own.classes if labels.numbers is not None else (),
        "sizes": own.sizes | {"test": size},
        "arrays": {name: record._asdict() for name, record in arrays.items()},
        "source": [str(path) for path in config.path],
        "skipped": sorted(skipped),
        "notes": [*told, *grey, *images.notes],
    }
