"""Trains with Lightning's trainer and the example's DataLoader, without logger, checkpoints and progress bar."""

# mypy: allow-subclassing-any, disable-error-code="import-not-found,import-untyped"

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Iterator
from typing import Any

import lightning
import torch
from torch import Tensor

from benchmarks.contenders.judge import Clock, Epoch, plain_trained
from benchmarks.contenders.networks import PlainAutoencoder, plain_loss
from benchmarks.contenders.task import LEARNING_RATE, Task, plain_start
from benchmarks.contenders.with_example import example_loader


class _Module(lightning.LightningModule):
    """Wraps a plain model for Lightning, and times the epochs."""

    def __init__(self, task: Task, clock: Clock) -> None:
        super().__init__()
        self.plain, self.clock = plain_start(task), clock

    def training_step(self, batch: Any, _: int) -> Tensor:
        return plain_loss(self.plain, batch[0])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=LEARNING_RATE)

    def on_train_epoch_start(self) -> None:
        self.clock.start()

    def on_train_epoch_end(self) -> None:
        self.clock.stop()


def epochs(task: Task) -> Iterator[Epoch]:
    """Trains a preset's network; all epochs come at the end."""
    warnings.simplefilter("ignore")
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    clock = Clock(task.device)
    module = _Module(task, clock)
    loader = example_loader(task.data, task.images, signed=isinstance(module.plain, PlainAutoencoder))
    with tempfile.TemporaryDirectory() as folder:
        trainer = lightning.Trainer(
            accelerator="gpu" if task.device.type == "cuda" else "cpu",
            devices=1,
            max_epochs=task.epochs,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=folder,
        )
        trainer.fit(module, loader)
    module.to(task.device)  # it takes the model back to the CPU
    for seconds in clock.seconds:
        yield Epoch(seconds, seconds, plain_trained(module.plain))
