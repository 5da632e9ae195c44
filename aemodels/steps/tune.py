"""The search: one parent run, a child run per trial."""

from __future__ import annotations

import math
from collections.abc import Generator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from aemodels import parallel
from aemodels.config import Config
from aemodels.data import PreparedData
from aemodels.features import feature_network
from aemodels.progress import Progress, Steps
from aemodels.runfolder import RunFolder, claimed
from aemodels.settings import Settings
from aemodels.steps.recording import Result, keep_figures, open_run
from aemodels.steps.train import check as check_training
from aemodels.store import Store, open_store
from aemodels.tracking import Run, Status, resume_run, start_run
from aemodels.training import best_device
from aemodels.tuning import (
    Event,
    SearchResult,
    Trial,
    TrialEnded,
    TrialEpoch,
    TrialStarted,
    check_models,
    search,
    search_identity,
    search_space,
)
from aemodels.tuning_figures import draw_search_figures
from aemodels.tuning_study import Study, open_study

STATUS: dict[str, Status] = {"complete": "FINISHED", "pruned": "KILLED", "failed": "FAILED"}
COMPARED = 6  # trials on the comparison page: as many as its legend shows


class TrialRow(Config):
    """A trial as a person compares it."""

    index: int
    state: str
    params: dict[str, Any]
    values: dict[str, float]
    """Objectives by name, of validation images."""
    seconds: float


class Tuned(Result):
    """A finished search."""

    run_id: str
    url: str
    compare_url: str
    best: dict[str, Any]
    """Dotted settings of the best trial."""
    objectives: tuple[str, ...]
    trials: tuple[TrialRow, ...]
    """Best first."""
    front: tuple[int, ...]
    """Indices of the trials that no other one beats in all objectives."""
    folder: Path
    figures: tuple[Path, ...]


def check(settings: Settings) -> None:
    """What can be known before the images are looked at.

    Raises:
        SettingsError: the model has no name, or the search space does not fit the experiment.
        UserError: the device does not work, the MLflow server does not answer, or torchrun started this.
    """
    parallel.refuse("a search")
    search_space(settings.experiment, settings.tuning)
    check_training(settings)


def tune(settings: Settings, data: PreparedData, group: str) -> Steps[Tuned]:
    """Searches the settings, or goes on where it was killed.

    Args:
        group: a tag that the runs of one pipeline share.

    Raises:
        SettingsError: a model of the search space does not fit the images.
        UserError: every trial failed.
    """
    experiment, config, name = settings.experiment, settings.tuning, settings.registered_name
    features = yield from feature_network(data, best_device())
    check_models(experiment, data, features, config, search_space(experiment, config))  # before anything is recorded
    # under another name it is another run
    with claimed(search_identity(experiment, config, f"{name}{data.digest}")) as folder:
        study = open_study(folder.path.name, experiment, config)
        store = open_store()
        tags = {"kind": "search", "pipeline": group, "study": study.name}
        with open_run(store, folder, name, f"search {experiment.model.name}", experiment.seed, tags) as run:
            run.params({**experiment.flat(), **{f"tuning.{key}": value for key, value in config.flat().items()}})
            run.dataset(data)
            with _TrialRuns(store, study, run, name, group) as trials:
                result = yield from _follow(search(experiment, data, features, config, study), config.trials, trials)
            tuned = _summary(result, run, trials, folder)
        folder.finish(tuned.model_dump(mode="json"))
    return tuned


def _follow(events: Generator[Event, None, SearchResult], total: int, trials: _TrialRuns) -> Steps[SearchResult]:
    """Records what happens to trials as it happens."""
    ended = 0
    yield Progress("searching", 0, total)
    while True:
        try:
            event = next(events)
        except StopIteration as end:
            result: SearchResult = end.value
            return result
        trials.record(event)
        ended += isinstance(event, TrialEnded)
        yield Progress("searching", ended, total, _note(event, trials))


class _TrialRuns:
    """A child run per trial. An event may come twice after a kill; the second says the same."""

    def __init__(self, store: Store, study: Study, parent: Run, name: str, group: str) -> None:
        self.store, self.study, self.parent, self.name, self.group = store, study, parent, name, group
        self.runs: dict[int, Run] = {}
        self.running: dict[int, Run] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Trials end with an interrupted search: they must not look as if they went on."""
        for run in self.running.values():
            run.__exit__(kind, error, trace)

    def record(self, event: Event) -> None:
        if isinstance(event, TrialStarted):
            self._start(event)
        elif isinstance(event, TrialEpoch):
            # first, because MLflow's comparison opens on the metric that was logged first
            objective = {"objective": event.value} if event.value is not None else {}
            self.runs[event.index].metrics(objective | event.metrics, event.epoch)
        else:
            self._end(event)

    def _start(self, event: TrialStarted) -> None:
        trial, key = event.trial, f"run.{event.trial.index}"
        known = self.study.notes().get(key)
        run = resume_run(self.store, known) if known else None
        if run is None:
            title = f"trial {trial.index}"
            tags = {"kind": "trial", "pipeline": self.group, "trial": trial.index}
            run = start_run(self.store, self.name, title, tags, parent=self.parent.id)
            self.study.remember(key, run.id)
        elif self.group:
            run.tags({"pipeline": self.group})  # a pipeline that was started again
        run.params(event.experiment.flat())
        self.runs[trial.index] = self.running[trial.index] = run

    def _end(self, event: TrialEnded) -> None:
        trial, run = event.trial, self.runs[event.trial.index]
        metrics = {f"val/{name}": value for name, value in trial.metrics.items()}
        objective = trial.values[0] if trial.values else trial.curve[max(trial.curve)] if trial.curve else None
        if objective is not None:
            metrics["objective"] = objective
        run.metrics(metrics | {"seconds": trial.seconds}, max(trial.curve, default=0))
        run.tags({"state": trial.state, **({"error": trial.error} if trial.error else {})})
        run.end(STATUS[trial.state])
        del self.running[trial.index]


def _note(event: Event, trials: _TrialRuns) -> str:
    if isinstance(event, TrialStarted):
        values = ", ".join(f"{key.rpartition('.')[2]} {_short(value)}" for key, value in event.trial.params.items())
        return f"trial {event.trial.index}: {values}"
    if isinstance(event, TrialEpoch):
        value = "" if event.value is None else f", {trials.study.primary} {event.value:.4g}"
        return f"trial {event.index}: epoch {event.epoch}{value}"
    return f"trial {event.trial.index}: {event.trial.state}"


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _summary(result: SearchResult, run: Run, trials: _TrialRuns, folder: RunFolder) -> Tuned:
    """The parent's figures and metrics, and what the caller needs to go on."""
    ranked = _best_first(result)
    best = {f"best/{name}": value for name, value in result.best.metrics.items()}
    run.metrics(best | {"objective": result.best.values[0]})
    run.params({f"best.{key}": value for key, value in result.best.params.items()})
    run.tags({"best_trial": result.best.index})
    compared = [trials.runs[trial.index].id for trial in ranked[:COMPARED]]
    return Tuned(
        run_id=run.id,
        url=run.url,
        compare_url=run.store.compare_url(run.experiment_id, compared),
        best=result.best.params,
        objectives=result.objectives,
        trials=tuple(_row(trial, result.objectives) for trial in ranked),
        front=tuple(trial.index for trial in result.front),
        folder=folder.path,
        figures=keep_figures(draw_search_figures(result), folder.path, run),
    )


def _best_first(result: SearchResult) -> list[Trial]:
    """Complete trials by their first objective, then the others."""
    sign = -1 if result.directions[0] == "maximize" else 1
    return sorted(result.trials, key=lambda trial: sign * trial.values[0] if trial.values else math.inf)


def _row(trial: Trial, objectives: tuple[str, ...]) -> TrialRow:
    values = dict(zip(objectives, trial.values, strict=False))
    return TrialRow(index=trial.index, state=trial.state, params=trial.params, values=values, seconds=trial.seconds)
