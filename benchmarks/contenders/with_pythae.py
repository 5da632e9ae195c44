"""Trains with pythae's trainer (Chadebec et al., 2022, arXiv:2206.08309), VAE, AE and data set, and with our layers."""

# mypy: allow-subclassing-any, disable-error-code="import-not-found,import-untyped"

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterator
from typing import Any

from torch import Tensor

from benchmarks.contenders.judge import Clock, Epoch, images_of, labels_of, plain_trained
from benchmarks.contenders.networks import Plain, PlainAutoencoder, PlainVAE
from benchmarks.contenders.task import BATCH_SIZE, LEARNING_RATE, Task, plain_start

os.environ.setdefault("TQDM_DISABLE", "1")  # before its progress bars are imported

from pythae.data.datasets import BaseDataset
from pythae.models import AE, VAE, AEConfig, VAEConfig
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDecoder, BaseEncoder
from pythae.trainers import BaseTrainer, BaseTrainerConfig
from pythae.trainers.training_callbacks import TrainingCallback


class _Encoder(BaseEncoder):
    """Wraps a plain model's encoder as pythae calls it."""

    def __init__(self, model: Plain) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Any:
        if isinstance(self.model, PlainAutoencoder):
            return ModelOutput(embedding=self.model.encoder(x))
        mean, log_variance = self.model.encode(x)
        return ModelOutput(embedding=mean, log_covariance=log_variance)


class _Decoder(BaseDecoder):
    """Wraps a plain model's decoder as pythae calls it."""

    def __init__(self, model: Plain) -> None:
        super().__init__()
        self.model = model.decoder

    def forward(self, z: Tensor) -> Any:
        return ModelOutput(reconstruction=self.model(z))


class _Timed(TrainingCallback):
    """Times the epochs, with the copy of the best model that the trainer makes after each."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def on_epoch_begin(self, *_: Any, **__: Any) -> None:
        self.clock.start()

    def on_epoch_end(self, *_: Any, **__: Any) -> None:
        self.clock.stop()


def epochs(task: Task) -> Iterator[Epoch]:
    """Trains a preset's network; all epochs come at the end."""
    for name in list(logging.root.manager.loggerDict):
        if name.startswith("pythae"):
            logging.getLogger(name).setLevel(logging.WARNING)
    plain, clock = plain_start(task), Clock(task.device)
    model = _model(plain)
    with tempfile.TemporaryDirectory() as folder:
        config = BaseTrainerConfig(
            output_dir=folder,
            num_epochs=task.epochs,
            learning_rate=LEARNING_RATE,
            per_device_train_batch_size=BATCH_SIZE,
            seed=task.seed,
            no_cuda=task.device.type == "cpu",
        )
        trainer = BaseTrainer(model, _images(task, plain), training_config=config, callbacks=[_Timed(clock)])
        trainer.train()
    for seconds in clock.seconds:
        yield Epoch(seconds, seconds, plain_trained(plain))


def _model(plain: Plain) -> Any:
    shape = {"input_dim": (1, 28, 28)}
    if isinstance(plain, PlainVAE):
        config = VAEConfig(**shape, latent_dim=plain.mean.out_features, reconstruction_loss="bce")
        return VAE(config, encoder=_Encoder(plain), decoder=_Decoder(plain))
    return AE(AEConfig(**shape), encoder=_Encoder(plain), decoder=_Decoder(plain))


def _images(task: Task, plain: Plain) -> Any:
    x = images_of(task.data, "train", task.images).float() / 255
    if isinstance(plain, PlainAutoencoder):
        x = 2 * x - 1
    return BaseDataset(x, labels_of(task.data, "train", task.images))
