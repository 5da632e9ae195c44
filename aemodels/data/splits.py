"""Decides to which split an image belongs: the one that it was given for, or one that is drawn.

Images in files are drawn by their content: a hash of the content and of the seed is a number in [0, 1), and the lowest
ones are test images. So an image that is added later moves no other one, and copies of an image stay together.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from aemodels.config import UserError
from aemodels.data.decoding import Block
from aemodels.data.source import Images, Rows, UnreadableError, split_rows, too_few

FEW = 20  # images of a split that are expected: with fewer it could stay empty, so all contents are looked at first
LEFT_OUT = ""  # in place of a split's name


class Draw:
    """Tells the split of each image; images are asked about in the given order."""

    def __init__(self, images: Images, shares: Mapping[str, float], seed: int) -> None:
        """Takes the shares of the splits that are to be drawn, unless they were given.

        Raises:
            UserError: too few images for a split to have any.
        """
        self.shares = {split: share for split, share in shares.items() if split not in images.given}
        self.seed = seed.to_bytes(8, "little")
        self.by_content = images.content is not None
        self.owners: dict[bytes, str] = {}  # the contents of the images that were given for val or test
        self.copies: Counter[str] = Counter()  # copies of those, by the split that they are copies of
        self.cuts: dict[str, float] = {}
        self.kept_back: set[bytes] = set()
        splits = self._given(images) if self.by_content else split_rows(images, shares, seed)
        self.order = np.concatenate(list(splits.values()))
        self.known = {row: split for split, rows in splits.items() if split != "" for row in rows.tolist()}

    def splits(self, block: Block) -> list[str]:
        """Returns the split of each image of a block; LEFT_OUT for a copy of an image that was given for another."""
        if not self.by_content:
            return [self.known[row] for row in block.rows]
        return [self._split(row, key) for row, key in zip(block.rows, block.keys, strict=True)]

    def _split(self, row: int, key: bytes) -> str:
        given = self.known.get(row)
        owner = self.owners.get(key)
        if given is not None and owner is None:
            self.owners[key] = given
        split = given or self._drawn(key)
        if owner is None or owner == split:
            return split
        self.copies[owner] += 1
        return LEFT_OUT

    def _drawn(self, key: bytes) -> str:
        if key in self.kept_back:
            return "train"
        place = self._place(key)
        return next((split for split, cut in self.cuts.items() if place <= cut), "train")

    def _place(self, key: bytes) -> float:
        """Returns the number in [0, 1) that decides about a content."""
        return int.from_bytes(hashlib.blake2b(key, key=self.seed, digest_size=8).digest(), "little") / 2**64

    def _given(self, images: Images) -> dict[str, Rows]:
        """Returns given split -> rows, in a seeded random order, and "" -> all other rows, of which others are drawn.

        The given ones come first: when the others are read, their copies are known.
        """
        rng = np.random.default_rng(int.from_bytes(self.seed, "little"))
        splits = {split: rng.permutation(images.given[split]) for split in ("test", "val") if split in images.given}
        rest = np.setdiff1d(np.arange(images.count), np.concatenate([*splits.values(), np.empty(0, np.int64)]))
        if self.shares:
            self._settle(images, rest)
        return splits | {"": rng.permutation(rest)}

    def _settle(self, images: Images, rest: Rows) -> None:
        """Sets up to which number an image belongs to a split, and which contents are kept in train all the same.

        Each class keeps an image in train, and each split gets one. Where many images are expected in each split,
        about two contents of each class tell all that is needed.
        """
        if min(self.shares.values()) * len(rest) < 1 - 1e-9:
            raise too_few(len(rest), self.shares)
        few = min(self.shares.values()) * len(rest) < FEW
        held_out = 1.0 if few else sum(self.shares.values())
        # Copies of given images are left out later, so they fill no split.
        given = np.concatenate([*images.given.values(), np.empty(0, np.int64)]) if few else np.empty(0, np.int64)
        copies = {key for row in given.tolist() for key in _content(images, row)}
        keys: set[bytes] = set()
        for rows in _by_class(rest, images.labels):
            own: list[bytes] = []
            for row in rows.tolist():
                own += [key for key in _content(images, row) if key not in copies]
                if own and self._place(own[-1]) > held_out:
                    break
            else:
                self.kept_back |= set(sorted(own, key=self._place)[-1:])
            keys.update(own)
        free = sorted(map(self._place, keys - self.kept_back)) if few else None
        self.cuts = _cuts(self.shares, free)


def _by_class(rows: Rows, labels: Rows | None) -> Sequence[Rows]:
    if labels is None:
        return [rows]
    order = rows[np.argsort(labels[rows], kind="stable")]
    return np.split(order, np.flatnonzero(np.diff(labels[order])) + 1)


def _content(images: Images, row: int) -> list[bytes]:
    """Returns the hash of an image's content, or nothing where it cannot be read, of which decoding will tell."""
    assert images.content is not None
    try:
        return [images.content(images.item(row))]
    except UnreadableError:
        return []


def _cuts(shares: Mapping[str, float], free: Sequence[float] | None) -> dict[str, float]:
    """Returns split -> the number up to which images belong to it, unless they belong to an earlier one.

    Args:
        free: the numbers of all contents that may be held out, ascending, if they are so few that a split could stay
            empty; the nearest one then belongs to it.

    Raises:
        UserError: fewer contents than splits.
    """
    cuts: dict[str, float] = {}
    total, used = 0.0, 0
    if free is not None and len(free) < len(shares):
        raise UserError(
            f"data: too few different images for {' and '.join(shares)}, beside one of each class to train on; "
            "add images, or join class folders (copies of an image are one)"
        )
    for left, (split, share) in zip(reversed(range(len(shares))), shares.items(), strict=True):
        total += share
        cuts[split] = total
        if free is not None:
            within = bisect_right(free, total)
            end = min(max(within, used + 1), len(free) - left)
            cuts[split], used = total if end == within else free[end - 1], end
    return cuts
