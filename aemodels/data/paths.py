"""A source's files and folders are whole paths: a run is resumed from any folder."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from aemodels.texts import Typed


def _listed(value: Any) -> list[str] | None:
    """Returns the texts of one path, of several, or of several as JSON text; None for a value that is none of these.

    `Config.flat` writes JSON text. The home folder (~) of the person who runs this is written out.
    """
    if isinstance(value, str) and value.startswith("["):
        value = json.loads(value)
    several = [value] if isinstance(value, str | os.PathLike) else value
    if not isinstance(several, list | tuple) or not all(isinstance(path, str | os.PathLike) for path in several):
        return None
    return [os.path.expanduser(str(path)) for path in several]


def only_whole(value: Any) -> Any:
    """Accepts whole paths only: a run may be resumed from any folder, and Prefect's worker may start in any."""
    paths = _listed(value)
    if paths is None:
        return value
    if "" in paths:
        raise ValueError("is empty; give the folder of the images")
    for path in paths:
        if not os.path.isabs(path):
            raise ValueError(f"{path} is a relative path, and a worker may start anywhere; give the whole path, from /")
    return tuple(map(os.path.normpath, paths))


def whole_paths(value: Any) -> Any:
    """Returns the value of `data.path` with whole paths, as a person in the current folder means it.

    A value that is no path stays as it is.
    """
    try:
        paths = _listed(value)
    except ValueError:
        return value  # the field says what is wrong with it
    return value if paths is None else [os.path.abspath(path) if path else path for path in paths]


WholePaths = Annotated[
    tuple[Annotated[Path, Field(json_schema_extra={"pattern": "^[/~]"})], ...],  # Prefect's form refuses others too
    BeforeValidator(only_whole),
    Field(min_length=1),
    Typed("path or list of paths"),
]

NoneOrWholePaths = Annotated[
    tuple[Annotated[Path, Field(json_schema_extra={"pattern": "^[/~]"})], ...],
    BeforeValidator(lambda value: () if value is None else only_whole(value)),
    Typed("path or list of paths | null"),
]


def _one(value: Any) -> Any:
    paths = only_whole(value)
    return paths[0] if isinstance(paths, tuple) and len(paths) == 1 else value


def whole_path(value: Any) -> Any:
    """Returns the value of `data.labels` as a whole path, as a person in the current folder means it."""
    return os.path.abspath(os.path.expanduser(value)) if isinstance(value, str) and value else value


WholePath = Annotated[Path, Field(json_schema_extra={"pattern": "^[/~]"}), BeforeValidator(_one)]
