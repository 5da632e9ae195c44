"""Plans the order of an epoch, and reads a set in that order that does not fit into memory.

N rows of an array, each an image (C, H, W). The rows of a training split lie in random order on disk already. A seed
cuts them into blocks of consecutive rows, deals the blocks out to windows at random, and mixes the rows of a window
fully. So an epoch is read in large pieces into the memory of two windows, and a set of one window is mixed fully.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from io import FileIO
from typing import NamedTuple

import torch
from torch import Tensor

from aemodels.data.stored_arrays import StoredArray, opened, read_exactly
from aemodels.runtime.randomness import derived_seed

BLOCK = 2**20  # bytes that are read at once; the order of an epoch depends on both sizes
WINDOW = 64 * 2**20  # bytes that are mixed fully; two windows are in memory at a time
ORDERED_WINDOW = 8 * 2**20  # bytes; less than above, for callers that want only the first images


class Window(NamedTuple):
    """A window holds rows that are in memory together, of which n are used."""

    blocks: list[range]  # the rows that are read, one range after the other
    place: Tensor  # (n,), int64: the order in which they are used, as places in what was read
    rows: Tensor  # (n,), int64: the same as rows of the array


class Plan(NamedTuple):
    """A plan is one pass over the rows, window by window."""

    most: int  # rows of the largest window
    windows: Iterator[Window]


def shuffled(count: int, row_bytes: int, seed: int) -> Plan:
    """Plans a pass over every row once, in an order that is a function of the arguments alone.

    If there is one window, the order is `torch.randperm` with a generator of that seed.
    """
    rows = max(1, BLOCK // row_bytes)  # rows of a block
    blocks = -(-count // rows)
    most = max(1, WINDOW // (rows * row_bytes))  # blocks of a window
    return Plan(min(count, most * rows), _shuffled(count, rows, blocks, -(-blocks // most), seed))


def _shuffled(count: int, rows: int, blocks: int, windows: int, seed: int) -> Iterator[Window]:
    of_blocks, of_rows = (torch.Generator().manual_seed(s) for s in (derived_seed(seed, "blocks"), seed))
    for some in torch.randperm(blocks, generator=of_blocks).tensor_split(windows):
        starts = some.sort().values * rows  # a disk likes them sorted, and the rows are mixed anyway
        read = (starts[:, None] + torch.arange(rows)).flatten()
        read = read[: int((read < count).sum())]  # the set's last block may be short
        place = torch.randperm(len(read), generator=of_rows)
        yield Window([range(start, min(start + rows, count)) for start in starts.tolist()], place, read[place])


def part(plan: Plan, start: int, stop: int) -> Plan:
    """Plans the part of a pass that is used from place `start` of its order on, and up to `stop`."""
    return Plan(plan.most, _part(plan.windows, start, stop))


def _part(windows: Iterator[Window], start: int, stop: int) -> Iterator[Window]:
    """Yields what is wanted of each window; one is read as a whole, or not at all."""
    for blocks, place, rows in windows:
        if stop <= 0:
            return
        if start < len(rows):
            own = slice(max(0, start), stop)
            yield Window(blocks, place[own], rows[own])
        start, stop = start - len(rows), stop - len(rows)


def in_order(count: int, row_bytes: int) -> Plan:
    """Plans a pass over every row once, in the order of the file."""
    most = max(1, ORDERED_WINDOW // row_bytes)
    parts = (range(start, min(start + most, count)) for start in range(0, count, most))
    windows = (Window([part], torch.arange(len(part)), torch.arange(part.start, part.stop)) for part in parts)
    return Plan(min(count, most), windows)


def read_ahead(array: StoredArray, plan: Plan, device: torch.device) -> Generator[tuple[Window, Tensor], None, None]:
    """Yields the plan's windows and what was read for them, a row (C, H, W) each on the device, valid until the next.

    While one is used, a thread reads the next. Closing the iterator ends the thread and closes the file.

    Raises:
        UserError: the file cannot be read.
    """
    closed = threading.Event()
    with opened(array.file) as file, ThreadPoolExecutor(1, "read-ahead") as pool:
        buffers = [_Buffer(array, plan.most, device) for _ in range(2)]
        ahead = (
            (window, buffer, pool.submit(buffer.fill, file, window, closed))
            for window, buffer in zip(plan.windows, itertools.cycle(buffers), strict=False)
        )
        try:
            current = next(ahead, None)
            while current is not None:
                window, buffer, done = current
                done.result()
                current = next(ahead, None)
                yield window, buffer.on_device(sum(map(len, window.blocks)))
        finally:
            closed.set()  # what is still being read is not wanted any more


class _Buffer:
    """Holds the memory of a window, which is used again and again; it is page-locked where a GPU copies from it."""

    def __init__(self, array: StoredArray, rows: int, device: torch.device) -> None:
        self.array, self.device = array, device
        on_gpu = device.type == "cuda"
        self.pixels = torch.empty(rows, *array.shape[1:], dtype=torch.uint8, pin_memory=on_gpu)
        self.copied = torch.cuda.Event() if on_gpu else None

    def fill(self, file: FileIO, window: Window, closed: threading.Event) -> None:
        """Fills the memory with a window's rows; it runs in the reading thread."""
        if self.copied is not None:
            self.copied.synchronize()  # the GPU may not have come to the copy of the window before
        target, size, filled = self.pixels.flatten().numpy(), self.array.row_bytes, 0
        for block in window.blocks:
            if closed.is_set():
                return
            end = filled + len(block) * size
            read_exactly(file, self.array.start + block.start * size, target[filled:end])
            filled = end

    def on_device(self, rows: int) -> Tensor:
        pixels = self.pixels[:rows]
        if self.copied is None:
            return pixels.to(self.device)  # on the CPU no copy
        pixels = pixels.to(self.device, non_blocking=True)
        self.copied.record(torch.cuda.current_stream(self.device))
        return pixels
