"""Says which images a model was trained on, and whether it can be measured on others."""

from __future__ import annotations

from typing import NamedTuple

from aemodels.config import SettingsError
from aemodels.data.prepared import PreparedData
from aemodels.data.statistics import is_black_and_white
from aemodels.models.base import GenerativeModel


class TrainedOn(NamedTuple):
    """Holds the images that a model was trained on: the first training images of some data."""

    data: PreparedData
    images: int


def are_black_and_white(data: PreparedData, split: str) -> bool:
    """Tells whether images are black and white as a model sees them: those of its training, and those of a split.

    The training images alone are not enough, since a model may be measured on other images than its own.
    """
    return all(is_black_and_white(data, None, name) for name in ("train", split))


def check_images(model: GenerativeModel, data: PreparedData) -> None:
    """Checks that a model can be measured on some data.

    Raises:
        SettingsError: it is for other images or, if it is conditional, for other classes.
    """
    if model.image_shape != data.image_shape:
        raise SettingsError(
            f"the model is for images of (channels, height, width) {model.image_shape}, those of {data.name} are "
            f"{data.image_shape}; choose other data, or train a model on these"
        )
    if model.conditional and model.num_classes != data.num_classes:
        raise SettingsError(
            f"the model is conditional on {model.num_classes} classes, {data.name} has "
            f"{data.num_classes or 'no labels'}; choose data with those classes, or train a model on these"
        )
