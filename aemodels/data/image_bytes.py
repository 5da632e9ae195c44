"""Holds an image file that lies in no file of its own, such as in a table, and opens it like one that does."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import IO, NamedTuple


class ImageBytes(NamedTuple):
    """Holds the content of an image file, with the place from which it comes."""

    name: str
    content: bytes

    def __str__(self) -> str:
        return self.name


def opened(file: Path | str | ImageBytes) -> IO[bytes]:
    """Opens an image file for reading, wherever it lies."""
    return BytesIO(file.content) if isinstance(file, ImageBytes) else open(file, "rb")
