"""Searches the settings in one parent run, with a child run per trial."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from pydantic import Field

from aemodels.checkpoints.run_folder import RunFolder, awaited, claimed, joined, numbered
from aemodels.config import UserError, as_written
from aemodels.data import PreparedData
from aemodels.evaluation.features import features_of
from aemodels.evaluation.leaving_out import as_tags
from aemodels.reports.figures.search import draw_search_figures
from aemodels.runtime.devices import best_device
from aemodels.runtime.environment import search_database
from aemodels.runtime.progress import Progress, Steps
from aemodels.settings import Settings
from aemodels.steps.recording import (
    FINISHED_BEFORE,
    Result,
    changed_first,
    keep_figures,
    open_run,
    save_figures,
    still_there,
)
from aemodels.steps.searching import WORK, checked_start, follow
from aemodels.steps.searching import check as check_search
from aemodels.steps.start import fixed
from aemodels.steps.train import check as check_training
from aemodels.steps.trial_runs import TrialRuns
from aemodels.texts import code_in_markdown, in_markdown, number
from aemodels.tracking.run import Run, has_run, now
from aemodels.tracking.store import Store, open_store
from aemodels.tuning.events import SearchResult, Trial
from aemodels.tuning.opening import forget_study, join_study, open_study
from aemodels.tuning.search import search
from aemodels.tuning.storage import parse_url
from aemodels.tuning.study import Study
from aemodels.tuning.task import Task

RUN = "run"  # the study's note of the search's run
SUMMARIZED = "summarized"  # the study's note of the time of its metrics: logged twice with it, they are one point
ENDED = "this search has ended: its result; the same command again searches anew"
COMPARED = 6  # trials on the comparison page: as many as its legend shows


class TrialRow(Result):
    """Holds what a person compares of a trial."""

    index: int
    state: str
    params: dict[str, Any]
    values: dict[str, float]
    """Holds the objectives by name, measured on validation images."""
    metrics: dict[str, float] = Field(default_factory=dict)
    """Holds all that was measured on validation images, by name; results of earlier releases have none."""
    seconds: float
    error: str = ""
    """Says why the trial failed."""


class Tuned(Result):
    """Holds what a finished search found, and where its files and run are."""

    run_id: str
    url: str
    compare_url: str
    best: dict[str, Any]
    """Holds the settings of the best trial, by dotted names."""
    objectives: tuple[str, ...]
    trials: tuple[TrialRow, ...]
    """Lists the trials, the best first."""
    front: tuple[int, ...]
    """Lists the indices of the trials that no other trial beats in all objectives."""
    folder: Path
    figures: tuple[Path, ...]
    left_out: dict[str, str] = Field(default_factory=dict)
    """Maps each figure that could not be drawn to the reason."""
    note: str = ""
    """Says what is to be known, such as that the search space holds fewer settings than `tuning.trials` asks for."""


def check(settings: Settings, resume: bool = True) -> None:
    """Checks what can be known before the images are looked at.

    Args:
        resume: as for `tune`.

    Raises:
        SettingsError: the model has no name, or the search space does not fit the experiment.
        UserError: the device does not work, the MLflow server does not answer, OPTUNA_STORAGE is no database that
            machines can share, a search that they share is to begin anew, or torchrun started this.
    """
    check_search(settings)
    if url := search_database():
        parse_url(url)
        if not resume:
            raise UserError(
                "resume=False: other machines may work on this search, as OPTUNA_STORAGE is set; unset it to search "
                "anew on this machine alone, or leave resume out"
            )
    check_training(settings)


def check_joining() -> None:
    """Checks that there is a database through which a search can be joined.

    Raises:
        UserError: there is none.
    """
    if search_database() is None:
        raise UserError(
            "OPTUNA_STORAGE is not set: a machine joins a search through a database that all machines reach; set it to "
            "postgresql+psycopg://USER:PASSWORD@HOST/DATABASE, or search on this machine alone by `aemodels tune`"
        )


def tune(settings: Settings, data: PreparedData, group: str, asker: str = "", resume: bool = True) -> Steps[Tuned]:
    """Searches the settings, or goes on where it was killed; with OPTUNA_STORAGE, beside any number of other processes.

    Every process that worked on a search gets its result, even if others have finished it, and so does a late one.

    Args:
        group, asker: as for a training.
        resume: False searches from the start, and replaces what a killed search on this machine alone has left.

    Raises:
        SettingsError: a model of the search space does not fit the images.
        UserError: every trial failed, or the shared database does not answer.
    """
    settings = fixed(settings)
    task, name = Task(settings.experiment, settings.tuning, data), settings.registered_name
    start = checked_start(task)
    store, asker = open_store(), asker or group
    with _opened(task, name, store, asker, resume) as (study, folder):
        if folder.result is not None:
            yield Progress(WORK, 1, 1, FINISHED_BEFORE)
            return Tuned.model_validate(folder.result)
        features = yield from features_of(data, best_device())
        with _run(store, study, folder, name, group) as run, study:
            note = "; ".join(filter(None, (_fewer(study), _kept(task))))
            with TrialRuns(store, study, run, name, group) as trials:
                events = search(study, features, start)
                result = yield from follow(events, study, trials, ENDED if study.recorded else note)
            tuned = _finish(result, study, run, trials, folder, note)
        if not study.shared:
            folder.finish(tuned.model_dump(mode="json"), asker)
    return tuned


@contextmanager
def _opened(task: Task, name: str, store: Store, asker: str, resume: bool) -> Iterator[tuple[Study, RunFolder]]:
    """Opens the study that goes on, or a new one, and its folder on this machine."""

    def owed(study: str, run: str, newer: bool) -> bool:
        return awaited(study, asker, newer) and has_run(store, run)

    identity = task.identity(name)
    with ExitStack() as stack:
        if url := search_database():
            study = join_study(numbered(identity), task, url, owed)
            folder = stack.enter_context(joined(study.name, asker))
        else:
            folder = stack.enter_context(claimed(identity, asker, still_there(store), resume))
            if folder.anew:
                forget_study(folder.path.name)
            study = open_study(folder.path.name, task)
        stack.callback(study.close)
        yield study, folder


@contextmanager
def _run(store: Store, study: Study, folder: RunFolder, name: str, group: str) -> Iterator[Run]:
    """Opens the run of the search, which its processes share; it ends with the search, or when the last one leaves."""
    experiment, config, data = study.task.whole({}), study.task.config, study.task.data
    with study.alone():
        study.arrive()
        if study.recorded:
            run = Run(store, study.notes()[RUN], store.experiment(name))
        else:
            if study.shared:
                folder.note(run_id=study.notes().get(RUN) or _begun(store, folder))
            tags = {"kind": "search", "pipeline": group, "study": study.name}
            run = open_run(store, folder, name, f"search {experiment.model.name}", experiment.seed, tags)
            study.remember(RUN, run.id)
            run.params(
                {**changed_first(experiment), **{f"tuning.{key}": value for key, value in config.flat().items()}}
            )
            run.dataset(data, experiment.data.title)
    try:
        yield run
    except BaseException as error:
        with study.leaving() as last:
            if last and not study.recorded:
                run.__exit__(type(error), error, error.__traceback__)
        raise


def _begun(store: Store, folder: RunFolder) -> str | None:
    """Returns the run that an attempt on this machine began and did not note in the study, as the database was away."""
    run_id: str | None = folder.notes().get("run_id")
    if run_id is None or not has_run(store, run_id):
        return None
    return None if store.client.get_run(run_id).info.status == "FINISHED" else run_id


def _fewer(study: Study) -> str:
    """Says that the space holds fewer settings than trials were asked for; "" where it holds enough."""
    asked, there = study.task.config.trials, study.config.trials
    plural = "" if there == 1 else "s"
    verb = "is" if there == 1 else "are"
    if there == asked:
        return ""
    return f"{there} setting{plural} {verb} all there {verb}: {there} trial{plural} instead of {asked}"


def _kept(task: Task) -> str:
    """Says which settings of the model's own search space stay as they were given; "" where all vary."""
    flat = task.given.flat()
    kept = [f"{key}={as_written(flat.get(key))}" for key, varied in task.config.space.items() if varied is None]
    if not kept:
        return ""
    return f"{' and '.join(kept)} {'stay' if kept[1:] else 'stays'} as given; tuning.space lets such settings vary"


def _finish(result: SearchResult, study: Study, run: Run, trials: TrialRuns, folder: RunFolder, note: str) -> Tuned:
    """Returns the result of the search; the one process that comes first records it, and ends the run."""
    ranked, (pictures, left_out) = _best_first(result), draw_search_figures(result)
    with study.alone():
        if study.recorded:
            figures = save_figures(pictures, folder.path)
        else:
            figures = keep_figures(pictures, folder.path, run, _headline(result))
            run.tags(as_tags(left_out))
            if SUMMARIZED not in study.notes():  # else a process was killed after it had noted the time
                study.remember(SUMMARIZED, str(now()))
            _summarize(result, run, int(study.notes()[SUMMARIZED]))
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


def _headline(result: SearchResult) -> str:
    best = result.best
    settings = " ".join(code_in_markdown(f"{key}={as_written(value)}") for key, value in best.params.items())
    value = f"{in_markdown(result.objectives[0])} {number(best.values[0])}"
    return f"Best of {len(result.trials)} trials: number {best.index}, {value}, with {settings}"


def _summarize(result: SearchResult, run: Run, at: int) -> None:
    best = {f"best/{name}": value for name, value in result.best.metrics.items()}
    run.metrics(best | {"objective": result.best.values[0]}, at=at)
    run.params({f"best.{key}": value for key, value in result.best.params.items()})
    run.tags({"best_trial": result.best.index})


def _best_first(result: SearchResult) -> list[Trial]:
    """Returns the complete trials sorted by their first objective, then the others."""
    sign = -1 if result.directions[0] == "maximize" else 1
    return sorted(result.trials, key=lambda trial: sign * trial.values[0] if trial.values else math.inf)


def _row(trial: Trial, objectives: tuple[str, ...]) -> TrialRow:
    values = dict(zip(objectives, trial.values, strict=False))
    return TrialRow(
        index=trial.index,
        state=trial.state,
        params=trial.params,
        values=values,
        metrics=trial.metrics,
        seconds=trial.seconds,
        error=trial.error,
    )
