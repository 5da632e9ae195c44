"""Makes untrained models of images of three classes, and such images."""

from __future__ import annotations

from pathlib import Path

import torch

from aemodels.checkpoints.checkpoint import save_card, save_weights
from aemodels.data import PreparedData
from aemodels.experiment import Experiment
from aemodels.models import VAEConfig
from aemodels.models.base import Autoencoder, GenerativeModel, ModelConfig
from aemodels.nn.batch import Batch
from aemodels.nn.trunks import MLPConfig
from aemodels.runtime.randomness import seeded

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


def finished_folder(folder: Path, shape: tuple[int, int, int]) -> Path:
    """Makes the folder of an untrained VAE with 3 latent units, as a finished run leaves it."""
    folder.mkdir()
    config = VAEConfig(latent_dim=3, trunk=MLPConfig(widths=(16,)))
    data = PreparedData(
        name="tiny",
        path=folder,
        digest="d" * 32,
        image_shape=shape,
        classes=("a", "b"),
        sizes={"train": 1, "val": 1, "test": 1},
        binarize="none",
    )
    torch.manual_seed(0)
    save_card(folder, Experiment(model=config), data)
    save_weights(folder, config.build(data.image_shape, data.num_classes))
    return folder
