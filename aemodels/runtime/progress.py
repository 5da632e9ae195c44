"""Lets long work report by yielding: a step of the workflow is a generator of Progress that returns its result.

The command line shows what is yielded, a flow publishes it, `runtime/bars.py` draws it for Python, a test ignores it.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Generic, NamedTuple, Self, TypeVar

T = TypeVar("T")
Y = TypeVar("Y")
S = TypeVar("S")
R = TypeVar("R")


class Progress(NamedTuple):
    """Tells how far a piece of work is."""

    work: str  # what is being done: "training vae"
    done: int
    total: int
    note: str = ""  # what a person wants to read beside the bar: "val/negative_elbo 104.1"


Steps = Generator[Progress, None, T]


def finish(steps: Steps[T], show: Callable[[Progress], object] = lambda _: None) -> T:
    """Runs the steps to their end, shows each, and returns their result."""
    with Driven(steps) as driven:  # an error in `show` ends the work at once, with its runs and locks
        for progress in driven:
            show(progress)
    return driven.result


class Driven(Generic[Y, S, R]):
    """Drives a generator in a for loop, which may answer it, and keeps what it returns; closed with the block.

    Example:
        >>> def work():
        ...     answer = yield "how many?"
        ...     return answer + 1
        >>> with Driven(work()) as driven:
        ...     for question in driven:
        ...         driven.answer = 41
        >>> driven.result
        42
    """

    result: R

    def __init__(self, generator: Generator[Y, S | None, R]) -> None:
        self.generator = generator
        self.answer: S | None = None  # the answer to what was yielded last

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.generator.close()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Y:
        answer, self.answer = self.answer, None
        try:
            return self.generator.send(answer)
        except StopIteration as end:
            self.result = end.value
            raise
