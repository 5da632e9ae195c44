"""Trains on a data set that is larger than the memory left to the process: MNIST several times over, and a limit."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from aemodels.data import PreparedData, batches, prepare
from aemodels.data.mnist import MnistConfig
from aemodels.data.source import Images, Source
from aemodels.runtime.environment import data_root
from aemodels.runtime.progress import finish
from aemodels.training.train import train
from benchmarks.contenders.judge import Epoch
from benchmarks.contenders.task import BATCH_SIZE, Task, alike


class CopiesConfig(MnistConfig):
    """Describes MNIST with its training images several times."""

    copies: int

    def fetch(self) -> Source:
        source = super().fetch()
        return source._replace(read=partial(_repeated, source.read, self.copies))


def _repeated(read: Callable[[], Images], copies: int) -> Images:
    images = read()
    own, test = np.arange(images.count).tolist(), images.own_test
    rows = np.array(own[: len(own) - test] * copies + own[len(own) - test :])
    assert images.labels is not None  # MNIST has them
    return replace(images, count=len(rows), decode=lambda row: images.decode(rows[row]), labels=images.labels[rows])


def larger_data(copies: int, folder: str) -> PreparedData:
    """Returns the larger data set, which the first process prepares; it has as many validation images as MNIST."""
    os.environ |= {"AEMODELS_DATA": str(data_root()), "AEMODELS_CACHE": folder}
    return finish(prepare(CopiesConfig(copies=copies, val_fraction=0.1 / copies)))


def from_disk(epochs: Iterator[Epoch], task: Task, left: int) -> Iterator[Epoch]:
    """Trains with so many bytes of memory left to the process, and yields the epochs.

    When an epoch begins, none of the training images is in the system's memory.

    Raises:
        ValueError: the images would be in memory all the same.
    """
    images = task.data.stored("train").images
    _start_threads(task)
    _leave(left)
    if images.nbytes < left or batches.fits(images.nbytes, task.device):
        raise ValueError(f"{images.nbytes} bytes of images stay in memory, with {left} bytes left; use more copies")
    _forget(images.file)
    for epoch in epochs:
        yield epoch
        _forget(images.file)


def _start_threads(task: Task) -> None:
    """Starts torch's threads, as many as the machine has cores, by a short training; each takes 70 MiB of addresses."""
    few = alike(task).override({"training.images": 4 * BATCH_SIZE, "training.epochs": 1})
    for _ in train(few.model, task.data, few.training, few.seed):
        pass


def _leave(left: int) -> None:
    """Limits the address space of this process, as `ulimit -v` does."""
    import psutil  # a bare GPU machine has none

    _, most = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (psutil.Process().memory_info().vms + left, most))


def _forget(file: Path) -> None:
    with file.open("rb") as opened:
        os.fsync(opened.fileno())  # what is not on disk yet would stay
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
