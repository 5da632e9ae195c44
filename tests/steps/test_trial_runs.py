"""Tests how a search's trials are recorded."""

from __future__ import annotations

import pytest

from aemodels.data import PreparedData
from aemodels.experiment import Experiment
from aemodels.runtime.process_names import own_name
from aemodels.steps.trial_runs import TrialRuns
from aemodels.tracking.run import start_run
from aemodels.tracking.store import Store
from aemodels.tuning.config import TuningConfig
from aemodels.tuning.events import TrialStarted
from aemodels.tuning.storage import open_storage
from aemodels.tuning.study import Study
from aemodels.tuning.task import Task


def gone() -> str:
    """Returns the name of a process that had this one's number an hour ago."""
    place, number, begun = own_name().rsplit(":", 2)
    return f"{place}:{number}:{int(begun) - 3600}"


def test_the_next_run_ends_the_trials_that_a_killed_search_has_left(
    digits: PreparedData, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = Study("killed", Task(Experiment(), TuningConfig(trials=4), digits), open_storage(None))
    with monkeypatch.context() as patched:
        patched.setattr("aemodels.tracking.run.own_name", gone)
        search = start_run(store, "digits", "search")
        trials = TrialRuns(store, study, search, "digits", "")
        trials.record(TrialStarted(study.generation(0)[0], Experiment()))
    start_run(store, "digits", "another training")
    left = store.client.get_run(trials.runs[0].id)
    assert left.data.tags["trial"] == "0"
    assert left.info.status == store.client.get_run(search.id).info.status == "KILLED"
