"""Defines a training that every contender does alike: Adam at a constant rate, no weight decay, the same start."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import torch

from aemodels.data import PreparedData
from aemodels.experiment import Experiment
from aemodels.training.models import new_model
from benchmarks.contenders.networks import Plain, plain_model
from benchmarks.jobs import ROOT

PRESETS = ROOT / "aemodels" / "presets"
ARTICLE = PRESETS / "comparisons" / "article.json"
BATCH_SIZE = 128
LEARNING_RATE = 1e-3
# All of it, whatever the project's own defaults are.
ALIKE = {
    "batch_size": BATCH_SIZE,
    "learning_rate": LEARNING_RATE,
    "optimizer": "adam",
    "weight_decay": 0.0,
    "schedule": "constant",
    "warmup_steps": 0,
    "gradient_clip": None,
    "precision": "float32",
    "patience": None,
}


class Task(NamedTuple):
    """A task says what to train."""

    preset: str  # the preset that has the model
    data: PreparedData
    images: int | None  # the first so many training images; None: all
    epochs: int
    seed: int
    device: torch.device


def preset(name: str) -> dict[str, Any]:
    """Returns the sections of a preset, or of a system that only the article's comparison has."""
    file = PRESETS / f"{name}.json"
    found: dict[str, Any] = json.loads((file if file.exists() else ARTICLE).read_text())
    sections: dict[str, Any] = found if file.exists() else found["systems"][name]
    return sections


def alike(task: Task) -> Experiment:
    """Returns the experiment with the preset's model, trained as all contenders train it."""
    training = ALIKE | {"epochs": task.epochs, "images": task.images}
    return Experiment().override({"model": preset(task.preset)["model"], "training": training, "seed": task.seed})


def plain_start(task: Task) -> Plain:
    """Returns the peers' network, on the device, with the initial weights of the project's model of that seed.

    By chance of the initial weights the article's convolutional autoencoder is at a squared error of 0.04 or of 0.08
    after three epochs (seen with six seeds): networks that start alike can be compared.
    """
    plain = plain_model(task.preset)
    given = new_model(alike(task).model, task.data, task.seed, images=task.images)
    with torch.no_grad():
        for own, parameter in zip(plain.parameters(), given.parameters(), strict=True):  # encoder, code, decoder, ...
            if own.shape != parameter.shape:
                raise ValueError(f"{task.preset}: a layer of {tuple(own.shape)}, the project's is {parameter.shape}")
            own.copy_(parameter)
    torch.manual_seed(task.seed)
    return plain.to(task.device)
