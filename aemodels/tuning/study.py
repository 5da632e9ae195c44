"""Keeps the record of a search in Optuna's storage, for people, for other processes and for the next process.

A trial that was run again has several rows in the storage, with the same `index`. The first that was not interrupted
counts. So two processes that record a generation at the same moment agree, without a lock, on the rows that they run.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, suppress
from types import TracebackType
from typing import Any, Literal, Self

import optuna
from optuna.exceptions import DuplicatedStudyError, UpdateFinishedTrialError
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState, create_trial

from aemodels.config import UnreachableError, UserError
from aemodels.evaluation.evaluate import direction
from aemodels.runtime.files import in_words
from aemodels.tuning.claims import Claims
from aemodels.tuning.events import SearchResult, Trial
from aemodels.tuning.messages import Goals
from aemodels.tuning.pruner import Pruner
from aemodels.tuning.sampler import Sampler
from aemodels.tuning.storage import DATABASE_ERRORS, INTERRUPTED
from aemodels.tuning.task import Task

FINISHED = "finished"  # the key of a note of the study
STATES: dict[TrialState, Literal["waiting", "running", "complete", "pruned"]] = {
    TrialState.WAITING: "waiting",
    TrialState.RUNNING: "running",
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
}
OPTUNA_STATES = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}


class Study:
    """Holds a search's trials, what to try next, and notes; as a context manager it gives back what still runs."""

    def __init__(self, name: str, task: Task, storage: RDBStorage, claims: type[Claims] = Claims) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.name, self.task, self.shared, config = name, task, claims is not Claims, task.config
        self.primary = task.given.evaluation.primary
        self.objectives = config.pareto or (self.primary,)
        self.directions = tuple(direction(metric) for metric in self.objectives)
        self.goals = Goals(self.objectives, self.primary if config.prune and config.pareto is None else None)
        self._sampler = Sampler(task, self.directions)
        self._pruner = Pruner(task)
        self.config = config.override({"trials": self._sampler.total()})
        """Holds the settings of the search, with no more trials than there are settings in its space."""
        self._storage, self._id = storage, self._find(storage)
        self._claims = claims(storage, self._id)
        self._rows: dict[int, int] = {}  # index -> Optuna's id of the row that counts
        self._mine: dict[int, int] = {}  # index -> Optuna's id of the row that this process claimed
        self._present = -1  # the number of the present generation
        self._earlier = self._sampler.in_memory(())  # the results that this generation is compared with

    def _find(self, storage: RDBStorage) -> int:
        with suppress(KeyError):
            return storage.get_study_id_from_name(self.name)
        with suppress(DuplicatedStudyError):  # another process was faster
            return storage.create_new_study(self._sampler.directions, self.name)
        return storage.get_study_id_from_name(self.name)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(*DATABASE_ERRORS):  # if the database does not answer, the leases run out
            self._claims.release()
        if isinstance(error, DATABASE_ERRORS):
            reason = str(error.__cause__ or error).partition("\n")[0]
            raise in_words(error) or UnreachableError(
                f"the database of searches does not answer any more ({reason}); when it does, the same command goes on"
            ) from error

    # ---------------------------------------------------------------- notes, and the other processes

    def notes(self) -> dict[str, Any]:
        """Returns what was remembered, by this process or another."""
        return self._storage.get_study_user_attrs(self._id)

    def remember(self, key: str, value: str) -> None:
        """Keeps a fact with the study, such as the id of the run that its trials are logged under."""
        self._storage.set_study_user_attr(self._id, key, value)

    @property
    def recorded(self) -> bool:
        """Tells whether all trials ended, and what follows from them is recorded: only the result is left to tell.

        It knows this of shared studies alone; for a study of this process alone the run folder knows it.
        """
        return self.shared and FINISHED in self.notes()

    def finish(self, run: str) -> None:
        """Notes that the run has all that is to be recorded of the search."""
        self.remember(FINISHED, run)

    def arrive(self) -> None:
        """Announces that this process works on the study from now on."""
        self._claims.arrive()

    def alone(self) -> AbstractContextManager[None]:
        """Returns a context manager; while its block runs, no other process is in such a block."""
        return self._claims.alone()

    def leaving(self) -> AbstractContextManager[bool]:
        """Returns a context manager, which tells whether no other process works on the study and would go on.

        None arrives while the block runs.
        """
        return self._claims.leaving()

    def close(self) -> None:
        """Lets go of the database."""
        self._claims.close()

    # ---------------------------------------------------------------- the record

    @property
    def ended(self) -> bool:
        """Tells whether there is nothing left to train."""
        return sum(trial.ended for trial in self.trials()) == self.config.trials

    def trials(self) -> list[Trial]:
        """Returns all recorded trials, by index."""
        found: dict[int, Trial] = {}
        for row in sorted(self._storage.get_all_trials(self._id), key=lambda row: row.number):
            trial = _trial(row, self._sampler.decoded(row.params))
            if trial.index not in found or found[trial.index].state == "interrupted":
                found[trial.index] = trial
                self._rows[trial.index] = row._trial_id
        return [found[index] for index in sorted(found)]

    def generation(self, number: int) -> list[Trial]:
        """Returns the trials of a generation, recorded: ended, running, or waiting."""
        self._claims.recover()
        trials = self._generation(number)
        if number != self._present:
            earlier = self.trials()[: self._indices(number).start]
            self._present, self._earlier = number, self._sampler.in_memory(earlier, number)
        if len(trials) < len(self._indices(number)) or any(trial.state == "interrupted" for trial in trials):
            with self.alone():
                self._complete(number)
            trials = self._generation(number)
        return trials

    def _indices(self, number: int) -> range:
        size = self.config.generation_size
        return range(number * size, min((number + 1) * size, self.config.trials))

    def _generation(self, number: int) -> list[Trial]:
        return [trial for trial in self.trials() if trial.index in self._indices(number)]

    def _complete(self, number: int) -> None:
        """Records what is missing of a generation, and records again what was interrupted."""
        indices, trials = self._indices(number), self.trials()
        known = {trial.index: trial for trial in trials}
        proposals = {}
        if not known.keys() >= set(indices):
            drawn = self._sampler.propose(len(indices), trials[: indices.start], number)
            proposals = dict(zip(indices, drawn, strict=True))
        for index in indices:
            if index not in known:
                self._record(index, proposals[index])
            elif known[index].state == "interrupted":
                self._record(index, known[index].params)

    def _record(self, index: int, params: dict[str, Any]) -> None:
        row = create_trial(
            state=TrialState.WAITING,
            params=self._sampler.encoded(params),
            distributions=self._sampler.distributions,
            user_attrs={"index": index, "generation": index // self.config.generation_size},
        )
        self._storage.create_new_trial(self._id, row)

    # ---------------------------------------------------------------- running a trial

    def claim(self, number: int) -> Trial | None:
        """Claims a waiting trial of the generation, which this process alone runs from now on; None if none waits."""
        for trial in self._generation(number):
            row = self._rows[trial.index]
            if trial.state == "waiting" and self._claims.claim(row):
                self._mine[trial.index] = row
                return trial
        return None

    def keeps(self, index: int) -> bool:
        """Tells whether a claimed trial is still this process's; after a long silence another process takes it over."""
        return self._claims.renew(self._mine[index])

    def kept(self, indices: Iterable[int]) -> list[int]:
        """Returns the trials that are this process's, as far as it knows.

        Where the database does not answer, it returns none, as others take them over.
        """
        with suppress(*DATABASE_ERRORS):
            return [index for index in indices if self.keeps(index)]
        return []

    def report(self, trial: Trial, epoch: int, value: float) -> None:
        """Records a running trial's objective after an epoch."""
        with suppress(UpdateFinishedTrialError):  # the trial was lost at this moment
            self._storage.set_trial_intermediate_value(self._mine[trial.index], epoch, value)

    def end(self, trial: Trial) -> bool:
        """Records how a trial ended; if the process is killed before the last write, the trial runs again.

        Returns:
            False if it was lost at this moment; then what another process records is what counts.
        """
        row = self._mine[trial.index]
        self._claims.rows.discard(row)
        facts = {"metrics": trial.metrics, "seconds": trial.seconds, "error": trial.error}
        try:
            for key, value in facts.items():
                if value:
                    self._storage.set_trial_user_attr(row, key, value)
            self._storage.set_trial_state_values(row, OPTUNA_STATES[trial.state], trial.values or None)
        except UpdateFinishedTrialError:
            return False
        return True

    def prunes(self, curve: Mapping[int, float]) -> bool:
        """Tells whether a trial of the present generation does worse than half of the earlier ones did at its age."""
        return self._pruner.prunes(curve, self._earlier)

    # ---------------------------------------------------------------- what came out

    def result(self) -> SearchResult:
        """Returns the best trials.

        Raises:
            UserError: every trial failed.
        """
        trials = self.trials()
        if not any(trial.state == "complete" for trial in trials):
            errors = [trial.error for trial in trials if trial.error]
            raise UserError(f"search {self.name}: all {len(trials)} trials failed, the first of them with: {errors[0]}")
        study = self._sampler.in_memory(trials)
        best = [study.best_trial] if len(self.objectives) == 1 else study.best_trials
        front = sorted((trials[row.number] for row in best), key=lambda trial: trial.values)
        sign = -1 if direction(self.primary) == "maximize" else 1
        chosen = min(front, key=lambda trial: _finite(sign * trial.metrics[self.primary]))
        importances = self._sampler.importances(study)
        space = self.task.space
        return SearchResult(self.name, space, self.objectives, self.directions, trials, front, chosen, importances)


def _finite(value: float) -> float:
    """Returns a value, or infinity, which is worse than any other, where it is no number."""
    return value if math.isfinite(value) else math.inf


def _trial(row: FrozenTrial, params: dict[str, Any]) -> Trial:
    error = "" if INTERRUPTED in row.user_attrs else row.user_attrs.get("error", "")
    return Trial(
        index=row.user_attrs["index"],
        params=params,
        state=STATES.get(row.state) or ("failed" if error else "interrupted"),
        values=tuple(row.values or ()) if row.state == TrialState.COMPLETE else (),
        metrics=row.user_attrs.get("metrics", {}),
        curve=row.intermediate_values,
        seconds=row.user_attrs.get("seconds", 0.0),
        error=error,
    )
