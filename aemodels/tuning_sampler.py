"""Optuna's sampler and pruner: what to try, what to stop, what mattered.

They see a copy in memory of the earlier generations' results and nothing else, so what they decide depends neither on
what killed processes left in the storage, nor on Optuna's numbers, nor on which worker asks.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.importance import FanovaImportanceEvaluator, get_param_importances
from optuna.pruners import MedianPruner
from optuna.samplers import TPESampler
from optuna.study import StudyDirection
from optuna.trial import TrialState, create_trial

from aemodels.config import Choice, Range, Space
from aemodels.distributions import derived_seed
from aemodels.experiment import Experiment
from aemodels.tuning import Trial, TuningConfig, trial_experiment

RANDOM_TRIALS = 4  # before the sampler models the results, and complete ones before the pruner compares with them
ATTEMPTS = 20  # to draw parameters that no trial has had


class Sampler:
    """Decides from the results of earlier generations."""

    def __init__(self, experiment: Experiment, config: TuningConfig, space: Space, directions: Sequence[str]) -> None:
        self.distributions = {key: _distribution(values) for key, values in space.items()}
        self.directions = [StudyDirection[name.upper()] for name in directions]
        self._seed, self._own = experiment.seed, _own(experiment, space)
        granted = math.ceil(config.prune_after * trial_experiment(experiment, config, {}).training.epochs)
        self._pruner = MedianPruner(n_startup_trials=RANDOM_TRIALS, n_warmup_steps=granted)

    def in_memory(self, trials: Iterable[Trial], generation: int = 0) -> optuna.Study:
        """The trials as a study, numbered by index. A failed one counts as bad, so that its like does not come."""
        seed = derived_seed(self._seed, "sampler", generation) % 2**32
        sampler = TPESampler(n_startup_trials=RANDOM_TRIALS, seed=seed)
        study = optuna.create_study(sampler=sampler, directions=self.directions)
        for trial in trials:
            complete = trial.state == "complete"
            study.add_trial(
                create_trial(
                    state=TrialState.COMPLETE if complete else TrialState.PRUNED,
                    values=trial.values if complete else None,
                    params=trial.params,
                    distributions=self.distributions,
                    intermediate_values={} if trial.state == "failed" else trial.curve,
                )
            )
        return study

    def propose(self, count: int, earlier: Sequence[Trial], generation: int) -> list[dict[str, Any]]:
        """Parameters for a generation, a function of the seed and the earlier generations' results."""
        study, proposals = self.in_memory(earlier, generation), [trial.params for trial in earlier]
        if not earlier and self._own is not None:
            study.enqueue_trial(self._own)
        for _ in range(count):
            for _ in range(ATTEMPTS):
                trial = study.ask(self.distributions)
                if trial.params not in proposals:
                    break  # else it would train the same model again; asked for, it drives the next draws away
            proposals.append(trial.params)
        return proposals[len(earlier) :]

    def prunes(self, curve: Mapping[int, float], earlier: optuna.Study) -> bool:
        """Whether a trial does worse than half of the earlier generations' did at its age."""
        running = create_trial(state=TrialState.RUNNING, intermediate_values=dict(curve))
        return self._pruner.prune(earlier, running)

    def importances(self, study: optuna.Study) -> dict[str, float]:
        """Share of each parameter in how far the first objective varies; empty where too few trials tell."""
        complete = [trial for trial in study.trials if trial.state == TrialState.COMPLETE]
        if len(complete) < RANDOM_TRIALS or len({trial.values[0] for trial in complete}) == 1:
            return {}
        evaluator = FanovaImportanceEvaluator(seed=self._seed % 2**32)
        shares = get_param_importances(study, evaluator=evaluator, target=lambda trial: trial.values[0])
        return {key: float(share) for key, share in shares.items()}


def _distribution(values: Range | Choice) -> BaseDistribution:
    if isinstance(values, Choice):
        return CategoricalDistribution(values.choices)
    if isinstance(values.low, int) and isinstance(values.high, int):
        return IntDistribution(values.low, values.high, log=values.log)
    return FloatDistribution(values.low, values.high, log=values.log)


def _own(experiment: Experiment, space: Space) -> dict[str, Any] | None:
    """The experiment's own settings as parameters; None where they lie outside the space."""
    settings = experiment.flat()
    own = {key: settings.get(key, settings.get(f"{key}.name")) for key in space}  # a section stands for its variant
    return own if all(_holds(space[key], value) for key, value in own.items()) else None


def _holds(values: Range | Choice, value: Any) -> bool:
    if isinstance(values, Choice):
        return value in values.choices
    whole = isinstance(values.low, int) and isinstance(values.high, int)
    return isinstance(value, int | float) and values.low <= value <= values.high and (value == int(value) or not whole)
