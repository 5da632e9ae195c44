"""Tests that a search gives its result once to each who worked on it or came too late.

Searches that machines share are on sqlite here, without the locks that only PostgreSQL has; live/test_joined_search.py
kills real processes on a real one.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from optuna.storages import RDBStorage
from quick import first
from searches import pretend, replace_trials
from tracked import runs

from aemodels.checkpoints.run_folder import RunFolder
from aemodels.data import PreparedData
from aemodels.experiment import Experiment
from aemodels.runtime.progress import finish
from aemodels.settings import Settings
from aemodels.steps.tune import ENDED, Tuned, tune
from aemodels.tracking.store import open_store
from aemodels.tuning import opening
from aemodels.tuning.claims import Claims, Leases
from aemodels.tuning.messages import TrialEvents

SETTINGS = Settings().override({"tuning": {"trials": 4, "generation": 2, "epochs": 2}, "registry.name": "shared"})


class Unlocked(Leases):
    """Holds leases without the locks, which only PostgreSQL has."""

    alone, arrive, leaving = Claims.alone, Claims.arrive, Claims.leaving


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[Experiment]:
    """Lists the trials that were pretended to be trained, in their order."""
    found: list[Experiment] = []

    def noted(index: int, experiment: Experiment, watched: str | None) -> TrialEvents:
        found.append(experiment)
        yield from pretend(index, experiment, watched)

    replace_trials(monkeypatch, noted)
    return found


Machine = Callable[[str], None]


@pytest.fixture
def machine(tmp_path: Path, empty_database: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Pretends to move to the machine of that name. All machines have one MLflow and one database of searches."""
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    monkeypatch.setenv("OPTUNA_STORAGE", "postgresql://nobody@nowhere.invalid/searches")
    monkeypatch.setattr(opening, "Leases", Unlocked)
    monkeypatch.setattr(opening, "open_storage", lambda *_: RDBStorage(f"sqlite:///{tmp_path / 'searches.db'}"))
    return lambda name: monkeypatch.setenv("AEMODELS_STORE", str(tmp_path / name))


def search(digits: PreparedData, group: str = "") -> Tuned:
    return finish(tune(SETTINGS, digits, group))


def notes(digits: PreparedData) -> list[str]:
    """Returns the notes that a person reads while the search goes on."""
    found: list[str] = []
    finish(tune(SETTINGS, digits, ""), lambda progress: found.append(progress.note))
    return found


@pytest.mark.usefixtures("store")
def test_begun_anew_a_killed_search_searches_from_the_start(digits: PreparedData, trained: list[Experiment]) -> None:
    steps = tune(SETTINGS, digits, "")
    next(progress for progress in steps if "complete" in progress.note)
    steps.close()
    count = len(trained)
    result = finish(tune(SETTINGS, digits, "", resume=False))
    assert len(trained) == count + 4
    assert len(runs(result.folder.parents[1], "search")) == 2
    assert sorted(trial.index for trial in result.trials) == [0, 1, 2, 3]


def interrupted(digits: PreparedData, group: str = "") -> None:
    """Interrupts a search while its first trial trains."""
    steps = tune(SETTINGS, digits, group)
    for progress in steps:
        if "epoch 1" in progress.note:
            break
    steps.close()


def found(tuned: Tuned) -> dict[str, Any]:
    """Returns the part of a search's result that does not depend on the machine."""
    return tuned.model_dump(exclude={"folder", "figures"})


@pytest.mark.slow
def test_who_was_interrupted_gets_what_others_found(
    digits: PreparedData, machine: Machine, trained: list[Experiment]
) -> None:
    machine("a")
    interrupted(digits)
    machine("b")
    result = search(digits)
    assert len(trained) == 5  # one of which was interrupted
    machine("a")
    assert found(search(digits)) == found(result)
    assert len(trained) == 5
    anew = search(digits)  # by who had it
    assert len(trained) == 9
    assert anew.run_id != result.run_id
    assert (anew.trials, anew.best) == (result.trials, result.best)
    machine("b")
    joined = search(digits)  # of the newer search, which b has not had
    assert joined.run_id == anew.run_id
    assert len(trained) == 9


def test_two_on_one_machine(digits: PreparedData, machine: Machine, trained: list[Experiment]) -> None:
    """One of them is interrupted. The other has the result, and ends."""
    machine("a")
    working = tune(SETTINGS, digits, "")
    for progress in working:
        if "epoch 1" in progress.note:
            break
    interrupted(digits)
    result = finish(working)
    seats = list((result.folder).glob("seat-*"))
    assert len(seats) == 1
    count = len(trained)
    assert found(search(digits)) == found(result)
    assert len(trained) == count
    assert not list(result.folder.glob("seat-*"))
    assert search(digits).run_id != result.run_id


def test_who_comes_too_late_gets_the_result(digits: PreparedData, machine: Machine, trained: list[Experiment]) -> None:
    """A note says that the result is of a search that has ended."""
    machine("a")
    assert ENDED not in notes(digits)
    machine("b")
    assert ENDED in notes(digits)
    assert len(trained) == 4
    assert ENDED not in notes(digits)
    assert len(trained) == 8


@pytest.mark.slow
def test_who_comes_too_late_joins_a_newer_search(
    digits: PreparedData, machine: Machine, trained: list[Experiment]
) -> None:
    machine("a")
    first = search(digits)
    interrupted(digits)  # the second
    machine("b")
    second = search(digits)
    assert second.run_id != first.run_id
    assert len(trained) == 9
    machine("a")
    assert found(search(digits)) == found(second)
    assert len(trained) == 9


@pytest.mark.slow
def test_a_result_that_was_deleted_is_found_anew(
    digits: PreparedData, machine: Machine, trained: list[Experiment]
) -> None:
    machine("a")
    first = search(digits)
    open_store().client.delete_run(first.run_id)
    machine("b")
    assert search(digits).run_id != first.run_id
    assert len(trained) == 8


@pytest.mark.parametrize("shared", first(1, [False, True]))
def test_a_pipeline_that_asks_again_gets_its_result(
    digits: PreparedData, machine: Machine, trained: list[Experiment], shared: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was killed before it noted its result. Another pipeline searches anew."""
    if not shared:
        monkeypatch.delenv("OPTUNA_STORAGE")
    machine("a")
    first = search(digits, "pipeline-1")
    assert search(digits, "pipeline-1") == first
    assert len(trained) == 4
    second = search(digits, "pipeline-2")
    assert second.run_id != first.run_id
    assert len(trained) == 8
    assert search(digits, "pipeline-1") == first
    assert search(digits, "pipeline-2") == second
    assert len(trained) == 8


class Killed(BaseException):
    """Stands for kill -9; no handler may catch it."""


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize("moment", first(1, ["_summarize", "keep_figures", "finish"]))
def test_killed_between_the_end_of_a_search_and_its_record(
    digits: PreparedData, trained: list[Experiment], moment: str
) -> None:
    def killed(*_: Any, **__: Any) -> None:
        raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunFolder if moment == "finish" else import_module("aemodels.steps.tune"), moment, killed)
        with pytest.raises(Killed):
            search(digits)
    result = search(digits)
    assert len(trained) == 4
    (run,) = open_store().client.search_runs(["1"], "tags.kind = 'search'")
    assert (run.info.run_id, run.info.status) == (result.run_id, "FINISHED")
    assert search(digits).run_id != result.run_id
