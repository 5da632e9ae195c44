"""Standard output and standard error of a command, whose reader may go away and whose encoding may lack letters."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO, cast

CLOSED = 141  # what a shell calls a command whose reader went away, such as `head`


class Stream(io.TextIOWrapper):
    """A stream takes everything: what nobody reads any more without a word, a letter that it lacks as an escape.

    Args:
        stream: the one that it takes the place of.
        ends: whether the command ends where its reader goes away: results are for a reader, progress is not.
    """

    def __init__(self, stream: io.TextIOWrapper, ends: bool) -> None:
        super().__init__(
            cast(Any, stream.buffer),
            encoding=stream.encoding,
            errors="backslashreplace",
            line_buffering=stream.line_buffering,
            write_through=stream.write_through,
        )
        self.ends = ends

    def write(self, text: str) -> int:
        try:
            return super().write(text)
        except BrokenPipeError:
            self._closed()
            return len(text)

    def flush(self) -> None:
        try:
            super().flush()
        except BrokenPipeError:
            self._closed()

    def _closed(self) -> None:
        """What is still held back goes nowhere, also at the end of Python."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.fileno())
        os.close(nowhere)
        if self.ends:
            raise SystemExit(CLOSED)


@contextmanager
def protected() -> Iterator[None]:
    """Puts such streams in the place of this process's own, for the rest of its life."""
    sys.stdout = cast(TextIO, _protected(sys.stdout, ends=True))
    sys.stderr = cast(TextIO, _protected(sys.stderr, ends=False))
    try:
        yield
    finally:
        if sys.stdout is not None:
            sys.stdout.flush()  # what was held back may find its reader gone only now


def _protected(stream: TextIO | None, ends: bool) -> TextIO | None:
    """A stream that was closed by the caller, or is no file, stays as it is."""
    return Stream(stream, ends) if isinstance(stream, io.TextIOWrapper) else stream
