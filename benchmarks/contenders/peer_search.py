"""Runs the searches of the peers: a study of Optuna, or a plain loop, whose objective is the example loop.

They run in one process with all threads. The data set is made once, before the time counts.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch

from aemodels.data import PreparedData
from benchmarks.contenders.configuration import Configuration, answer
from benchmarks.contenders.judge import Trained, plain_trained, validation_error
from benchmarks.contenders.networks import plain_model
from benchmarks.contenders.task import LEARNING_RATE
from benchmarks.contenders.with_example import example_loader, train_epoch
from benchmarks.jobs import Job, Measured

if TYPE_CHECKING:
    import optuna

RANDOM_TRIALS = 4  # before sampler and pruner look at results: as many as the project's own search has


class Trainer:
    """Trains the article's VAE by the example loop."""

    def __init__(self, job: Job) -> None:
        self.data, self.device = PreparedData.model_validate(job.data), torch.device(job.device)
        self.epochs: int = job.settings["epochs"]
        self.loader = example_loader(self.data, job.settings["images"], signed=False)

    def train(self, configuration: Configuration, seed: int) -> Iterator[Trained]:
        """Trains a network, and yields it after each epoch."""
        torch.manual_seed(seed)
        model = plain_model("article-vae", configuration.latent_dim).to(self.device)
        optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
        for _ in range(self.epochs):
            train_epoch(model, self.loader, optimizer, self.device, configuration.beta)
            yield plain_trained(model)

    def error(self, trained: Trained) -> float:
        """Returns the objective: the squared error on the validation images."""
        return validation_error(trained, self.data, self.device)

    def final_error(self, configuration: Configuration, seed: int) -> float:
        """Returns the objective after a whole training."""
        *_, last = self.train(configuration, seed)
        return self.error(last)


def fixed(job: Job, configurations: Sequence[Configuration]) -> Measured:
    """Trains every n-th of the configurations, as the job says."""
    indices = range(0, len(configurations), job.settings["peer_every"])
    trainer, chosen = Trainer(job), [configurations[index] for index in indices]
    started = time.perf_counter()
    if job.contender == "optuna":
        values = _enqueued(trainer, chosen, job.seed)
    else:
        values = [trainer.final_error(configuration, job.seed) for configuration in chosen]
    return answer(job, time.perf_counter() - started, dict(zip(indices, values, strict=True)))


def _enqueued(trainer: Trainer, configurations: Sequence[Configuration], seed: int) -> list[float]:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="minimize")
    for configuration in configurations:
        study.enqueue_trial(configuration._asdict())
    study.optimize(lambda trial: trainer.final_error(_suggested(trial), seed), n_trials=len(configurations))
    return [trial.values[0] for trial in study.trials]


def pruned(job: Job) -> Measured:
    """Searches with Optuna's own sampler and pruner, and as many random trials and granted epochs as the project."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    trainer = Trainer(job)

    def objective(trial: optuna.Trial) -> float:
        error = float("nan")
        for epoch, trained in enumerate(trainer.train(_suggested(trial), job.seed), start=1):
            error = trainer.error(trained)
            trial.report(error, epoch)
            if epoch < trainer.epochs and trial.should_prune():
                raise optuna.TrialPruned
        return error

    started = time.perf_counter()
    sampler = optuna.samplers.TPESampler(n_startup_trials=RANDOM_TRIALS, seed=job.seed)
    pruner = optuna.pruners.MedianPruner(n_startup_trials=RANDOM_TRIALS, n_warmup_steps=job.settings["granted"])
    study = optuna.create_study(direction="minimize", sampler=sampler, pruner=pruner)
    study.enqueue_trial({"latent_dim": 20, "beta": 1.0})  # the preset's own settings come first, as in the project
    study.optimize(objective, n_trials=job.settings["trials"])
    seconds = time.perf_counter() - started
    states = [trial.state for trial in study.trials]
    count = states.count(optuna.trial.TrialState.PRUNED)
    return {"seconds": seconds, "best": study.best_value, "pruned": count, "trials": len(states)}


def _suggested(trial: optuna.Trial) -> Configuration:
    """Returns the settings that Optuna suggests from the model's own search space."""
    return Configuration(
        trial.suggest_int("latent_dim", 2, 64, log=True), trial.suggest_float("beta", 0.1, 10.0, log=True)
    )
