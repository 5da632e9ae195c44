"""Trains the models whose samples have an order, each once, and keeps the samples.

The order of some is known: longer trained VAEs with an MLP are better, larger linear codes too, and a VAE-GAN that was
starved (a hundred updates, which draw checkerboards) is worse than a VAE that was trained for longer. That of others
is not, as their pictures showed: VAEs with the default trunk start at the linear code, so that people see no
difference for a while, and samples of the largest linear code are sharp, but a mess.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from aemodels.data import PreparedData
from aemodels.evaluation.references import Size, fit_mixture, linear_reference
from aemodels.experiment import Experiment
from aemodels.models.base import GenerativeModel
from aemodels.runtime.randomness import seeded
from aemodels.training.models import best_model
from aemodels.training.train import train

CPU = torch.device("cpu")
LENGTHS = (10, 3, 1)  # of the trainings of a VAE, the best first, in so many updates:
UPDATES, FEWER = 100, 30
LARGE = 64  # pixels a side, from which on an update of the default trunk takes a second
PLAIN = "mlp_vae"  # a VAE with an MLP, which does not start at the linear code
# The groups of systems, in each of which every system is better than the next.
ORDERED = {
    "linear codes": ["linear 20", "linear 5"],
    "training": [f"{PLAIN} {length}" for length in LENGTHS],
    "starved vae_gan": [f"vae {LENGTHS[0]}", "vae_gan 1"],
}
# Those of which nobody knows whether every system is better than the next.
UNSURE = {
    "large linear code": ["linear 64", "linear 20"],
    "default training": [f"vae {length}" for length in LENGTHS],
}
GROUPS = {**ORDERED, **UNSURE}
SYSTEMS = list(dict.fromkeys(name for group in GROUPS.values() for name in group))


def samples(system: str, data: PreparedData, count: int, folder: Path) -> NDArray[np.uint8]:
    """Returns so many samples (N, C, H, W) of a system, kept in a file of the folder once they are drawn."""
    file = folder / f"{data.digest}-{system.replace(' ', '-')}.npz"
    if not file.exists():
        started = time.perf_counter()
        drawn = _drawn(_model(system, data), count)
        np.savez(file, images=drawn)
        print(f"{system}: {time.perf_counter() - started:.0f} s", file=sys.stderr, flush=True)
    images: NDArray[np.uint8] = np.load(file)["images"]
    return images


def _model(system: str, data: PreparedData) -> GenerativeModel:
    name, _, number = system.partition(" ")
    if name == "linear":
        reference = linear_reference(data, Size(int(number), None), CPU)
        fit_mixture(reference, data, None, seed=0)
        return reference.eval()
    unit = FEWER if name == "vae" and max(data.image_shape) >= LARGE else UPDATES
    kind = {"model.name": "vae", "model.trunk.name": "mlp"} if name == PLAIN else {"model.name": name}
    experiment = Experiment().override({**kind, "training.updates": int(number) * unit}).for_data(data)
    for epoch in train(experiment.model, data, experiment.training, experiment.seed):
        state = epoch.state
    return best_model(experiment.model, data, experiment.training, experiment.seed, state)


@torch.no_grad()
def _drawn(model: GenerativeModel, count: int) -> NDArray[np.uint8]:
    with seeded(0):
        images = torch.cat([model.sample(len(part)) for part in torch.zeros(count).split(100)])
    pixels: NDArray[np.uint8] = (images.clamp(0, 1) * 255).round().byte().numpy()
    return pixels
