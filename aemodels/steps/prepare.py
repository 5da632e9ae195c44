"""Prepares the images, and the classifier that tells what generated images show."""

from __future__ import annotations

from aemodels.data import PreparedData
from aemodels.data import prepare as prepare_data
from aemodels.evaluation.features import features_of
from aemodels.runtime.devices import best_device
from aemodels.runtime.progress import Steps
from aemodels.runtime.randomness import seeded
from aemodels.settings import Settings


def prepare(settings: Settings) -> Steps[PreparedData]:
    """Decodes the images and fits the classifier that tells what generated images show, or finds both done.

    Raises:
        UserError: the images are missing, damaged or too few, or do not fit together or the model.
    """
    data = yield from prepare_data(settings.data)
    # What does not fit is refused before anything is trained. On the meta device torch would import its compiler: 2 s.
    with seeded(0):
        settings.model.build(data.image_shape, data.num_classes)
    yield from features_of(data, best_device())
    return data
