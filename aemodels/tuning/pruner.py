"""Decides which trials stop before their end: those that do worse than half of the earlier ones did at their age."""

from __future__ import annotations

import math
from collections.abc import Mapping

import optuna
from optuna.pruners import MedianPruner
from optuna.trial import TrialState, create_trial

from aemodels.tuning.task import Task

LEAST_TRIALS = 4  # complete ones, before others are compared with them


class Pruner:
    """Stops trials by the median rule, once they had the share `tuning.prune_after` of their epochs."""

    def __init__(self, task: Task) -> None:
        granted = math.ceil(task.config.prune_after * task.trial({}).training.number_of_epochs)
        self._rule = MedianPruner(n_startup_trials=LEAST_TRIALS, n_warmup_steps=granted)

    def prunes(self, curve: Mapping[int, float], earlier: optuna.Study) -> bool:
        """Tells whether a trial with this curve, epoch -> value, does worse than half of the earlier generations'."""
        running = create_trial(state=TrialState.RUNNING, intermediate_values=dict(curve))
        return self._rule.prune(earlier, running)
