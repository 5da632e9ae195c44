"""Searches settings in the cache, untracked; the second half of this file is what tracked searches do too.

<cache>/searches/      the studies, and `KEY.lock` for each
"""

from __future__ import annotations

from collections.abc import Generator, Mapping

from torch import Tensor

from aemodels.checkpoints.result_keys import result_key
from aemodels.config import in_short
from aemodels.data import PreparedData
from aemodels.evaluation.features import feature_network
from aemodels.experiment import Experiment
from aemodels.runtime import torchrun
from aemodels.runtime.devices import best_device
from aemodels.runtime.environment import cache_folder
from aemodels.runtime.locks import wait_for
from aemodels.runtime.progress import Driven, Progress, Steps
from aemodels.settings import Settings
from aemodels.steps.start import starting_weights
from aemodels.steps.trial_runs import TrialRuns
from aemodels.tuning.config import TuningConfig
from aemodels.tuning.events import Event, SearchResult, TrialEnded, TrialEpoch, TrialLost, TrialStarted, Waiting
from aemodels.tuning.search import search as events_of
from aemodels.tuning.space import check_models, search_space
from aemodels.tuning.study import Study, forget_study, open_study

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


def search(settings: Settings, data: PreparedData, resume: bool = True) -> Steps[SearchResult]:
    """Searches the settings in the cache, or goes on where that was killed; the trials that are there count.

    Args:
        resume: False searches from the start, and replaces what is there.

    Raises:
        SettingsError: a model of the search space does not fit the images.
        UserError: every trial failed.
    """
    experiment, config = settings.experiment, settings.tuning
    start = checked_start(experiment, config, data)
    features = yield from feature_network(data, best_device())
    folder = cache_folder() / "searches"
    folder.mkdir(parents=True, exist_ok=True)
    key = result_key([part.model_dump(mode="json") for part in (experiment, config)], data)
    waiting = Progress(WORK, 0, config.trials, "waiting for another process that searches the same")
    lock = yield from wait_for(folder / f"{key}.lock", waiting)
    try:
        if not resume:
            forget_study(key, folder)
        study = open_study(key, experiment, config, data, folder)
        try:
            with study:
                return (yield from follow(events_of(experiment, data, features, study, start), study))
        finally:
            study.close()
    finally:
        lock.release()


# ---------------------------------------------------------------- what tracked searches do too


def checked_start(experiment: Experiment, config: TuningConfig, data: PreparedData) -> Mapping[str, Tensor] | None:
    """Returns the weights that every trial starts from; what does not fit the images is refused before any work.

    Raises:
        SettingsError: a model of the search space, or the weights, do not fit.
    """
    check_models(experiment, data, config, search_space(experiment, config))
    return starting_weights(experiment, data)


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
        value = "" if event.value is None else f", {primary} {event.value:.4g}"
        return f"trial {event.index}: epoch {event.epoch}{value}"
    return f"trial {event.trial.index}: {event.trial.state}"
