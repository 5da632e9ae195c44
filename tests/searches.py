"""Makes searches whose trials are pretended, or small."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence
from itertools import count
from typing import Any

import pytest
import torch

from aemodels.data import PreparedData, batches
from aemodels.experiment import Experiment
from aemodels.tuning.config import TuningConfig
from aemodels.tuning.events import Event, SearchResult
from aemodels.tuning.messages import MemberEnd, MemberEpoch, MemberStart, TrialEvents
from aemodels.tuning.opening import open_study
from aemodels.tuning.runner import Runner
from aemodels.tuning.search import search
from aemodels.tuning.task import Task

NAMES = (f"test-{number}" for number in count())
EXPERIMENT = Experiment().override({"model.trunk": "mlp", "model.likelihood": "bernoulli"})
CONFIG = TuningConfig(trials=8, generation=3, epochs=4, prune_after=0.25)
SMALL = Experiment().override(
    {
        "model.trunk.widths": [16],
        "training.epochs": 3,
        "training.images": 128,
        "training.batch_size": 32,
        "evaluation.primary": "mse",
    }
)


def miss(experiment: Experiment) -> float:
    """Returns how far a model is from the best one."""
    model: Any = experiment.model
    return math.log(model.latent_dim / 12) ** 2 + math.log(model.beta / 0.7) ** 2


def pretend(index: int, experiment: Experiment, watched: str | None) -> TrialEvents:
    """Pretends a trial, which trains nothing."""
    value = miss(experiment)
    for epoch in range(1, experiment.training.number_of_epochs + 1):
        stop = yield MemberEpoch(index, epoch, {"train/loss": value}, value + 1 / epoch if watched else None, epoch)
        if stop:
            return
    model: Any = experiment.model
    yield MemberEnd(index, {"frechet_samples": value, "mse": 1 / model.latent_dim}, epoch)


def replace_trials(
    monkeypatch: pytest.MonkeyPatch, trial: Callable[[int, Experiment, str | None], TrialEvents]
) -> None:
    def run(self: Runner, experiments: Sequence[Experiment]) -> TrialEvents:
        for index, experiment in enumerate(experiments):
            yield MemberStart(index)
            yield from trial(index, experiment, self.conditions.goals.watched)

    monkeypatch.setattr(Runner, "run", run)
    monkeypatch.setattr(Runner, "start", lambda *_: None)


def run(
    data: PreparedData, config: TuningConfig = CONFIG, experiment: Experiment = EXPERIMENT, name: str | None = None
) -> tuple[list[Event], SearchResult]:
    study = open_study(name or next(NAMES), Task(experiment, config, data))
    features: Any = object() if experiment is not SMALL else None
    steps = search(study, features)
    events = []
    while True:
        try:
            events.append(next(steps))
        except StopIteration as end:
            return events, end.value


def facts(result: SearchResult) -> list[dict[str, Any]]:
    """Returns what a killed and an uninterrupted search have in common: all but the time that trials took."""
    return [{**vars(trial), "seconds": None} for trial in result.trials]


def kept(sizes: Sequence[int]) -> Generator[list[int], None, None]:
    """Returns what may stay in 1,000 free bytes. It runs in a process that finds it in the module `searches`."""
    batches.free_memory = lambda _: 1000
    yield [size for size in sizes if batches.fits(size, torch.device("cpu"))]
