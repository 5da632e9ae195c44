"""Searches settings in the cache, untracked.

<cache>/searches/      the studies, and `KEY.lock` for each
"""

from __future__ import annotations

from aemodels.checkpoints.result_keys import result_key
from aemodels.data import PreparedData
from aemodels.evaluation.features import features_of
from aemodels.runtime.devices import best_device
from aemodels.runtime.environment import cache_folder
from aemodels.runtime.locks import wait_for
from aemodels.runtime.progress import Progress, Steps
from aemodels.settings import Settings
from aemodels.steps.searching import WORK, checked_start, follow
from aemodels.tuning.events import SearchResult
from aemodels.tuning.opening import forget_study, open_study
from aemodels.tuning.search import search as events_of
from aemodels.tuning.task import Task


def search(settings: Settings, data: PreparedData, resume: bool = True) -> Steps[SearchResult]:
    """Searches the settings in the cache, or goes on where that was killed; the trials that are there count.

    Args:
        resume: False searches from the start, and replaces what is there.

    Raises:
        SettingsError: a model of the search space does not fit the images.
        UserError: every trial failed.
    """
    task = Task(settings.experiment, settings.tuning, data)
    start = checked_start(task)
    features = yield from features_of(data, best_device())
    folder = cache_folder() / "searches"
    folder.mkdir(parents=True, exist_ok=True)
    asked = [part.model_dump(mode="json") for part in (task.given, task.config)]
    key = result_key([*asked, features.hash], data)
    waiting = Progress(WORK, 0, task.config.trials, "waiting for another process that searches the same")
    lock = yield from wait_for(folder / f"{key}.lock", waiting)
    try:
        if not resume:
            forget_study(key, folder)
        study = open_study(key, task, folder)
        try:
            with study:
                return (yield from follow(events_of(study, features, start), study))
        finally:
            study.close()
    finally:
        lock.release()
