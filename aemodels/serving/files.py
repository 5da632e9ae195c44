"""Reads the image files that a person has for a model in Python; commands read them in blocks (flows/cli/use.py)."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from aemodels.checkpoints.checkpoint import ModelCard
from aemodels.config import OwnWarning, UserError
from aemodels.data.encoded import reading_later
from aemodels.data.image_files import image_files, read_images
from aemodels.runtime.files import at_path


def read_files(card: ModelCard, paths: Sequence[str | Path]) -> tuple[NDArray[np.float32], list[Path]]:
    """Returns images (N, C, H, W) from 0 to 1 in the model's shape, and their files (N).

    Raises:
        UserError: there is no such file or folder, no image in it, or none that can be read.
    """
    with at_path():
        found = image_files([Path(path).expanduser() for path in paths])
        read, looked = read_images(found, card.image_shape, reading_later(card.experiment.data))
    for told in looked.notes:
        warnings.warn(told, OwnWarning, stacklevel=3)
    if not read.files:
        told = f"{', '.join(map(str, paths))}: none of the images can be read, such as {looked.unfit[0]}"
        raise UserError(f"{told}; mend them, or give others")
    return read.images.astype(np.float32) / np.float32(255), read.files
