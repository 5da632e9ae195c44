"""Guards a command's standard output and error: readers may go away, and encodings may lack letters."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO, cast

from flows.cli.exit_codes import MENDABLE, UNREAD
from flows.cli.session import tell


class Stream(io.TextIOWrapper):
    """A stream writes letters that its encoding lacks as escapes, and drops without error what nobody reads any more.

    Args:
        stream: the stream that it takes the place of.
        ends: whether the command ends when its reader goes away: results need a reader, progress does not.
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
        with self._watched():
            return super().write(text)
        return len(text)

    def flush(self) -> None:
        with self._watched():
            super().flush()

    @contextmanager
    def _watched(self) -> Iterator[None]:
        """Ends the command when nobody reads its results, or, with an error, when they cannot be written."""
        try:
            yield
        except BrokenPipeError:
            self._let_go()
            if self.ends:
                raise SystemExit(UNREAD) from None
        except OSError as error:
            self._let_go()
            if self.ends:
                tell(f"error: standard output: cannot be written ({error.strerror}); send it to another place")
                raise SystemExit(MENDABLE) from None

    def _let_go(self) -> None:
        """Sends to the null device what is still held back, also at the end of Python."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.fileno())
        os.close(nowhere)


@contextmanager
def guarded() -> Iterator[None]:
    """Replaces this process's standard output and error by such streams, for the rest of its life."""
    sys.stdout = _guarded(sys.stdout, ends=True)
    sys.stderr = _guarded(sys.stderr, ends=False)
    try:
        yield
    finally:
        if sys.stdout is not None:
            sys.stdout.flush()  # what was held back may find its reader gone only now


def _guarded(stream: TextIO | None, ends: bool) -> TextIO:
    """Returns what takes a stream's place: the null device if it is closed, itself if it is no file, else a Stream."""
    if stream is None:
        return Path(os.devnull).open("w")
    return cast(TextIO, Stream(stream, ends)) if isinstance(stream, io.TextIOWrapper) else stream
