"""Untrained models of images of three classes, and such images."""

from __future__ import annotations

import torch

from aemodels.distributions import seeded
from aemodels.models.base import Autoencoder, Batch, GenerativeModel, ModelConfig
from aemodels.nets import MLPConfig

BATCH_NORM = MLPConfig(widths=(32, 16), normalization="batch")
CLASSES = 3


def images(shape: tuple[int, int, int], n: int = 6) -> Batch:
    with seeded(1):
        return Batch(torch.rand(n, *shape), torch.arange(n) % CLASSES)


def new(config: ModelConfig, shape: tuple[int, int, int]) -> GenerativeModel:
    with seeded(0):
        return config.build(shape, num_classes=CLASSES)


def build(config: ModelConfig, shape: tuple[int, int, int]) -> Autoencoder:
    model = new(config, shape)
    assert isinstance(model, Autoencoder)
    return model
