"""Long work reports by yielding: a step of the workflow is a generator of Progress that returns its result.

The library never draws a bar and never logs one: the command line shows what is yielded, a flow publishes it, a test
ignores it.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import closing
from typing import NamedTuple, TypeVar

T = TypeVar("T")


class Progress(NamedTuple):
    """How far a piece of work is."""

    work: str  # what is being done: "training vae"
    done: int
    total: int
    note: str = ""  # what a person wants to read beside the bar: "val/negative_elbo 104.1"


Steps = Generator[Progress, None, T]


def finish(steps: Steps[T], show: Callable[[Progress], object] = lambda _: None) -> T:
    """Runs the steps to their end, showing each, and returns their result."""
    with closing(steps):  # an error in `show` ends the work at once, with its runs and locks
        while True:
            try:
                progress = next(steps)
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]
            show(progress)
