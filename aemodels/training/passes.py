"""Divides a training into epochs and passes over its images, by the count of updates alone."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple


class Stretch(NamedTuple):
    """A stretch of a pass holds images that follow each other in the order of that pass."""

    number: int  # of the pass, from 1
    start: int  # the place of the first image in the order
    stop: int  # the place after the last one


def stretches(first: int, last: int, images: int, batch_size: int) -> Iterator[Stretch]:
    """Yields the stretches of passes that the updates from `first` to before `last` take; updates count from 0.

    Example:
        >>> [(each.number, each.start, each.stop) for each in stretches(2, 7, images=300, batch_size=128)]
        [(1, 256, 300), (2, 0, 300), (3, 0, 128)]
    """
    of_pass = math.ceil(images / batch_size)
    while first < last:
        passes, done = divmod(first, of_pass)
        count = min(of_pass - done, last - first)
        yield Stretch(passes + 1, done * batch_size, min((done + count) * batch_size, images))
        first += count
