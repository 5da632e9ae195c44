"""Tests several processes that share a search: their claims, leases, and the address of its database."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from itertools import count
from typing import Any

import pytest
from searches import pretend, replace_trials

from aemodels.config import UserError
from aemodels.data import PreparedData
from aemodels.experiment import Experiment
from aemodels.settings import Settings
from aemodels.steps.trial_runs import TrialRuns
from aemodels.tracking.run import start_run
from aemodels.tracking.store import Store
from aemodels.tuning import claims
from aemodels.tuning.claims import Claims, Leases
from aemodels.tuning.config import TuningConfig
from aemodels.tuning.events import Trial, TrialEnded, TrialLost, TrialStarted
from aemodels.tuning.search import search
from aemodels.tuning.storage import INTERRUPTED, open_storage
from aemodels.tuning.study import Study
from aemodels.tuning.task import Task

NAMES = (f"joined-{number}" for number in count())
EXPERIMENT, CONFIG = Experiment(), TuningConfig(trials=6, generation=3, epochs=4)


# ---------------------------------------------------------------- claims and leases, on sqlite


class Unlocked(Leases):
    """Holds leases without the locks, which only PostgreSQL has."""

    alone, arrive, leaving = Claims.alone, Claims.arrive, Claims.leaving


@contextmanager
def workers(data: PreparedData, number: int = 2) -> Iterator[list[Study]]:
    """Opens the same study so many times, as that many processes would see it."""
    name = next(NAMES)
    studies = [Study(name, Task(EXPERIMENT, CONFIG, data), open_storage(None), Unlocked) for _ in range(number)]
    try:
        yield studies
    finally:
        for study in studies:
            study.close()


def complete(trial: Trial, value: float) -> Trial:
    return replace(trial, state="complete", values=(value,), metrics={"frechet_samples": value})


def claimed(study: Study, number: int = 0) -> Trial:
    trial = study.claim(number)
    assert trial is not None
    return trial


def rows(study: Study) -> list[tuple[int, str]]:
    """Returns index and state of all trials."""
    found = study._storage.get_all_trials(study._id)
    return [(row.user_attrs["index"], row.state.name) for row in sorted(found, key=lambda row: row.number)]


def test_each_trial_is_claimed_once(digits: PreparedData) -> None:
    with workers(digits) as (a, b):
        assert a.generation(0) == b.generation(0)
        assert [claimed(study).index for study in (a, b, a)] == [0, 1, 2]
        assert a.claim(0) is b.claim(0) is None
        assert [trial.state for trial in b.generation(0)] == ["running"] * 3
        assert rows(a) == [(0, "RUNNING"), (1, "RUNNING"), (2, "RUNNING")]


@pytest.fixture
def short_leases(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "LEASE_SECONDS", 1)
    monkeypatch.setattr(claims, "BEAT_SECONDS", 0.2)


@pytest.mark.usefixtures("short_leases")
def test_a_silent_workers_trial_is_run_by_another_one(digits: PreparedData, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "BEAT_SECONDS", 100)  # suspended: its threads too
    with workers(digits) as (a, b):
        proposed = a.generation(0)
        lost = claimed(a)
        time.sleep(2.5)  # sqlite's clock has whole seconds
        assert [trial.state for trial in b.generation(0)] == ["waiting"] * 3
        again = claimed(b)
        assert (again.index, again.params) == (lost.index, proposed[0].params)
        b.end(complete(again, 1.0))
        assert not a.keeps(lost.index)
        a.report(lost, 1, 5.0)
        assert not a.end(complete(lost, 5.0))
        assert not a.end(replace(lost, state="failed", error="out of memory"))
        for study in (a, b):
            first = study.generation(0)[0]
            assert (first.state, first.values, first.curve) == ("complete", (1.0,), {})
        assert rows(a).count((0, "FAIL")) == rows(a).count((0, "COMPLETE")) == 1


@pytest.mark.usefixtures("short_leases")
def test_a_living_workers_trial_is_not_taken(digits: PreparedData) -> None:
    with workers(digits) as (a, b):
        a.generation(0)
        trial = claimed(a)
        time.sleep(2.5)  # a long epoch
        assert b.generation(0)[0].state == "running"
        assert a.keeps(trial.index)
        assert rows(b) == [(0, "RUNNING"), (1, "WAITING"), (2, "WAITING")]


@pytest.mark.usefixtures("short_leases")
def test_a_worker_that_hangs_loses_its_trials(digits: PreparedData, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "HUNG_SECONDS", 0.1)
    with workers(digits) as (a, b):
        a.generation(0)
        trial = claimed(a)
        time.sleep(2.5)
        assert b.generation(0)[0].state == "waiting"
        assert not a.keeps(trial.index)


def test_an_error_that_is_written_too_late_does_not_count(digits: PreparedData) -> None:
    """It comes between another process's two writes, one of which says that the lease ran out."""
    with workers(digits) as (a, b):
        a.generation(0)
        trial = claimed(a)
        row = a._mine[trial.index]
        b._storage.set_trial_user_attr(row, INTERRUPTED, True)
        a.end(replace(trial, state="failed", error="out of memory"))
        assert b.generation(0)[0].state == "waiting"


@pytest.mark.parametrize("meanwhile", [False, True])
def test_an_end_that_does_not_count_is_undone(
    meanwhile: bool, digits: PreparedData, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process is cut off while it tells MLflow how a trial ended. Another one ends the trial meanwhile, or later."""
    replace_trials(monkeypatch, pretend)
    features: Any = object()
    with workers(digits) as (a, b), start_run(store, "digits", "search") as parent:
        late, other = (TrialRuns(store, study, parent, "digits", "") for study in (a, b))
        events = search(a, features)
        for event in events:
            if isinstance(event, TrialEnded):
                break
            late.record(event)
        assert isinstance(event, TrialEnded)
        b._claims._fail(a._mine[0])  # the lease ran out
        again = b.generation(0)[0]
        assert again.state == "waiting"
        failed = replace(claimed(b), state="failed", error="out of memory")

        def end_there() -> None:
            other.record(TrialStarted(again, EXPERIMENT))
            other.record(TrialEnded(failed))
            assert b.end(failed)

        if meanwhile:
            end_there()
        late.record(event)
        lost = next(events)
        assert lost == TrialLost(0)
        late.record(lost)
        run = late.runs[0].id
        assert store.client.get_run(run).info.status == "RUNNING"
        if not meanwhile:
            end_there()
        for event in events:
            late.record(event)
        ended = store.client.get_run(run)
        assert (ended.info.status, ended.data.tags["state"]) == ("FAILED", "failed")
        assert ended.data.tags["error"] == "out of memory"
        assert late.running == {}


def test_two_workers_that_record_at_once_agree(digits: PreparedData) -> None:
    with workers(digits) as (a, b):
        proposed = a.generation(0)
        b._record(0, {**proposed[0].params, "model.latent_dim": 7})
        for study in (a, b):
            assert study.generation(0) == proposed
        trial = claimed(a)
        a.end(complete(trial, 1.0))
        assert [t.state for t in b.generation(0)] == ["complete", "waiting", "waiting"]


def test_what_an_interrupted_worker_runs_goes_back(digits: PreparedData) -> None:
    with workers(digits) as (a, b):
        proposed = a.generation(0)
        with suppress(KeyboardInterrupt), a:
            ended, running = claimed(a), claimed(a)
            a.end(complete(ended, 1.0))
            raise KeyboardInterrupt
        assert [trial.state for trial in b.trials()] == ["complete", "interrupted", "waiting"]
        assert claimed(b).index == 2
        assert [trial.state for trial in b.generation(0)] == ["complete", "waiting", "running"]
        assert claimed(b).params == proposed[running.index].params


def test_a_database_alone_is_not_waited_for(digits: PreparedData) -> None:
    """What a killed process left is free at once: the lock of the run's folder proves that it is dead."""
    name = next(NAMES)
    dead, study = (Study(name, Task(EXPERIMENT, CONFIG, digits), open_storage(None)) for _ in range(2))
    with closing(dead), closing(study):
        dead.generation(0)
        trial = claimed(dead)
        assert study.generation(0)[0].state == "waiting"
        assert claimed(study).params == trial.params


# ---------------------------------------------------------------- the address


def test_a_worker_without_a_database_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    from flows.tune import search_worker

    monkeypatch.delenv("OPTUNA_STORAGE", raising=False)
    with pytest.raises(UserError, match=r"OPTUNA_STORAGE is not set.*set it to postgresql\+psycopg://.*aemodels tune"):
        search_worker.fn(Settings())


@pytest.mark.parametrize("url", ["sqlite:///secret.db", "redis://:secret@host", "secret", "mysql://a:secret@b/c"])
def test_a_database_that_cannot_be_shared(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from aemodels.steps.tune import check

    monkeypatch.setenv("OPTUNA_STORAGE", url)
    with pytest.raises(UserError, match=r"OPTUNA_STORAGE=.*give postgresql\+psycopg://") as raised:
        check(Settings())
    assert "sqlite" in url or "secret" not in str(raised.value)


def test_an_address_with_braces_and_signs() -> None:
    with pytest.raises(UserError, match=r"refused.*check postgres://me:\*\*\*@127\.0\.0\.1:1/\{x\}$"):
        open_storage("postgres://me:p%40{x}%2F@127.0.0.1:1/{x}?options=-csearch_path%3Dmine")
