"""Trains with the public example loop, written anew, which most people who train a small autoencoder run.

It has a data set that returns a PIL image as torchvision's MNIST does, ToTensor, a DataLoader with its defaults, Adam,
and `loss.item()` at every update.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from aemodels.data import PreparedData
from benchmarks.contenders.judge import Clock, Epoch, images_of, labels_of, plain_trained
from benchmarks.contenders.networks import Plain, PlainAutoencoder, plain_loss
from benchmarks.contenders.task import BATCH_SIZE, LEARNING_RATE, Task, plain_start


class PilImages(Dataset[tuple[Any, int]]):
    """Holds images in memory, and hands them out one by one as PIL images."""

    def __init__(self, images: Tensor, labels: Tensor, transform: Any) -> None:
        self.images, self.labels, self.transform = images[:, 0], labels, transform  # (N, 28, 28)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        image = Image.fromarray(self.images[index].numpy(), mode="L")
        return self.transform(image), int(self.labels[index])


def example_loader(data: PreparedData, limit: int | None, signed: bool) -> DataLoader[tuple[Any, int]]:
    """Returns a loader of training images in [0, 1], or in [-1, 1] where `signed`."""
    steps: list[Any] = [transforms.ToTensor()]
    if signed:
        steps.append(transforms.Normalize((0.5,), (0.5,)))
    images = PilImages(images_of(data, "train", limit), labels_of(data, "train", limit), transforms.Compose(steps))
    return DataLoader(images, batch_size=BATCH_SIZE, shuffle=True)


def train_epoch(
    model: Plain, loader: DataLoader[Any], optimizer: torch.optim.Optimizer, device: torch.device, beta: float = 1.0
) -> float:
    """Trains one pass over the images, and returns the sum of the losses."""
    model.train()
    total = 0.0
    for images, _ in loader:
        x = images.to(device)
        optimizer.zero_grad()
        loss = plain_loss(model, x, beta)
        loss.backward()
        total += loss.item()
        optimizer.step()
    return total


def epochs(task: Task) -> Iterator[Epoch]:
    """Trains a preset's network."""
    model = plain_start(task)
    loader = example_loader(task.data, task.images, signed=isinstance(model, PlainAutoencoder))
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
    clock = Clock(task.device)
    for _ in range(task.epochs):
        clock.start()
        train_epoch(model, loader, optimizer, task.device)
        seconds = clock.stop()
        yield Epoch(seconds, seconds, plain_trained(model))
