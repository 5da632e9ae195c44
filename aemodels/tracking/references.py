"""Tells references to models apart: `digits@champion`, `digits/3` are registered, others are the folders of runs."""

from __future__ import annotations

import os
import re
from pathlib import Path

REFERENCE = r"([^@/]+)(?:@([^@/]+)|/(\d+))"  # NAME@ALIAS or NAME/VERSION
MLFLOW = "models:/"  # what MLflow writes before a reference


def folder_of(reference: str) -> Path:
    """Returns the reference as a path, by functions that fail at no text, unlike Path's own."""
    return Path(os.path.expanduser(reference.removeprefix(MLFLOW)))


def reads_as_registered(reference: str) -> bool:
    """Tells whether a reference has the form NAME@ALIAS or NAME/VERSION, which a folder may have too."""
    return re.fullmatch(REFERENCE, reference) is not None


def holds_model(folder: Path) -> bool:
    """Tells whether a folder is that of a finished run, or of a model that was saved."""
    from aemodels.checkpoints.model_files import CONFIG, WEIGHTS

    return os.path.isfile(folder / CONFIG) and os.path.isfile(folder / WEIGHTS)


def is_folder(reference: str) -> bool:
    """Tells whether a reference means a run's folder, there or not, and no registered model.

    A folder whose name could be that of a registered model, such as one of images, has to hold a run.
    """
    reference = reference.removeprefix(MLFLOW)
    named = reads_as_registered(reference) or not re.search(r"[/\\]", reference)
    return not named or holds_model(folder_of(reference))


def registered_name(reference: str) -> str | None:
    """Returns the name in NAME@ALIAS or NAME/VERSION; None for a run's folder, also one of such a name."""
    match = re.fullmatch(REFERENCE, reference.removeprefix(MLFLOW))
    return None if match is None or holds_model(folder_of(reference)) else match.group(1)


def whole_reference(reference: str) -> str:
    """Returns a reference to the same model from any folder; a relative path starts from the current one."""
    return str(folder_of(reference).absolute()) if is_folder(reference) else reference
