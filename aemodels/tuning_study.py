"""The record of a search in Optuna's storage, and Optuna's sampler and pruner on it: the only `import optuna`.

The storage is written for people, for other machines and for the next process. Sampler and pruner see a copy in memory
of the earlier generations' results and nothing else, so what they decide depends neither on what killed processes left
nor on Optuna's numbers. A trial that was run again has several rows in the storage, with the same `index`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import optuna
from filelock import FileLock
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.exceptions import OptunaError
from optuna.importance import FanovaImportanceEvaluator, get_param_importances
from optuna.pruners import MedianPruner
from optuna.samplers import TPESampler
from optuna.storages import RDBStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial
from sqlalchemy import make_url
from sqlalchemy.exc import SQLAlchemyError

from aemodels.config import Choice, Range, Space, UserError
from aemodels.distributions import derived_seed
from aemodels.environment import store_folder
from aemodels.evaluation import direction
from aemodels.experiment import Experiment
from aemodels.trials import Goals
from aemodels.tuning import SearchResult, Trial, TuningConfig, search_space, trial_experiment

RANDOM_TRIALS = 4  # before the sampler models the results, and complete ones before the pruner compares with them
SECONDS_FOR_OTHERS = 60  # to finish their write to the same database
ATTEMPTS = 20  # to draw parameters that no trial has had
STATES: dict[TrialState, Literal["waiting", "running", "complete", "pruned"]] = {
    TrialState.WAITING: "waiting",
    TrialState.RUNNING: "running",
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
}
OPTUNA_STATES = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}


def open_study(name: str, experiment: Experiment, config: TuningConfig, storage: str | None = None) -> Study:
    """The study of that name, as it stands, or a new one.

    Args:
        storage: a database's URL; None is optuna.db in the store's folder.

    Raises:
        SettingsError: the search space does not fit the experiment.
        UserError: the database is damaged, of another version of Optuna, or does not answer.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    space = search_space(experiment, config)
    try:
        return Study(name, experiment, config, space, _embedded_storage() if storage is None else RDBStorage(storage))
    except (SQLAlchemyError, OptunaError, RuntimeError, ImportError) as error:
        remedy = f"move {_database()} away" if storage is None else f"check {make_url(storage).render_as_string()}"
        reason = str(error).partition("\n")[0]
        raise UserError(f"the database of searches does not open ({reason}); {remedy}") from None


def _database() -> Path:
    return store_folder() / "optuna.db"


def _embedded_storage() -> RDBStorage:
    """Write-ahead logging makes a write 4 ms instead of 20, and survives kill -9."""
    path = _database()
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):  # two processes that create the tables at once would fail
        storage = RDBStorage(f"sqlite:///{path}", engine_kwargs={"connect_args": {"timeout": SECONDS_FOR_OTHERS}})
        with storage.engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA journal_mode=WAL")
    return storage


class Study:
    """A search's trials, what to try next, and a few notes."""

    def __init__(
        self, name: str, experiment: Experiment, config: TuningConfig, space: Space, storage: RDBStorage
    ) -> None:
        self.name, self.space = name, space
        self.primary = experiment.evaluation.primary
        self.objectives = config.pareto or (self.primary,)
        self.directions = tuple(direction(metric) for metric in self.objectives)
        self.goals = Goals(self.objectives, self.primary if config.prune and config.pareto is None else None)
        self._config, self._seed, self._own = config, experiment.seed, _own(experiment, space)
        self._distributions = {key: _distribution(values) for key, values in space.items()}
        granted = math.ceil(config.prune_after * trial_experiment(experiment, config, {}).training.epochs)
        self._pruner = MedianPruner(n_startup_trials=RANDOM_TRIALS, n_warmup_steps=granted)
        self._storage, self._id = storage, self._find(storage)
        self._rows: dict[int, int] = {}  # index -> Optuna's id of the row that counts
        self._earlier = self._in_memory((), 0)  # the results that the present generation is compared with

    def _find(self, storage: RDBStorage) -> int:
        try:
            return storage.get_study_id_from_name(self.name)
        except KeyError:
            return storage.create_new_study(self._optuna_directions(), self.name)

    def _optuna_directions(self) -> list[StudyDirection]:
        return [StudyDirection[name.upper()] for name in self.directions]

    def notes(self) -> dict[str, Any]:
        """What was remembered, by this process or another."""
        return self._storage.get_study_user_attrs(self._id)

    def remember(self, key: str, value: str) -> None:
        """Keeps a fact with the study, such as the id of the run that its trials are logged under."""
        self._storage.set_study_user_attr(self._id, key, value)

    # ---------------------------------------------------------------- the record

    def trials(self) -> list[Trial]:
        """All recorded trials, by index."""
        rows = sorted(self._storage.get_all_trials(self._id), key=lambda row: row.number)
        latest = {row.user_attrs["index"]: row for row in rows}
        self._rows = {index: row._trial_id for index, row in latest.items()}
        return [_trial(latest[index]) for index in sorted(latest)]

    def recover(self) -> None:
        """What a killed process left running is interrupted, and will be run again."""
        for row in self._storage.get_all_trials(self._id, states=(TrialState.RUNNING,)):
            self._storage.set_trial_state_values(row._trial_id, TrialState.FAIL)

    def generation(self, number: int) -> list[Trial]:
        """The trials of a generation, recorded: ended, or waiting."""
        first = number * self._config.generation
        indices = range(first, min(first + self._config.generation, self._config.trials))
        known = {trial.index: trial for trial in self.trials()}
        earlier = [known[index] for index in range(first)]
        self._earlier = self._in_memory(earlier, number)
        proposals = self._propose(len(indices), [trial.params for trial in earlier])
        for index, proposal in zip(indices, proposals, strict=True):
            if index not in known:
                self._record(index, proposal)
            elif known[index].state == "interrupted":
                self._record(index, known[index].params)
        return [trial for trial in self.trials() if trial.index in indices]

    def _record(self, index: int, params: dict[str, Any]) -> None:
        row = create_trial(
            state=TrialState.WAITING,
            params=params,
            distributions=self._distributions,
            user_attrs={"index": index, "generation": index // self._config.generation},
        )
        self._storage.create_new_trial(self._id, row)

    def start(self, trial: Trial) -> None:
        """Records that a waiting trial runs."""
        self._storage.set_trial_state_values(self._rows[trial.index], TrialState.RUNNING)

    def report(self, trial: Trial, epoch: int, value: float) -> None:
        """Records a running trial's objective after an epoch."""
        self._storage.set_trial_intermediate_value(self._rows[trial.index], epoch, value)

    def end(self, trial: Trial) -> None:
        """Records how a trial ended. The last write is the one that counts: killed before it, the trial runs again."""
        row = self._rows[trial.index]
        facts = {"metrics": trial.metrics, "seconds": trial.seconds, "error": trial.error}
        for key, value in facts.items():
            if value:
                self._storage.set_trial_user_attr(row, key, value)
        self._storage.set_trial_state_values(row, OPTUNA_STATES[trial.state], trial.values or None)

    # ---------------------------------------------------------------- what to try, what to stop

    def prunes(self, curve: Mapping[int, float]) -> bool:
        """Whether a trial of the present generation does worse than half of the earlier ones did at its age."""
        running = create_trial(state=TrialState.RUNNING, intermediate_values=dict(curve))
        return self._pruner.prune(self._earlier, running)

    def _propose(self, count: int, seen: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Parameters for the present generation, a function of the seed and the earlier generations' results."""
        proposals = list(seen)
        if not seen and self._own is not None:
            self._earlier.enqueue_trial(self._own)
        for _ in range(count):
            for _ in range(ATTEMPTS):
                trial = self._earlier.ask(self._distributions)
                if trial.params not in proposals:
                    break  # else it would train the same model again; asked for, it drives the next draws away
            proposals.append(trial.params)
        return proposals[len(seen) :]

    def _in_memory(self, trials: Iterable[Trial], generation: int) -> optuna.Study:
        """The trials as a study, numbered by index. A failed one counts as bad, so that its like does not come."""
        seed = derived_seed(self._seed, "sampler", generation) % 2**32
        sampler = TPESampler(n_startup_trials=RANDOM_TRIALS, seed=seed)
        study = optuna.create_study(sampler=sampler, directions=self._optuna_directions())
        for trial in trials:
            complete = trial.state == "complete"
            study.add_trial(
                create_trial(
                    state=TrialState.COMPLETE if complete else TrialState.PRUNED,
                    values=trial.values if complete else None,
                    params=trial.params,
                    distributions=self._distributions,
                    intermediate_values={} if trial.state == "failed" else trial.curve,
                )
            )
        return study

    # ---------------------------------------------------------------- what came out

    def result(self) -> SearchResult:
        """The best trials.

        Raises:
            UserError: every trial failed.
        """
        trials = self.trials()
        if not any(trial.state == "complete" for trial in trials):
            errors = [trial.error for trial in trials if trial.error]
            raise UserError(f"search {self.name}: all {len(trials)} trials failed, the first of them with: {errors[0]}")
        study = self._in_memory(trials, 0)
        best = [study.best_trial] if len(self.objectives) == 1 else study.best_trials
        front = sorted((trials[row.number] for row in best), key=lambda trial: trial.values)
        sign = -1 if direction(self.primary) == "maximize" else 1
        chosen = min(front, key=lambda trial: _finite(sign * trial.metrics[self.primary]))
        return SearchResult(
            self.name, self.space, self.objectives, self.directions, trials, front, chosen, self._importances(study)
        )

    def _importances(self, study: optuna.Study) -> dict[str, float]:
        """Share of each parameter in how far the first objective varies; empty where too few trials tell."""
        complete = [trial for trial in study.trials if trial.state == TrialState.COMPLETE]
        if len(complete) < RANDOM_TRIALS or len({trial.values[0] for trial in complete}) == 1:
            return {}
        evaluator = FanovaImportanceEvaluator(seed=self._seed % 2**32)
        shares = get_param_importances(study, evaluator=evaluator, target=lambda trial: trial.values[0])
        return {key: float(share) for key, share in shares.items()}


def _finite(value: float) -> float:
    """Worse than any other, where it is no number."""
    return value if math.isfinite(value) else math.inf


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


def _trial(row: FrozenTrial) -> Trial:
    error = row.user_attrs.get("error", "")
    return Trial(
        index=row.user_attrs["index"],
        params=row.params,
        state=STATES.get(row.state) or ("failed" if error else "interrupted"),
        values=tuple(row.values or ()) if row.state == TrialState.COMPLETE else (),
        metrics=row.user_attrs.get("metrics", {}),
        curve=row.intermediate_values,
        seconds=row.user_attrs.get("seconds", 0.0),
        error=error,
    )
