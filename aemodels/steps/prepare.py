"""Preparation: the images, and the network whose features judge generated ones."""

from __future__ import annotations

from aemodels.data import PreparedData
from aemodels.data import prepare as prepare_data
from aemodels.features import feature_network
from aemodels.progress import Steps
from aemodels.settings import Settings
from aemodels.training import best_device


def prepare(settings: Settings) -> Steps[PreparedData]:
    """Decodes the images and trains the network, or finds both done.

    Raises:
        UserError: the images are missing, damaged, too few or do not fit together.
    """
    data = yield from prepare_data(settings.data)
    yield from feature_network(data, best_device())
    return data
