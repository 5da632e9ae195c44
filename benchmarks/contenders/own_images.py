"""Trains autoencoders of own images: the project at its defaults, pythae at its own, and the plain PyTorch example.

B batch, D latent units, (C, H, W) an image with pixels in [0, 1]. All are then measured and drawn in the same way.
"""

# mypy: disable-error-code="import-not-found,import-untyped"

from __future__ import annotations

import logging
import os
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import redirect_stderr, suppress
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from aemodels.data import PreparedData, statistics
from aemodels.experiment import Experiment
from aemodels.models.base import Autoencoder, GenerativeModel, Loss
from aemodels.nn.batch import AT_ONCE, Batch
from aemodels.nn.distributions import Point
from aemodels.priors.mixture import GaussianMixturePrior
from aemodels.training.models import best_model
from aemodels.training.train import train

LATENT = 20
BATCH_SIZE, LEARNING_RATE = 128, 1e-3  # of the plain example


class Trained(NamedTuple):
    """Holds a trained model, and how long its training took."""

    model: Autoencoder
    seconds: float


class Peer(Autoencoder):
    """A peer is another project's network; one without a prior draws from a mixture fitted to its training codes."""

    selection: ClassVar[str | None] = None

    def __init__(
        self, network: nn.Module, shape: tuple[int, int, int], mean: Callable[[Tensor], Tensor], decoder: nn.Module
    ) -> None:
        GenerativeModel.__init__(self, shape, 0, LATENT)
        self.network, self.code, self.image = network, mean, decoder
        self.fitted_prior: GaussianMixturePrior | None = None

    def parts(self) -> dict[str, tuple[str, ...]]:
        return {"network": ("network",)}

    def losses(self, batch: Batch, step: Tensor) -> dict[str, Loss]:
        return {}

    def bound(self, batch: Batch) -> dict[str, Tensor]:
        return {}

    def encode(self, x: Tensor, y: Tensor | None = None) -> Distribution:
        return Point(self.code(x))

    def decode(self, z: Tensor, y: Tensor | None = None) -> Distribution:
        found = self.image(z)
        pixels: Tensor = found if isinstance(found, Tensor) else found.reconstruction
        return Point(pixels.unflatten(-1, self.image_shape) if pixels.dim() == 2 else pixels)

    def prior(self, y: Tensor | None = None) -> Distribution:
        return Independent(Normal(torch.zeros(LATENT), 1.0), 1)

    def fit_prior(self, batches: Iterable[Batch], seed: int) -> None:
        self.fitted_prior = GaussianMixturePrior(LATENT)
        super().fit_prior(batches, seed)


def pixels_of(data: PreparedData) -> Tensor:
    """Returns the training images (N, C, H, W) in [0, 1]."""
    return torch.tensor(data.split("train").images).float() / 255


def ours(data: PreparedData, name: str, changes: dict[str, Any]) -> Trained:
    """Trains the project's model at its defaults, but for the changes; the seconds are with validation."""
    experiment = Experiment().override({"model.name": name, "model.latent_dim": LATENT, **changes}).for_data(data)
    statistics._linear_code.cache_clear()  # its time is part of the training, also of the second one
    started = time.perf_counter()
    for epoch in train(experiment.model, data, experiment.training, experiment.seed):
        state = epoch.state
    seconds = time.perf_counter() - started
    model = best_model(experiment.model, data, experiment.training, experiment.seed, state)
    assert isinstance(model, Autoencoder)
    return Trained(model, seconds)


# ---------------------------------------------------------------- the plain example


class Convolutional(nn.Module):
    """The example's network: two convolutions of stride 2 on each side of the code; with two heads it is a VAE."""

    def __init__(self, shape: tuple[int, int, int], heads: int) -> None:
        super().__init__()
        channels, height, width = shape
        wide = 64 * (height // 4) * (width // 4)
        self.encoder = nn.Sequential(
            nn.Conv2d(channels, 32, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, 64, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(wide, heads * LATENT),
        )
        self.decoder = nn.Sequential(
            nn.Linear(LATENT, wide),
            nn.ReLU(),
            nn.Unflatten(1, (64, height // 4, width // 4)),
            nn.ConvTranspose2d(64, 32, 3, stride=2, padding=1, output_padding=1),
            nn.ReLU(),
            nn.ConvTranspose2d(32, channels, 3, stride=2, padding=1, output_padding=1),
            nn.Sigmoid(),
        )

    def mean(self, x: Tensor) -> Tensor:
        codes: Tensor = self.encoder(x)[:, :LATENT]
        return codes

    def loss(self, x: Tensor) -> Tensor:
        """Returns the squared error of an autoencoder, and binary cross-entropy + KL of a VAE."""
        found = self.encoder(x)
        if found.shape[1] == LATENT:
            return F.mse_loss(self.decoder(found), x)
        mean, log_variance = found.chunk(2, 1)
        decoded = self.decoder(mean + torch.randn_like(mean) * (0.5 * log_variance).exp())
        rate = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum()
        objective: Tensor = (F.binary_cross_entropy(decoded, x, reduction="sum") + rate) / len(x)
        return objective


def plain(data: PreparedData, name: str, seconds: float) -> Trained:
    """Trains the example for so many seconds: Adam at a constant rate, and a DataLoader that shuffles."""
    torch.manual_seed(0)
    network = Convolutional(data.image_shape, heads=2 if name == "vae" else 1)
    optimizer = torch.optim.Adam(network.parameters(), LEARNING_RATE)
    loader = DataLoader(TensorDataset(pixels_of(data)), BATCH_SIZE, shuffle=True)
    started = time.perf_counter()
    while time.perf_counter() - started < seconds:
        for (x,) in loader:
            optimizer.zero_grad()
            network.loss(x).backward()
            optimizer.step()
            if time.perf_counter() - started >= seconds:
                break
    model = Peer(network, data.image_shape, network.mean, network.decoder)
    return _finished(model, data, name, time.perf_counter() - started)


# ---------------------------------------------------------------- pythae


class _OverError(Exception):
    """The time is up."""


def pythae(data: PreparedData, name: str, seconds: float) -> Trained:
    """Trains pythae's model with its default networks, loss and trainer for so many seconds."""
    from pythae.data.datasets import BaseDataset
    from pythae.models import AE, VAE, AEConfig, VAEConfig
    from pythae.trainers import BaseTrainer, BaseTrainerConfig
    from pythae.trainers.training_callbacks import TrainingCallback

    class Until(TrainingCallback):  # type: ignore[misc]
        started = time.perf_counter()

        def on_train_begin(self, *_: Any, **__: Any) -> None:
            Until.started = time.perf_counter()

        def on_train_step_end(self, *_: Any, **__: Any) -> None:
            if time.perf_counter() - Until.started >= seconds:
                raise _OverError

    logging.disable(logging.INFO)  # its loggers have levels of their own
    torch.manual_seed(0)
    shape = {"input_dim": data.image_shape, "latent_dim": LATENT}
    network: Any = VAE(VAEConfig(**shape)) if name == "vae" else AE(AEConfig(**shape))
    x = pixels_of(data)
    with tempfile.TemporaryDirectory() as folder:
        config = BaseTrainerConfig(output_dir=folder, num_epochs=10**6, no_cuda=True)
        trainer = BaseTrainer(network, BaseDataset(x, torch.zeros(len(x))), training_config=config, callbacks=[Until()])
        with suppress(_OverError), Path(os.devnull).open("w") as nowhere, redirect_stderr(nowhere):  # a bar an epoch
            trainer.train()
    took = time.perf_counter() - Until.started
    model = Peer(network, data.image_shape, lambda images: network.encoder(images).embedding, network.decoder)
    return _finished(model, data, name, took)


def _finished(model: Peer, data: PreparedData, name: str, seconds: float) -> Trained:
    model.eval()
    if name == "ae":  # it has no prior of its own
        model.fit_prior((Batch(part, None) for part in pixels_of(data)[:10_000].split(AT_ONCE)), seed=0)
    return Trained(model, seconds)
