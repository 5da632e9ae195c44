"""Tells which source reads the images that a person has, by their files."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from pathlib import Path

from aemodels.config import OutageError, UserError
from aemodels.data.arrays import SUFFIXES as ARRAYS
from aemodels.data.layout import Unused, is_image, walk
from aemodels.data.parquet import SUFFIX as PARQUET
from aemodels.data.source import OwnImagesConfig, Source, SourceConfig


def source_of(path: Path) -> str:
    """Returns the name of the source that reads a file, by its ending, or a folder, by what lies in it."""
    if path.suffix in ARRAYS:
        return "arrays"
    if path.suffix == PARQUET:
        return "parquet"
    tables = False
    for file in walk(path, Unused(Counter(), Counter())) if path.is_dir() else ():
        if is_image(file.name):
            return "folder"
        tables |= file.name.endswith(PARQUET)
    return "parquet" if tables else "folder"


def fetched(config: SourceConfig) -> Source:
    """Finds the raw images of a source; where there are none, it says which other source reads what is there.

    Raises:
        UserError: there are none, or they cannot be read.
    """
    try:
        return config.fetch()
    except OutageError:
        raise
    except UserError as error:
        other = _other_source(config)
        if other == config.name:
            raise
        raise UserError(*error.args[:-1], f"{error.args[-1]}; or give data.name={other}") from error


def _other_source(config: SourceConfig) -> str:
    """Returns the name of the one source that reads what a person gave, which is the config's own where it is not."""
    paths = config.path if isinstance(config, OwnImagesConfig) else ()
    names: set[str] = set()
    with suppress(OSError):  # a folder that may not be read has an error of its own
        names = {source_of(path) for path in paths if path.exists()}
    return names.pop() if len(names) == 1 else config.name
