"""Trains with the project's own loop."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from aemodels.data import PreparedData
from aemodels.experiment import Experiment
from aemodels.models.base import Autoencoder
from aemodels.models.vae import VAE
from aemodels.models.vae_gan import VAEGAN
from aemodels.training.train import train
from benchmarks.contenders.judge import Clock, Epoch, Trained
from benchmarks.contenders.task import Task, preset


def fast(task: Task) -> Experiment:
    """Returns the preset as a person uses it, with the settings of the preset `fast`."""
    whole, quicker = preset(task.preset), preset("fast")
    experiment = Experiment().override({"model": whole["model"], "training": whole["training"]}).override(quicker)
    return experiment.override({"training.images": task.images, "seed": task.seed})


def epochs(experiment: Experiment, data: PreparedData, task: Task) -> Iterator[Epoch]:
    """Trains, and yields each epoch with its own weights, not the best ones, as the peers do."""
    clock = Clock(task.device)
    for epoch in train(experiment.model, data, experiment.training, experiment.seed):
        wall = clock.stop()
        assert isinstance(epoch.model, Autoencoder)
        yield Epoch(epoch.metrics["train/seconds"], wall, trained(epoch.model))
        clock.start()


def trained(model: Autoencoder) -> Trained:
    """Returns a model of the project as the judge takes it."""
    is_vae = isinstance(model, VAE)

    def encode(x: Any) -> Any:
        q = model.encode(x)
        return q.mean, q.stddev if is_vae else None

    return Trained(encode, lambda z: model.decode(z).mean, model.latent_dim if isinstance(model, VAEGAN) else None)
