"""Makes the sets of a collection that have a known order, and keeps the features of each in each view.

Sets whose pixels differ have features of their own; a set that only leaves out or repeats images has rows of those.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from aemodels.data import PreparedData
from aemodels.runtime.files import write_whole
from benchmarks.judge import models
from benchmarks.judge.collections import Parts, as_pixels
from benchmarks.judge.degradations import DEGRADATIONS, Rows, clusters, copies, degraded, memorised, missing
from benchmarks.judge.views import View

REFERENCE, REAL, TRAINING = "reference", "real", "training"
MEMORISING = "memorised"  # copies of training images, which are real images to any distance
COUNTED = (*DEGRADATIONS, "copies", "missing", *models.ORDERED)
SHOWN = (MEMORISING, *models.UNSURE)  # groups that do not count, as their order is not known


class Sets(NamedTuple):
    """Holds the images of a collection, from which its sets are made."""

    parts: Parts
    data: PreparedData  # of training
    folder: Path  # where samples and features are kept

    def images(self, name: str, count: int) -> Tensor:
        """Returns the images of a set whose pixels are its own, such as "real", "blur 2" or "vae 100"."""
        if name == REFERENCE:
            return as_pixels(self.parts.reference[:count])
        if name == REAL:
            return as_pixels(self.parts.others[:count])
        if name == TRAINING:
            return as_pixels(self.parts.training[-count:])
        if name in models.SYSTEMS:
            most = len(self.parts.reference)
            return as_pixels(models.samples(name, self.data, most, self.folder / "samples")[:count])
        kind, _, level = name.partition(" ")
        return degraded(as_pixels(self.parts.others[:count]), kind, int(level))

    def features(self, name: str, count: int, view_name: str, view: Callable[[], View]) -> Tensor:
        """Returns the features of a set in a view, computed once."""
        file = self.folder / "features" / f"{self.data.digest}-{view_name}-{name.replace(' ', '-')}-{count}.npy"
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            found = view()(self.images(name, count))
            write_whole(file, lambda path: _write(path, found))
        return torch.from_numpy(np.load(file).astype(np.float32))


def _write(path: Path, features: Tensor) -> None:
    with path.open("wb") as file:
        np.save(file, features.numpy().astype(np.float16))


def names() -> list[str]:
    """Returns the names of all sets whose pixels are their own."""
    degradations = [f"{kind} {level}" for kind in DEGRADATIONS for level in levels(kind)]
    return [REFERENCE, REAL, TRAINING, *degradations, *models.SYSTEMS]


def levels(kind: str) -> range:
    """Returns the levels of a degradation, from 1."""
    return range(1, len(DEGRADATIONS[kind].strengths) + 1)


class Chosen(NamedTuple):
    """A set is all images of a name, or some rows of other real images, after which come those of training."""

    name: str
    rows: Rows | None = None


def group(name: str, parts: Parts, count: int, labelled: bool) -> list[Chosen]:
    """Returns the sets of a group, the nearest to the reference first."""
    if name in models.GROUPS:
        return [Chosen(system) for system in models.GROUPS[name]]
    if name in DEGRADATIONS:
        return [Chosen(REAL), *(Chosen(f"{name} {level}") for level in levels(name))]
    if name == "copies":
        return [Chosen(REAL, rows) for rows in copies(count)]
    if name == "missing":
        kinds = parts.labels[:count] if labelled else clusters(parts.others[:count])
        return [Chosen(REAL, rows) for rows in missing(kinds)]
    return [Chosen(MEMORISING, rows) for rows in memorised(count)]


def across() -> list[tuple[Chosen, Chosen]]:
    """Returns pairs of other kinds: what is hardly visible of one, and the ruin of another.

    Where pieces are shuffled, there is no level that is hardly visible.
    """
    return [
        (Chosen(f"{low} 1"), Chosen(f"{high} {levels(high)[-1]}"))
        for low in DEGRADATIONS
        for high in DEGRADATIONS
        if low not in (high, "shuffled")
    ]
