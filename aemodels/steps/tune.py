"""The search: one parent run, a child run per trial."""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Generator, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pydantic import Field

from aemodels import parallel
from aemodels.config import Config, UserError, in_short
from aemodels.data import PreparedData
from aemodels.devices import best_device
from aemodels.environment import search_database
from aemodels.experiment import Experiment
from aemodels.features import feature_network
from aemodels.leaving_out import as_tags
from aemodels.progress import Progress, Steps
from aemodels.runfolder import RunFolder, claimed, joined, numbered
from aemodels.settings import Settings
from aemodels.steps.recording import Result, keep_figures, open_run, save_figures
from aemodels.steps.train import check as check_training
from aemodels.store import Store, open_store
from aemodels.tracking import Run, Status, resume_run, start_run
from aemodels.tuning import (
    Event,
    SearchResult,
    Trial,
    TrialEnded,
    TrialEpoch,
    TrialLost,
    TrialStarted,
    TuningConfig,
    Waiting,
    check_models,
    search_identity,
    search_space,
)
from aemodels.tuning_figures import draw_search_figures
from aemodels.tuning_search import search
from aemodels.tuning_storage import parse_url
from aemodels.tuning_study import Study, join_study, open_study

STATUS: dict[str, Status] = {"complete": "FINISHED", "pruned": "KILLED", "failed": "FAILED"}
RUN = "run"  # a note of the study
COMPARED = 6  # trials on the comparison page: as many as its legend shows


class TrialRow(Config):
    """A trial as a person compares it."""

    index: int
    state: str
    params: dict[str, Any]
    values: dict[str, float]
    """Objectives by name, of validation images."""
    seconds: float
    error: str = ""
    """Why it failed."""


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
    left_out: dict[str, str] = Field(default_factory=dict)
    """Figures that could not be drawn, with the reason."""
    note: str = ""
    """What is to be known about the search, such as that its space holds fewer settings than `tuning.trials` asks."""


def check(settings: Settings) -> None:
    """What can be known before the images are looked at.

    Raises:
        SettingsError: the model has no name, or the search space does not fit the experiment.
        UserError: the device does not work, the MLflow server does not answer, OPTUNA_STORAGE is no database that
            machines can share, or torchrun started this.
    """
    parallel.refuse("a search")
    search_space(settings.experiment, settings.tuning)
    if url := search_database():
        parse_url(url)
    check_training(settings)


def check_joining() -> None:
    """Whether there is a database through which a search can be joined.

    Raises:
        UserError: there is none.
    """
    if search_database() is None:
        raise UserError(
            "OPTUNA_STORAGE is not set: a search worker joins a search through a database that all machines reach; set "
            "it to postgresql+psycopg://USER:PASSWORD@HOST/DATABASE, or search on this machine alone: `aemodels tune`"
        )


def tune(settings: Settings, data: PreparedData, group: str) -> Steps[Tuned]:
    """Searches the settings, or goes on where it was killed; with OPTUNA_STORAGE, beside any number of other workers.

    Args:
        group: who asks, such as the id of a flow run or pipeline; a tag that its runs share. As for a training.

    Raises:
        SettingsError: a model of the search space does not fit the images.
        UserError: every trial failed, or the shared database does not answer.
    """
    experiment, config, name = settings.experiment, settings.tuning, settings.registered_name
    check_models(experiment, data, config, search_space(experiment, config))  # before any work, and anything recorded
    features = yield from feature_network(data, best_device())
    # under another name it is another run
    identity = search_identity(experiment, config, f"{name}{data.digest}")
    with _opened(identity, experiment, config, group) as (study, folder):
        if folder.result is not None:
            return Tuned.model_validate(folder.result)
        store = open_store()
        with _run(store, study, folder, settings, group) as run, study:
            run.params({**experiment.flat(), **{f"tuning.{key}": value for key, value in config.flat().items()}})
            run.dataset(data)
            note = _fewer(config.trials, study.config.trials)
            with _TrialRuns(store, study, run, name, group) as trials:
                events = search(experiment, data, features, study)
                result = yield from _follow(events, study.config.trials, trials, note)
            tuned = _finish(result, study, run, trials, folder, note)
        if not study.shared:
            folder.finish(tuned.model_dump(mode="json"), group)
    return tuned


@contextmanager
def _opened(
    identity: str, experiment: Experiment, config: TuningConfig, group: str
) -> Iterator[tuple[Study, RunFolder]]:
    """The study that goes on, or a new one, and its folder on this machine."""
    with ExitStack() as stack:
        if url := search_database():
            study = join_study(numbered(identity), experiment, config, url)
            folder = joined(study.name)
        else:
            folder = stack.enter_context(claimed(identity, group))
            study = open_study(folder.path.name, experiment, config)
        stack.callback(study.close)
        yield study, folder


@contextmanager
def _run(store: Store, study: Study, folder: RunFolder, settings: Settings, group: str) -> Iterator[Run]:
    """The one run of the search, whoever founded it. It ends with the search, or with the last worker that leaves."""
    name, experiment = settings.registered_name, settings.experiment
    with study.alone():
        study.arrive()
        if study.finished:  # by another worker, at this moment
            run = Run(store, study.notes()[RUN], store.experiment(name))
        else:
            if study.shared:
                folder.note(run_id=study.notes().get(RUN))
            tags = {"kind": "search", "pipeline": group, "study": study.name}
            run = open_run(store, folder, name, f"search {experiment.model.name}", experiment.seed, tags)
            study.remember(RUN, run.id)
    try:
        yield run
    except BaseException as error:
        with study.leaving() as last:
            if last:
                run.__exit__(type(error), error, error.__traceback__)
        raise


def _fewer(asked: int, there: int) -> str:
    """Says so where the space ends the search."""
    plural = "" if there == 1 else "s"
    verb = "is" if there == 1 else "are"
    if there == asked:
        return ""
    return f"{there} setting{plural} {verb} all there {verb}: {there} trial{plural} instead of {asked}"


def _follow(
    events: Generator[Event, None, SearchResult], total: int, trials: _TrialRuns, note: str
) -> Steps[SearchResult]:
    """Records what happens to trials as it happens."""
    ended: set[int] = set()
    yield Progress("searching", 0, total, note)
    with closing(events):
        while True:
            try:
                event = next(events)
            except StopIteration as end:
                result: SearchResult = end.value
                return result
            trials.record(event)
            ended |= {event.trial.index} if isinstance(event, TrialEnded) else set()
            yield Progress("searching", len(ended), total, _note(event, trials))


class _TrialRuns:
    """A child run per trial. An event may come twice after a kill; the second says the same."""

    def __init__(self, store: Store, study: Study, parent: Run, name: str, group: str) -> None:
        self.store, self.study, self.parent, self.name, self.group = store, study, parent, name, group
        self.worker = f"{platform.node()}:{os.getpid()}"
        self.runs: dict[int, Run] = {}
        self.running: dict[int, Run] = {}
        self.undone: set[int] = set()  # trials whose end was recorded here, but does not count
        self.resumed: set[int] = set()  # trials that an attempt before this one has begun to record

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Trials end with an interrupted search: they must not look as if they went on."""
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
        """It is another worker's, with its run; one that has been ended here goes on."""
        if self.running.pop(index, None) is None:
            resume_run(self.store, self.runs[index].id)
            self.undone.add(index)

    def _elsewhere(self, event: TrialStarted | TrialEnded) -> None:
        """Its worker has recorded all of it; this one perhaps something else, later."""
        index = event.trial.index
        self.runs[index] = Run(self.store, self.study.notes()[f"run.{index}"], self.parent.experiment_id)
        if index in self.undone and isinstance(event, TrialEnded):
            self._end(event)

    def _start(self, event: TrialStarted) -> None:
        trial, key = event.trial, f"run.{event.trial.index}"
        known = self.study.notes().get(key)
        run = resume_run(self.store, known) if known else None
        if run is None:
            title = f"trial {trial.index}"
            tags = {"kind": "trial", "pipeline": self.group, "trial": trial.index, "worker": self.worker}
            run = start_run(self.store, self.name, title, tags, parent=self.parent.id)
            self.study.remember(key, run.id)
        else:
            # a pipeline that was started again, or a trial of another worker
            run.tags({"worker": self.worker} | ({"pipeline": self.group} if self.group else {}))
            self.resumed.add(trial.index)
        run.params(event.experiment.flat())
        self.runs[trial.index] = self.running[trial.index] = run

    def _track(self, event: TrialEpoch) -> None:
        """Tracks an epoch, unless an attempt that was killed has: the trial trains again, and the same."""
        run = self.runs[event.index]
        if event.index in self.resumed:
            before = self.store.client.get_metric_history(run.id, next(iter(event.metrics)))
            if any(point.step == event.epoch for point in before):
                return
        # first, because MLflow's comparison opens on the metric that was logged first
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


def _note(event: Event, trials: _TrialRuns) -> str:
    if isinstance(event, TrialStarted):
        values = ", ".join(f"{key.rpartition('.')[2]} {in_short(value)}" for key, value in event.trial.params.items())
        return f"trial {event.trial.index}: {values}"
    if isinstance(event, Waiting):
        return f"other workers run trials {', '.join(map(str, event.indices))}"
    if isinstance(event, TrialLost):
        return f"trial {event.index}: another worker has taken it over"
    if isinstance(event, TrialEpoch):
        value = "" if event.value is None else f", {trials.study.primary} {event.value:.4g}"
        return f"trial {event.index}: epoch {event.epoch}{value}"
    return f"trial {event.trial.index}: {event.trial.state}"


def _finish(result: SearchResult, study: Study, run: Run, trials: _TrialRuns, folder: RunFolder, note: str) -> Tuned:
    """What the caller needs to go on. One worker records it, and ends the run."""
    ranked, (pictures, left_out) = _best_first(result), draw_search_figures(result)
    with study.alone():
        if study.finished:
            figures = save_figures(pictures, folder.path)
        else:
            figures = keep_figures(pictures, folder.path, run)
            run.tags(as_tags(left_out))
            _summarize(result, run, folder.time("summarized"))
            run.end("FINISHED")
            study.finish(run.id)
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
        figures=figures,
        left_out=left_out,
        note=note,
    )


def _summarize(result: SearchResult, run: Run, at: int) -> None:
    best = {f"best/{name}": value for name, value in result.best.metrics.items()}
    run.metrics(best | {"objective": result.best.values[0]}, at=at)
    run.params({f"best.{key}": value for key, value in result.best.params.items()})
    run.tags({"best_trial": result.best.index})


def _best_first(result: SearchResult) -> list[Trial]:
    """Complete trials by their first objective, then the others."""
    sign = -1 if result.directions[0] == "maximize" else 1
    return sorted(result.trials, key=lambda trial: sign * trial.values[0] if trial.values else math.inf)


def _row(trial: Trial, objectives: tuple[str, ...]) -> TrialRow:
    values = dict(zip(objectives, trial.values, strict=False))
    return TrialRow(
        index=trial.index,
        state=trial.state,
        params=trial.params,
        values=values,
        seconds=trial.seconds,
        error=trial.error,
    )
