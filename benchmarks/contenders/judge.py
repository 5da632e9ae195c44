"""Judges every trained network on held-out images in the same way, and holds the clock that all contenders use.

N images, B batch, D latent units.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from aemodels.data import PreparedData
from benchmarks.contenders.networks import Plain, PlainVAE, PlainVAEGAN

BATCH = 1_000


class Trained(NamedTuple):
    """Holds a trained network, from images to codes and back."""

    encode: Callable[[Tensor], tuple[Tensor, Tensor | None]]  # (B, 1, 28, 28) in [0, 1] -> mean, std of z; no std: AE
    decode: Callable[[Tensor], Tensor]  # (B, D) -> mean pixels (B, 1, 28, 28) in [0, 1]
    draws_from: int | None = None  # D, if samples are judged too


class Epoch(NamedTuple):
    """An epoch is what every trainer yields after each pass over the training images."""

    seconds: float  # of the updates alone
    wall: float  # with whatever the trainer does after them: validation, keeping the best weights
    trained: Trained


class Clock:
    """A clock measures time, and waits for the device before it reads it."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: list[float] = []
        self.start()

    def start(self) -> None:
        self._wait()
        self.started = time.perf_counter()

    def stop(self) -> float:
        """Notes the seconds since the start."""
        self._wait()
        self.seconds.append(time.perf_counter() - self.started)
        return self.seconds[-1]

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def plain_trained(model: Plain) -> Trained:
    """Returns a plain module as the judge takes it; an autoencoder's networks see pixels in [-1, 1].

    A VAE-GAN has no loss of pixels: it is judged by what it makes of the codes' means, and by samples.
    """
    if isinstance(model, PlainVAEGAN):
        vae_gan = model
        return Trained(lambda x: (vae_gan.encode(x)[0], None), vae_gan.decoder, vae_gan.mean.out_features)
    if isinstance(model, PlainVAE):
        vae = model

        def encode(x: Tensor) -> tuple[Tensor, Tensor | None]:
            mean, log_variance = vae.encode(x)
            return mean, (0.5 * log_variance).exp()

        return Trained(encode, model.decoder)
    return Trained(lambda x: (model.encoder(2 * x - 1), None), lambda z: (model.decoder(z) + 1) / 2)


@torch.no_grad()
def quality(trained: Trained, data: PreparedData, device: torch.device) -> dict[str, float]:
    """Measures a trained network on the test images.

    The measure is the bound -log p(x|z) + KL in nats per image, with the same noise for all; where a code is one point
    it is the squared error of a pixel in [0, 1]. `sample_distance` is added where samples are judged.
    """
    noise = torch.Generator().manual_seed(0)
    total, count, is_vae = 0.0, 0, False
    for x in _batches(data, "test", device):
        mean, std = trained.encode(x)
        is_vae = std is not None
        if std is None:
            total += (trained.decode(mean) - x).square().mean((1, 2, 3)).double().sum().item()
        else:
            z = mean + std * torch.randn(mean.shape, generator=noise).to(device)
            rate = 0.5 * (mean.square() + std.square() - 1 - 2 * std.log()).sum()
            total += (F.binary_cross_entropy(trained.decode(z), x, reduction="sum") + rate).double().item()
        count += len(x)
    found = {"test_bound" if is_vae else "test_squared_error": total / count}
    return found | ({"sample_distance": sample_distance(trained, data, device)} if trained.draws_from else {})


def sample_distance(trained: Trained, data: PreparedData, device: torch.device) -> float:
    """Returns the Frechet distance of samples to the test images, of which there are as many.

    Both are taken as 7 x 7 means of 4 x 4 pixels, so that no network has to be trained for it.
    """
    from aemodels.evaluation.metrics.samples import frechet_distance

    assert trained.draws_from is not None
    noise = torch.Generator().manual_seed(0)
    real, drawn = [], []
    for x in _batches(data, "test", device):
        z = torch.randn(len(x), trained.draws_from, generator=noise).to(device)
        real.append(F.avg_pool2d(x, 4).flatten(1))  # (B, 49)
        drawn.append(F.avg_pool2d(trained.decode(z), 4).flatten(1))
    return frechet_distance(torch.cat(real), torch.cat(drawn))


@torch.no_grad()
def validation_error(trained: Trained, data: PreparedData, device: torch.device) -> float:
    """Returns the mean squared error of a pixel on validation images, reconstructed from the means of their codes."""
    errors = [
        (trained.decode(trained.encode(x)[0]) - x).square().flatten(1).mean(1) for x in _batches(data, "val", device)
    ]
    return torch.cat(errors).mean().item()


def images_of(data: PreparedData, split: str, limit: int | None = None) -> Tensor:
    """Returns the first images of a split, (N, 1, 28, 28), uint8, in memory."""
    return torch.tensor(data.split(split).images[:limit])


def labels_of(data: PreparedData, split: str, limit: int | None = None) -> Tensor:
    """Returns the labels of the first images of a split, (N,)."""
    labels = data.split(split).labels
    assert labels is not None  # MNIST has them
    return torch.as_tensor(labels[:limit])


def _batches(data: PreparedData, split: str, device: torch.device) -> list[Tensor]:
    return [x.to(device).float() / 255 for x in images_of(data, split).split(BATCH)]
