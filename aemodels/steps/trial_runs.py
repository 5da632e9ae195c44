"""Records the trials of a search as runs in MLflow, below the run of the search."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from aemodels.steps.recording import changed_first
from aemodels.tracking.run import Run, Status, begun_run, resume_run, start_run
from aemodels.tracking.store import Store
from aemodels.tuning.events import Event, TrialEnded, TrialEpoch, TrialLost, TrialStarted, Waiting
from aemodels.tuning.study import Study

STATUS: dict[str, Status] = {"complete": "FINISHED", "pruned": "KILLED", "failed": "FAILED"}


class TrialRuns:
    """Records what happens to trials, each in a child run.

    An event may come twice after a process was killed; the second one says the same.
    """

    def __init__(self, store: Store, study: Study, parent: Run, name: str, group: str) -> None:
        self.store, self.study, self.parent, self.name, self.group = store, study, parent, name, group
        self.runs: dict[int, Run] = {}
        self.running: dict[int, Run] = {}
        self.undone: set[int] = set()  # trials whose end was recorded here, but does not count
        self.resumed: set[int] = set()  # trials that an attempt before this one has begun to record

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends the runs of trials that an interrupted search leaves, so that they do not look as if they went on."""
        for index in self.study.kept(self.running):
            self.running[index].__exit__(kind, error, trace)

    def record(self, event: Event) -> None:
        if isinstance(event, Waiting):
            return
        if isinstance(event, TrialLost):
            self._lose(event.index)
        elif not isinstance(event, TrialEpoch) and event.replayed and self.study.shared:
            self._elsewhere(event)
        elif isinstance(event, TrialStarted):
            self._start(event)
        elif isinstance(event, TrialEpoch):
            self._track(event)
        else:
            self._end(event)

    def _lose(self, index: int) -> None:
        """Records that another process has taken the trial over; a run that was ended by mistake is opened again."""
        if self.running.pop(index, None) is None:
            resume_run(self.store, self.runs[index].id)
            self.undone.add(index)

    def _elsewhere(self, event: TrialStarted | TrialEnded) -> None:
        """Looks up the run of a trial that another process has recorded.

        Where this process has ended that run too, by mistake and later, the end that counts is recorded once more.
        """
        index = event.trial.index
        self.runs[index] = Run(self.store, self.study.notes()[f"run.{index}"], self.parent.experiment_id)
        if index in self.undone and isinstance(event, TrialEnded):
            self._end(event)

    def _start(self, event: TrialStarted) -> None:
        trial, key = event.trial, f"run.{event.trial.index}"
        known = self.study.notes().get(key)
        run = resume_run(self.store, known) if known else None
        if run is None and (run := begun_run(self.store, self.name, self._names(trial.index))) is not None:
            self.study.remember(key, run.id)
        if run is None:
            title = f"trial {trial.index}"
            tags = {"kind": "trial", "pipeline": self.group, "trial": trial.index}
            run = start_run(self.store, self.name, title, tags, parent=self.parent.id)
            self.study.remember(key, run.id)
        else:
            run.tags({"pipeline": self.group} if self.group else {})  # the pipeline may have been started again
            self.resumed.add(trial.index)
        run.params(changed_first(event.experiment))
        self.runs[trial.index] = self.running[trial.index] = run

    def _names(self, index: int) -> dict[str, str]:
        """Returns the tags that a trial's run has from its creation on, and no other run has."""
        return {"mlflow.parentRunId": self.parent.id, "trial": str(index)}

    def _track(self, event: TrialEpoch) -> None:
        """Tracks an epoch, unless a killed attempt has done so: a trial that is trained again gives the same values."""
        run = self.runs[event.index]
        if event.index in self.resumed:
            before = self.store.client.get_metric_history(run.id, next(iter(event.metrics)))
            if any(point.step == event.epoch for point in before):
                return
        # the objective comes first, because MLflow's comparison opens on the metric that was logged first
        objective = {"objective": event.value} if event.value is not None else {}
        run.metrics(objective | event.metrics, event.epoch)

    def _end(self, event: TrialEnded) -> None:
        trial, run = event.trial, self.runs[event.trial.index]
        metrics = {f"val/{name}": value for name, value in trial.metrics.items()}
        objective = trial.values[0] if trial.values else trial.curve[max(trial.curve)] if trial.curve else None
        if objective is not None:
            metrics["objective"] = objective
        if not (trial.index in self.resumed and "seconds" in self.store.client.get_run(run.id).data.metrics):
            run.metrics(metrics | {"seconds": trial.seconds}, max(trial.curve, default=0))
        run.tags({"state": trial.state, **({"error": trial.error} if trial.error else {})})
        run.end(STATUS[trial.state])
        self.running.pop(trial.index, None)
