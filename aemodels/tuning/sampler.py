"""Samples with Optuna: what to try, and what mattered.

The sampler sees a copy in memory of the earlier generations' results and nothing else. So what it decides depends
neither on what killed processes left in the storage, nor on Optuna's numbers, nor on which process asks.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.importance import FanovaImportanceEvaluator, get_param_importances
from optuna.samplers import TPESampler
from optuna.study import StudyDirection
from optuna.trial import TrialState, create_trial

from aemodels.config import Choice, Range, Space
from aemodels.runtime.randomness import derived_seed
from aemodels.tuning.events import Trial
from aemodels.tuning.task import Task

RANDOM_TRIALS = 4  # trials that are drawn before the sampler models the results, or tells what mattered
ATTEMPTS = 20  # how often Optuna may draw settings, before a trial takes others that no trial has had


class Sampler:
    """Decides from the results of earlier generations what to try."""

    def __init__(self, task: Task, directions: Sequence[str]) -> None:
        self._task, self.space = task, task.space
        self.distributions = {key: _distribution(values) for key, values in self.space.items()}
        self.directions = [StudyDirection[name.upper()] for name in directions]
        self._seed, self._own = task.given.seed, _own(task)
        self._values = _all_values(self.space)

    def in_memory(self, trials: Iterable[Trial], generation: int = 0) -> optuna.Study:
        """Returns the trials as a study, numbered by index; a failed one counts as bad, so its like is not drawn."""
        seed = derived_seed(self._seed, "sampler", generation) % 2**32
        sampler = TPESampler(n_startup_trials=RANDOM_TRIALS, seed=seed)
        study = optuna.create_study(sampler=sampler, directions=self.directions)
        for trial in trials:
            complete = trial.state == "complete"
            study.add_trial(
                create_trial(
                    state=TrialState.COMPLETE if complete else TrialState.PRUNED,
                    values=trial.values if complete else None,
                    params=self.encoded(trial.params),
                    distributions=self.distributions,
                    intermediate_values={} if trial.state == "failed" else trial.curve,
                )
            )
        return study

    def encoded(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Returns parameters as Optuna keeps them: it knows no lists and no sections, so they are JSON text there."""
        return {key: _label(value) if isinstance(self.space[key], Choice) else value for key, value in params.items()}

    def decoded(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Returns parameters of Optuna's as the experiment takes them."""
        return {key: _value(self.space[key], label) for key, label in params.items()}

    def total(self) -> int:
        """Returns how many trials there are: `tuning.trials`, or fewer where the space holds fewer settings."""
        enough = self._task.config.trials
        if self._values is None:
            return enough
        some = [values[:enough] if isinstance(values, range) else values for values in self._values.values()]
        found: set[str] = set()
        for values in product(*some):  # two choices may say the same, such as 1 and 1.0
            found.add(self._trained(dict(zip(self._values, values, strict=True))))
            if len(found) == enough:
                break
        return len(found)

    def propose(self, count: int, earlier: Sequence[Trial], generation: int) -> list[dict[str, Any]]:
        """Returns the parameters of a generation, a function of the seed and the earlier generations' results."""
        study, tried = self.in_memory(earlier, generation), {self._trained(trial.params) for trial in earlier}
        rest = random.Random(derived_seed(self._seed, "untried", generation))
        if not earlier and self._own is not None:
            study.enqueue_trial(self.encoded(self._own))
        proposals = []
        for _ in range(count):
            proposals.append(self._untried(study, tried, rest))
            tried.add(self._trained(proposals[-1]))
        return proposals

    def _untried(self, study: optuna.Study, tried: set[str], rest: random.Random) -> dict[str, Any]:
        """Proposes settings that no trial has had.

        A proposal that was known already stays in Optuna's study, which then proposes something else. Where it insists,
        one of the other settings is drawn; one is left, as there are no more trials than `total` says.
        """
        for _ in range(ATTEMPTS):
            params = self.decoded(study.ask(self.distributions).params)
            if self._trained(params) not in tried:
                return params
        while self._values is not None and self._trained(params) in tried:
            params = {key: rest.choice(values) for key, values in self._values.items()}
        return params

    def _trained(self, params: Mapping[str, Any]) -> str:
        """Returns all settings of a trial as text: trials of the same text train the same model."""
        return self._task.trial(params).model_dump_json()

    def importances(self, study: optuna.Study) -> dict[str, float]:
        """Returns each parameter's share in how far the first objective varies; it is empty if too few trials tell."""
        complete = [trial for trial in study.trials if trial.state == TrialState.COMPLETE]
        if len(complete) < RANDOM_TRIALS or len({trial.values[0] for trial in complete}) == 1:
            return {}
        evaluator = FanovaImportanceEvaluator(seed=self._seed % 2**32)
        shares = get_param_importances(study, evaluator=evaluator, target=lambda trial: trial.values[0])
        return {key: float(share) for key, share in shares.items()}


def _distribution(values: Range | Choice) -> BaseDistribution:
    if isinstance(values, Choice):
        return CategoricalDistribution([_label(value) for value in values.choices])
    if values.whole:
        return IntDistribution(int(values.low), int(values.high), log=values.log)
    return FloatDistribution(values.low, values.high, log=values.log)


def _label(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, list | dict) else value


def _value(varied: Range | Choice, label: Any) -> Any:
    if not isinstance(varied, Choice):
        return label
    return next(value for value in varied.choices if _label(value) == label)


def _all_values(space: Space) -> dict[str, Sequence[Any]] | None:
    """Returns key -> all values there are; None where they are without number."""
    values: dict[str, Sequence[Any]] = {}
    for key, varied in space.items():
        if isinstance(varied, Choice):
            values[key] = varied.choices
        elif varied.whole:
            values[key] = range(int(varied.low), int(varied.high) + 1)
        elif varied.low == varied.high:
            values[key] = (varied.low,)
        else:
            return None
    return values


def _own(task: Task) -> dict[str, Any] | None:
    """Returns the experiment's own settings as parameters; None where they lie outside the space."""
    own_experiment = task.whole({})
    settings = own_experiment.flat()
    own = {}
    for key, varied in task.space.items():
        if isinstance(varied, Choice):
            chosen = ((value, task.whole({key: value})) for value in varied.choices)
            held = [value for value, whole in chosen if whole == own_experiment]
        else:
            held = [value for value in (settings.get(key),) if _holds(varied, value)]
        if not held:
            return None
        own[key] = held[0]
    return own


def _holds(values: Range, value: Any) -> bool:
    return (
        isinstance(value, int | float)
        and values.low <= value <= values.high
        and (value == int(value) or not values.whole)
    )
