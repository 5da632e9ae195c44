"""Decides to which split each image belongs: the one that it was given for, or one that is drawn.

A person's images are drawn by their content: a hash of the pixels and of the seed is a number in [0, 1), and the lowest
ones are test images. So an image that is added later moves no other one, and copies of an image stay together.

N images of a source, n that were read, D different contents, K classes.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from aemodels.config import UserError
from aemodels.data.source import Images, Rows, split_rows, too_few

SPLITS = ("train", "val", "test")
TRAIN, LEFT_OUT, OPEN = 0, -1, -2  # numbers beside those of the splits: of no split, and not decided yet

Keys = NDArray[np.uint64]
Numbers = NDArray[np.int8]  # numbers of splits
Places = NDArray[np.float64]


class Drawn(NamedTuple):
    """Holds the split of each image that was read, and what was noticed."""

    splits: Numbers  # (n,), numbers of SPLITS; LEFT_OUT for a copy of an image that was given for another split
    left_out: Counter[str]  # given split -> how many copies of its images are left out of others
    copies: int  # images that have the pixels of others in the same split
    two_labels: Counter[tuple[str, str]]  # two classes -> how many contents have both


class Draw:
    """Tells in which order the images are read, and then the split of each."""

    def __init__(self, images: Images, shares: Mapping[str, float], seed: int) -> None:
        """Takes the shares of the splits that are to be drawn, unless they were given.

        Raises:
            UserError: too few images for a split to have any.
        """
        self.images, self.seed = images, seed
        self.shares = {split: share for split, share in shares.items() if split not in images.given}
        self.known = np.full(images.count, OPEN, np.int8)  # (N,)
        splits = self._given() if images.by_content else split_rows(images, shares, seed)
        for split, rows in splits.items():
            self.known[rows] = SPLITS.index(split)
        rest = np.random.default_rng([seed, 1]).permutation(np.flatnonzero(self.known == OPEN))
        if images.by_content and self.shares and min(self.shares.values()) * len(rest) < 1 - 1e-9:
            raise too_few(len(rest), self.shares)
        self.order = np.concatenate([*splits.values(), rest])  # (N,)

    def _given(self) -> dict[str, Rows]:
        """Returns given split -> rows: of files, which lie class by class, in a seeded random order."""
        rng = np.random.default_rng(self.seed)
        given = {split: self.images.given[split] for split in ("test", "val") if split in self.images.given}
        return given if self.images.files is None else {split: rng.permutation(given[split]) for split in given}

    def _places(self, keys: Keys) -> Places:
        """Returns the numbers in [0, 1) that decide about contents."""
        seed = self.seed.to_bytes(8, "little")
        hashes = (hashlib.blake2b(key.to_bytes(8, "little"), key=seed, digest_size=8) for key in keys.tolist())
        return np.array([int.from_bytes(one.digest(), "little") / 2**64 for one in hashes])

    def splits(self, rows: Rows, keys: Keys) -> Drawn:
        """Returns the splits of the images that were read.

        Args:
            rows: (n,), those that could be read.
            keys: (n,), hashes of their pixels; empty where the source does not split by content.

        Raises:
            UserError: too few different images for a split to have any.
        """
        known = self.known[rows]
        if not self.images.by_content:
            return Drawn(known, Counter(), 0, Counter())
        distinct, content = np.unique(keys, return_inverse=True)  # (D,), (n,)
        labels = None if self.images.labels is None else self.images.labels[rows]
        of_content = np.full(len(distinct), OPEN, np.int8)
        for split in ("val", "test"):  # an image that is given for both is a test image
            of_content[content[known == SPLITS.index(split)]] = SPLITS.index(split)
        given = of_content != OPEN
        drawn = ~given[content]
        if self.shares and drawn.any():
            classes = _by_class(content[drawn], None if labels is None else labels[drawn])
            of_content[~given] = _drawn(self._places(distinct), classes, self.shares)[~given]
        of_content[of_content == OPEN] = TRAIN
        splits = of_content[content]
        moved = given[content] & (known != splits)
        left_out = Counter(SPLITS[number] for number in splits[moved].tolist())
        used = content[~moved]
        splits[moved] = LEFT_OUT
        names = self.images.classes
        return Drawn(splits, left_out, len(used) - len(np.unique(used)), _two_labels(content, labels, names))


def _pairs(content: Rows, labels: Rows) -> tuple[Rows, Rows]:
    """Returns the different pairs of a label and a content, in the order of the labels."""
    count = int(content.max()) + 1
    return np.divmod(np.unique(labels * count + content), count)


def _by_class(content: Rows, labels: Rows | None) -> list[Rows]:
    """Returns the different contents of each class; without labels all are of one."""
    if labels is None:
        return [np.unique(content)]
    of, contents = _pairs(content, labels)
    return np.split(contents, np.flatnonzero(np.diff(of)) + 1)


def _two_labels(content: Rows, labels: Rows | None, names: Sequence[str]) -> Counter[tuple[str, str]]:
    """Counts the contents that have more than one label, by every two of their classes."""
    told: Counter[tuple[str, str]] = Counter()
    if labels is None:
        return told
    of, contents = _pairs(content, labels)
    several: dict[int, list[str]] = {}
    for one in np.flatnonzero(np.bincount(contents)[contents] > 1).tolist():
        several.setdefault(int(contents[one]), []).append(names[of[one]])
    for classes in several.values():
        told.update(combinations(classes, 2))
    return told


# ---- the draw


def _drawn(places: Places, classes: Sequence[Rows], shares: Mapping[str, float]) -> Numbers:
    """Returns the number of the split of each content (D,), of which only those in classes count.

    Each class keeps a content in train. A class of which every share is an image at least has one in each split. No
    content that was in train comes into another split when contents are added to such a class.

    Raises:
        UserError: there are too few contents for each split to have one.
    """
    order = [contents[np.argsort(places[contents])] for contents in classes]
    numbers = np.full(len(places), TRAIN, np.int8)
    total = 0.0
    for split, share in shares.items():
        numbers[(places >= total) & (places < total + share)] = SPLITS.index(split)
        total += share
    settled = np.zeros(len(places), np.bool_)  # (D,), what no other class changes: a content may be in several
    for contents in order:
        numbers[contents[-1]], settled[contents[-1]] = TRAIN, True
    for contents in order:
        if len(contents) * min(shares.values()) >= 1 - 1e-9:
            _shared_out(contents, places, shares, numbers, settled)
    everything = np.unique(np.concatenate(order))
    if not {SPLITS.index(split) for split in shares} <= set(numbers[everything].tolist()):
        enough = _shared_out(everything[np.argsort(places[everything])], places, shares, numbers, settled)
        if not enough:
            raise UserError(
                f"data: too few different images for {' and '.join(shares)}, beside one of each class to train on; "
                "add images, or join class folders (copies of an image are one)"
            )
    return numbers


def _shared_out(
    contents: Rows, places: Places, shares: Mapping[str, float], numbers: Numbers, settled: NDArray[np.bool_]
) -> bool:
    """Gives each split one of these contents at least: where it would have none, the nearest one.

    Args:
        contents: those of a class, ascending by their places.
        numbers, settled: (D,), which are changed.

    Returns:
        Whether there are enough contents.
    """
    free = contents[~settled[contents]]
    total, used = 0.0, 0
    if len(free) < len(shares):
        return False
    for left, (split, share) in zip(reversed(range(len(shares))), shares.items(), strict=True):
        total += share
        within = int(np.searchsorted(places[free], total, side="left"))
        end = min(max(within, used + 1), len(free) - left)
        moved = free[used:end][numbers[free[used:end]] != SPLITS.index(split)]
        numbers[moved], settled[moved] = SPLITS.index(split), True
        used = end
    return True
