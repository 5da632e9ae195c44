"""Decodes the images of a source into blocks of pixels, in the order that is asked for.

Several processes decode where that is faster.

(C, H, W): C channels, H x W pixels.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from dataclasses import replace
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from aemodels.data.source import Images, Pixels, Rows, UnreadableError
from aemodels.runtime.environment import cores
from aemodels.runtime.processes import GeneratorProcess, ready

BLOCK_BYTES = 2**20  # bytes of decoded images in a block, at most
# A block takes about so many seconds: progress is seen to move, and handing a block over costs little beside.
BLOCK_SECONDS = 0.1
# Seconds of work for which a process is worth its start, which takes 0.3 seconds. Threads would wait for the
# interpreter's lock: two of them decode 32 x 32 images at half the speed of one.
WORTH_A_PROCESS = 0.6

Item = tuple[int, Any]  # a row, and what it is decoded from


class Skipped(NamedTuple):
    """Names a file that is not read."""

    file: str
    needed_megapixels: int | None  # the data.largest_megapixels that reads it, if it is only too large


class Block(NamedTuple):
    """A block holds images that were decoded together."""

    pixels: Pixels  # (n, C, H, W)
    rows: list[int]  # n
    skipped: list[Skipped]
    seconds: float
    keys: NDArray[np.uint64]  # n, hashes of the pixels; empty where the source does not split by content
    grey: NDArray[np.bool_]  # n, whether an image shows no colour; none does where the source does not ask

    @property
    def done(self) -> int:
        return len(self.rows) + len(self.skipped)


class Decoder:
    """Decodes the images of a source; what comes out does not depend on how many processes do it."""

    def __init__(self, images: Images) -> None:
        self.images, self.left = images, images.count
        self.most = max(1, BLOCK_BYTES // math.prod(images.shape))  # images in a block
        self.pace = 0.0  # seconds an image, lately
        self.processes: list[GeneratorProcess] = []
        self.starting: list[GeneratorProcess] = []  # those of the processes above that are not ready yet

    def close(self) -> None:
        for process in self.processes:
            process.close()

    def blocks(self, rows: Rows) -> Iterator[Block]:
        """Yields the images in the order of the rows; few blocks are in memory at a time, whatever their number.

        Raises:
            UnreadableError: an image cannot be read, and the source does not skip it. It is the first in this order.
        """
        items = ((row, self.images.item(row)) for row in rows.tolist())
        while not self._started():  # meanwhile this process decodes
            block = decode_block(self.images, islice(items, self.most), self.most, BLOCK_SECONDS)
            if not block.done:
                return
            yield self._noted(block)
        yield from self._by_processes(items)

    def _noted(self, block: Block) -> Block:
        self.left -= block.done
        self.pace = block.seconds / block.done
        return block

    def _started(self) -> bool:
        """Starts as many processes as the images that are left are worth; tells whether all of them are ready."""
        if not self.processes and self.images.files is not None:
            count = min(cores(), int(self.left * self.pace / WORTH_A_PROCESS))
            self.starting = self.processes = [GeneratorProcess() for _ in range(count)] if count > 1 else []
            for process in self.processes:
                process.start(decode_orders, replace(self.images, files=None, labels=None, factors=None, given={}))
        for process in ready(self.starting, 0):
            process.receive()
            self.starting = [other for other in self.starting if other is not process]
        return bool(self.processes) and not self.starting

    def _by_processes(self, items: Iterator[Item]) -> Iterator[Block]:
        """Yields blocks in the order in which they were given out; each process has two, so that it never waits."""
        busy: deque[GeneratorProcess] = deque()
        for process in self.processes * 2:
            self._give(process, items, busy)
        while busy:
            process = busy.popleft()
            block: Block = process.receive().value
            self._give(process, items, busy)
            yield self._noted(block)

    def _give(self, process: GeneratorProcess, items: Iterator[Item], busy: deque[GeneratorProcess]) -> None:
        count = min(self.most, max(1, round(BLOCK_SECONDS / self.pace)))
        if order := list(islice(items, count)):
            process.answer(order)
            busy.append(process)


def decode_orders(images: Images) -> Generator[Block | None, list[Item], None]:
    """Decodes in another process: each answer that it gets is what to decode next."""
    block: Block | None = None
    while True:
        order = yield block
        block = decode_block(images, order, len(order))


def decode_block(images: Images, items: Iterable[Item], most: int, seconds: float = math.inf) -> Block:
    """Decodes at most `most` images, and begins none of them after `seconds`."""
    start = time.perf_counter()
    pixels = np.empty((most, *images.shape), dtype=np.uint8)
    kept: list[int] = []
    skipped: list[Skipped] = []
    for row, item in items:
        try:
            pixels[len(kept)] = images.decode(item)
            kept.append(row)
        except UnreadableError as error:
            if not images.skip_unreadable:
                raise
            skipped.append(Skipped(error.file, error.needed_megapixels))
        if time.perf_counter() - start > seconds:
            break
    used = pixels[: len(kept)]
    grey = (used == used[:, :1]).all((1, 2, 3)) if images.grey_if_all else np.zeros(len(kept), np.bool_)
    keys = np.array([key_of(image) for image in used] if images.by_content else [], np.uint64)
    return Block(used, kept, skipped, time.perf_counter() - start, keys, grey)


def key_of(image: Pixels) -> int:
    """Returns a hash of an image's pixels (C, H, W), which copies of it share."""
    return int.from_bytes(hashlib.blake2b(np.ascontiguousarray(image).data, digest_size=8).digest(), "little")
