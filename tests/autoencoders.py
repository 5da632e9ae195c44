"""Makes untrained autoencoders for prepared data."""

from __future__ import annotations

import torch

from aemodels.data import PreparedData
from aemodels.models.base import Autoencoder, ModelConfig


def build(config: ModelConfig, data: PreparedData) -> Autoencoder:
    torch.manual_seed(0)
    model = config.build(data.image_shape, data.num_classes)
    assert isinstance(model, Autoencoder)
    return model
