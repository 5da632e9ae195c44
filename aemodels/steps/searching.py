"""Provides what all searches need, tracked or not: checks before the work, and notes of the progress."""

from __future__ import annotations

from collections.abc import Generator, Mapping

from torch import Tensor

from aemodels.config import in_short
from aemodels.runtime import torchrun
from aemodels.runtime.devices import best_device
from aemodels.runtime.progress import Driven, Progress, Steps
from aemodels.settings import Settings
from aemodels.steps.start import starting_weights
from aemodels.steps.trial_runs import TrialRuns
from aemodels.texts import number
from aemodels.tuning.events import Event, SearchResult, TrialEnded, TrialEpoch, TrialLost, TrialStarted, Waiting
from aemodels.tuning.space import search_space
from aemodels.tuning.study import Study
from aemodels.tuning.task import Task, check_models

WORK = "searching"


def check(settings: Settings) -> None:
    """Checks what can be known before the images are looked at.

    Raises:
        SettingsError: the search space does not fit the experiment.
        UserError: the device does not work, or torchrun started this.
    """
    torchrun.refuse("a search")
    search_space(settings.experiment, settings.tuning)
    best_device()


def checked_start(task: Task) -> Mapping[str, Tensor] | None:
    """Returns the weights that every trial starts from; what does not fit the images is refused before any work.

    Raises:
        SettingsError: a model of the search space, or the weights, do not fit.
    """
    check_models(task)
    return starting_weights(task.given, task.data)


def follow(
    events: Generator[Event, None, SearchResult], study: Study, trials: TrialRuns | None = None, note: str = ""
) -> Steps[SearchResult]:
    """Reports the progress of a search; where it is tracked, what happens to the trials is recorded as it happens."""
    ended: set[int] = set()
    total = study.config.trials
    yield Progress(WORK, 0, total, note)
    with Driven(events) as driven:
        for event in driven:
            if trials is not None:
                trials.record(event)
            ended |= {event.trial.index} if isinstance(event, TrialEnded) else set()
            yield Progress(WORK, len(ended), total, _note(event, study.primary))
    return driven.result


def _note(event: Event, primary: str) -> str:
    if isinstance(event, TrialStarted):
        values = ", ".join(f"{key.rpartition('.')[2]} {in_short(value)}" for key, value in event.trial.params.items())
        return f"trial {event.trial.index}: {values}"
    if isinstance(event, Waiting):
        return f"other processes run the trials {', '.join(map(str, event.indices))}"
    if isinstance(event, TrialLost):
        return f"trial {event.index}: another process has taken it over"
    if isinstance(event, TrialEpoch):
        value = "" if event.value is None else f", {primary} {number(event.value)}"
        return f"trial {event.index}: epoch {event.epoch}{value}"
    return f"trial {event.trial.index}: {event.trial.state}"
