"""Runs an epoch of a training and its validation, of any model: what train.py and population.py repeat.

B batch. All randomness of epoch e is a function of (seed, e): a resumed training equals an uninterrupted one bit for
bit on the CPU, whatever its caller does between two epochs.
"""

from __future__ import annotations

import math
import time

import torch
from torch import Tensor

from aemodels.data.batches import Batches
from aemodels.data.prepared import PreparedData
from aemodels.nn.corruption import CorruptionConfig
from aemodels.runtime import torchrun
from aemodels.runtime.devices import best_device
from aemodels.runtime.randomness import derived_seed, seeded
from aemodels.training.config import EPOCH, TrainingConfig, TrainingDivergedError
from aemodels.training.early_stopping import ends
from aemodels.training.graph import updates_of
from aemodels.training.state import TrainingState
from aemodels.training.update import Trainee

LEAST_VALIDATED = 1_000  # images that the validation after an epoch takes, at least


class Loop:
    """Runs an epoch of training and its validation, for one model or a population."""

    def __init__(self, model: Trainee, data: PreparedData, config: TrainingConfig, seed: int) -> None:
        self.model, self.seed = model, seed
        device = best_device()
        self.training = Batches(data, "train", device, config.images, shared=True)
        # If an epoch takes some images only, as in a search, its validation must not take longer than the training.
        shown = EPOCH * config.batch_size if config.epochs is None else config.images
        few = None if shown is None else max(LEAST_VALIDATED, shown // 10)
        self.validation = Batches(data, "val", device, few, shared=True)
        self.updates = updates_of(model, self.training, config, seed)
        self.warmup_epochs = math.ceil(model.warmup_steps / self.updates.updates_per_epoch)

    def epoch(self, index: int) -> list[dict[str, float]]:
        """Trains and validates, and returns the metrics of each member; a single model is one member."""
        started = time.perf_counter()
        first_step = (index - 1) * self.updates.updates_per_epoch
        table = self.updates.epoch(index, first_step)
        seconds = time.perf_counter() - started
        table |= self._held_out()
        shared = {
            "train/learning_rate": self.updates.rates(first_step)[-1],
            "train/seconds": seconds,
            "train/images_per_second": self.updates.images(first_step) / seconds,
        }
        members = len(next(iter(table.values())))
        return [{name: values[m] for name, values in table.items()} | shared for m in range(members)]

    def before(self) -> list[float]:
        """Returns the values of the members' weights before the first update, to select the best ones by.

        They are infinite for adversarial models, of which nothing is selected.
        """
        return self._held_out()[f"val/{self.model.selection}"] if self.model.selection else [math.inf]

    def _held_out(self) -> dict[str, list[float]]:
        return held_out_bound(self.model, self.validation, self.updates.config.corruption, self.seed)

    def ended(self, state: TrainingState) -> bool:
        """Tells whether a training ends after the state's epoch."""
        values = [self.selected(metrics, index) for index, metrics in enumerate(state.history, 1)]
        since = max(state.best_epoch, self.warmup_epochs)
        return ends(values[since:], state.epoch, self.updates.config, self.updates.updates_per_epoch)

    def go_on_with(self, model: Trainee, moments: dict[str, Tensor]) -> None:
        """Goes on with another model on the same images, with the optimisers' state that belongs to it."""
        self.updates.close()
        self.model, self.updates = model, updates_of(model, self.training, self.updates.config, self.seed)
        self.updates.load_moments(moments)

    def close(self) -> None:
        """Lets go of the graph of the updates.

        The graph and the updates hold each other, so their memory would wait for the garbage collector while an
        evaluation needs it.
        """
        self.updates.close()

    def selected(self, metrics: dict[str, float], index: int) -> float:
        """Returns the value that selects the best weights, smaller is better; adversarial models keep the last ones."""
        return metrics[f"val/{self.model.selection}"] if self.model.selection else -index


@torch.no_grad()
def held_out_bound(model: Trainee, batches: Batches, corruption: CorruptionConfig, seed: int) -> dict[str, list[float]]:
    """Returns the mean terms of the bound on held-out images, for each member; leaves evaluation mode on.

    The images are shown as in training, with the same noise at every call.
    """
    model.eval()
    totals: dict[str, Tensor] = {}
    left = len(batches)
    with seeded(derived_seed(seed, "validation")):
        for batch in batches.in_order(batches.at_once):
            with torchrun.sharing(batches.share(min(batches.at_once, left))):
                terms = model.bound(batch._replace(corrupted=corruption.apply(batch.x)))  # (B,) or (M, B) each
            left -= batches.at_once
            for name, term in terms.items():
                totals[name] = totals.get(name, 0) + term.sum(-1)
    if not totals:
        return {}
    means = (torchrun.add_up(torch.stack(list(totals.values()))) / len(batches)).tolist()  # one synchronisation
    return {f"val/{name}": m if isinstance(m, list) else [m] for name, m in zip(totals, means, strict=True)}


def refuse_non_finite(metrics: dict[str, float], epoch: int, config: TrainingConfig, stage: str = "") -> None:
    """Raises TrainingDivergedError if a metric is NaN or infinite."""
    bad = {name: value for name, value in metrics.items() if not math.isfinite(value)}
    if bad:
        name, value = next(iter(bad.items()))
        other = " or training.precision=float32" if config.precision != "float32" else ""
        raise TrainingDivergedError(
            f"{stage}epoch {epoch}: {name} is {value}; try a smaller training.learning_rate (it is "
            f"{config.learning_rate:g}), training.gradient_clip=1{other}"
        )
