"""Tests processes that share a search on a real PostgreSQL, and are killed, suspended or interrupted."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import postgres
import pytest
from quick import first
from sqlalchemy import make_url

from aemodels.config import UserError
from aemodels.settings import Settings
from aemodels.tracking.outages import is_outage
from aemodels.tuning.storage import open_storage

NAMES = (f"joined-{number}" for number in count())
LEASE = 4  # seconds, in the tests with real workers
SEARCH = ["data.name=digits", "model.trunk.widths=[64]", "evaluation.primary=mse", "training.epochs=40"]
SEARCH += ["tuning.trials=8", "tuning.generation=4", "tuning.epochs=40", "tuning.images=1200", "training.batch_size=16"]
SMALL = [*SEARCH, "tuning.trials=2", "tuning.generation=2", "tuning.epochs=1", "tuning.images=100"]
BOOT = f"""
import os, sys
cores = sorted(os.sched_getaffinity(0))
os.sched_setaffinity(0, {{cores[int(sys.argv.pop(1)) % len(cores)]}})  # else it would start processes
from aemodels.tuning import claims
claims.LEASE_SECONDS, claims.BEAT_SECONDS = {LEASE}, 1
from flows.cli.main import main
main()
"""


@pytest.fixture(scope="module")
def server() -> Iterator[postgres.Server]:
    with postgres.running() as found:
        yield found


class Site:
    """Holds a database of searches, an MLflow store, and the processes that work on them."""

    def __init__(self, server: postgres.Server, folder: Path, name: str) -> None:
        self.server, self.store, self.name = server, folder, name
        self.url = server.url(name)
        self.started: list[subprocess.Popen[str]] = []

    def start(self, *settings: str, shared: bool = True) -> subprocess.Popen[str]:
        environment = os.environ | {"AEMODELS_STORE": str(self.store), "OMP_NUM_THREADS": "1"}
        environment |= {"OPTUNA_STORAGE": self.url} if shared else {}
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        command = [sys.executable, "-c", BOOT, str(len(self.started)), "tune", "--json", *settings]
        self.started.append(subprocess.Popen(command, env=environment, **pipes))
        return self.started[-1]

    def answer(self, worker: subprocess.Popen[str]) -> dict[str, Any]:
        out, errors = worker.communicate(timeout=300)
        assert worker.returncode == 0, errors
        assert self.server.password not in out + errors
        told: dict[str, Any] = json.loads(out)
        return told

    def rows(self) -> list[tuple[int, str]]:
        """Returns index and state of all rows, in their order."""
        query = """SELECT CAST(value_json AS integer), CAST(state AS text) FROM trials
            JOIN trial_user_attributes USING (trial_id) WHERE key = 'index' ORDER BY trial_id"""
        try:
            with self.server.connect(self.name) as connection:
                return [(index, state) for index, state in connection.execute(query).fetchall()]
        except postgres.psycopg.errors.UndefinedTable:
            return []

    def epochs(self) -> int:
        with self.server.connect(self.name) as connection:
            return len(connection.execute("SELECT step FROM trial_intermediate_values").fetchall())

    def studies(self) -> list[str]:
        with self.server.connect(self.name) as connection:
            return [name for (name,) in connection.execute("SELECT study_name FROM studies ORDER BY study_id")]

    def runs(self, kind: str) -> list[Any]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("AEMODELS_STORE", str(self.store))
            from aemodels.tracking.store import open_store

            store = open_store()
            places = [store.experiment("digits")]
            found = store.client.search_runs(places, f"tags.kind = '{kind}'")
            self.client = store.client
        return sorted(found, key=lambda run: int(run.data.tags.get("trial", 0)))

    def wait(self, reached: Callable[[], bool]) -> None:
        for _ in range(3600):
            if reached():
                return
            assert any(worker.poll() is None for worker in self.started), self.started[-1].communicate()
            time.sleep(0.05)
        raise AssertionError("nothing happened for minutes")


@pytest.fixture
def site(server: postgres.Server, tmp_path: Path, empty_database: Path, digits: Any) -> Iterator[Site]:  # noqa: ARG001
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    site = Site(server, tmp_path, next(NAMES))
    try:
        yield site
    finally:
        for worker in site.started:
            worker.kill()
            worker.communicate()


@pytest.fixture(scope="module")
def alone(server: postgres.Server, tmp_path_factory: pytest.TempPathFactory, empty_database: Path, digits: Any) -> Any:  # noqa: ARG001
    """Returns what one process finds, without a shared database."""
    folder = tmp_path_factory.mktemp("alone")
    shutil.copy(empty_database, folder / "mlflow.db")
    site = Site(server, folder, next(NAMES))
    return found(site.answer(site.start(*SEARCH, shared=False)))


def found(told: dict[str, Any]) -> Any:
    trials = [(t["index"], t["state"], t["params"], t["values"]) for t in told["trials"]]
    return trials, told["best"], told["front"]


def check_runs(site: Site, told: dict[str, Any]) -> None:
    """Checks that the search is one run that ended once, with one summary, and has one run for each trial."""
    (parent,) = site.runs("search")
    assert (parent.info.run_id, parent.info.status) == (told["run_id"], "FINISHED")
    assert len(site.client.get_metric_history(parent.info.run_id, "objective")) == 1
    assert {file.path for file in site.client.list_artifacts(parent.info.run_id)} >= {"figures", "overview.png"}
    children = site.runs("trial")
    assert [int(run.data.tags["trial"]) for run in children] == list(range(len(told["trials"])))
    assert {run.data.tags["mlflow.parentRunId"] for run in children} == {parent.info.run_id}
    states = {trial["index"]: trial["state"] for trial in told["trials"]}
    assert [run.data.tags["state"] for run in children] == [states[index] for index in sorted(states)]
    assert [run.info.status for run in children] == [
        "FINISHED" if states[index] == "complete" else "KILLED" for index in sorted(states)
    ]


def check_secrets(site: Site) -> None:
    secret = site.server.password.encode()
    assert not [path for path in site.store.rglob("*") if path.is_file() and secret in path.read_bytes()]


@pytest.mark.live
def test_two_workers_share_a_search(site: Site, alone: Any) -> None:
    """Both start at once on an empty database. They find what one process finds, and run no trial twice."""
    first, second = (site.answer(worker) for worker in [site.start(*SEARCH), site.start(*SEARCH)])
    assert first == second
    assert found(first) == alone
    assert sorted(index for index, _ in site.rows()) == list(range(8))
    assert all(Path(figure).exists() for figure in first["figures"])
    check_runs(site, first)
    ran = [run.data.tags["process"] for run in site.runs("trial")]
    assert sorted(ran.count(worker) for worker in set(ran))[0] >= 2
    check_secrets(site)


@pytest.mark.live
@pytest.mark.flow
def test_a_flow_joins_a_command(site: Site, alone: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from prefect.testing.utilities import prefect_test_harness

    from aemodels.config import read_text
    from flows.tune import search_worker

    monkeypatch.setenv("OPTUNA_STORAGE", site.url)
    monkeypatch.setenv("AEMODELS_STORE", str(site.store))
    with prefect_test_harness(server_startup_timeout=120):
        command = site.start(*SEARCH)
        tuned = search_worker(Settings().override(read_text(SEARCH)))
    told = site.answer(command)
    assert told == json.loads(tuned.model_dump_json())
    assert found(told) == alone
    check_runs(site, told)


@pytest.mark.live
def test_a_finished_search_is_not_joined(site: Site) -> None:
    first, again = site.answer(site.start(*SMALL)), site.answer(site.start(*SMALL))
    assert found(again) == found(first)
    assert again["run_id"] != first["run_id"]
    name = site.studies()[0]
    assert site.studies() == [name, f"{name}-2"]
    assert [run.info.status for run in site.runs("search")] == ["FINISHED"] * 2


@pytest.mark.live
@pytest.mark.parametrize("founder", first(1, [True, False]))
def test_a_killed_worker(site: Site, alone: Any, founder: bool) -> None:
    """One is killed in the middle of a search. The other runs its trials again, and ends the search."""
    workers = [site.start(*SEARCH)]
    site.wait(lambda: (0, "RUNNING") in site.rows())
    workers.append(site.start(*SEARCH))
    site.wait(lambda: [state for _, state in site.rows()].count("RUNNING") == 2)
    dying, living = workers if founder else reversed(workers)
    dying.send_signal(signal.SIGKILL)
    told = site.answer(living)
    assert found(told) == alone
    assert [state for _, state in site.rows()].count("FAIL") == 1
    assert len(site.rows()) == 9
    check_runs(site, told)


@pytest.mark.slow
@pytest.mark.live
def test_a_worker_that_was_killed_and_comes_back_late_gets_the_result(site: Site, alone: Any) -> None:
    """It comes back when the other has ended the search. Whoever has the result and asks again searches anew."""
    workers = [site.start(*SEARCH)]
    site.wait(lambda: (0, "RUNNING") in site.rows())
    workers += [site.start(*SEARCH), site.start(*SEARCH)]
    site.wait(lambda: [state for _, state in site.rows()].count("RUNNING") == 3)
    for dying in workers[:2]:
        dying.send_signal(signal.SIGKILL)
    told = site.answer(workers[2])
    assert found(told) == alone
    rows = site.rows()
    assert [site.answer(site.start(*SEARCH)) for _ in range(2)] == [told, told]
    assert site.rows() == rows
    assert len(site.studies()) == 1
    check_runs(site, told)
    again = site.start(*SEARCH)
    site.wait(lambda: len(site.studies()) == 2)
    again.send_signal(signal.SIGINT)
    again.communicate(timeout=60)
    assert again.returncode == 130


@pytest.mark.live
def test_a_worker_of_another_machine_that_comes_too_late_gets_the_result(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{site.store / 'mlflow.db'}")  # as a server that all reach
    told = site.answer(site.start(*SMALL))
    rows = site.rows()
    site.store = tmp_path / "another"
    late = site.answer(site.start(*SMALL))
    assert (found(late), late["run_id"]) == (found(told), told["run_id"])
    assert site.rows() == rows
    anew = site.answer(site.start(*SMALL))
    assert (found(anew), len(site.studies())) == (found(told), 2)


def suspend(worker: subprocess.Popen[str], site: Site) -> None:
    """Suspends a process until another one has taken its trial.

    Here MLflow's database is a file, which the process may hold locked meanwhile; a server would not let it.
    """
    for _ in range(5):
        worker.send_signal(signal.SIGSTOP)
        end = time.monotonic() + 30
        while time.monotonic() < end:
            if "FAIL" in [state for _, state in site.rows()]:
                return
            time.sleep(0.1)
        worker.send_signal(signal.SIGCONT)
        time.sleep(0.5)
    raise AssertionError("the trial of a suspended worker was not taken")


@pytest.mark.slow
@pytest.mark.live
def test_a_suspended_worker_does_no_harm(site: Site, alone: Any) -> None:
    """It sleeps longer than its lease lasts, and wakes while the other one runs its trial."""
    sleeping = site.start(*SEARCH)
    site.wait(lambda: (0, "RUNNING") in site.rows())
    living = site.start(*SEARCH)
    site.wait(lambda: [state for _, state in site.rows()].count("RUNNING") == 2)
    suspend(sleeping, site)
    sleeping.send_signal(signal.SIGCONT)
    told = site.answer(living)
    assert site.answer(sleeping) == told
    assert found(told) == alone
    ended = [index for index, state in site.rows() if state in ("COMPLETE", "PRUNED")]
    assert sorted(ended) == list(range(8))
    check_runs(site, told)


@pytest.mark.slow
@pytest.mark.live
def test_an_interrupted_worker_leaves_the_search_to_the_others(site: Site, alone: Any) -> None:
    leaving, staying = [site.start(*SEARCH), site.start(*SEARCH)]
    site.wait(lambda: [state for _, state in site.rows()].count("RUNNING") == 2 and site.epochs() >= 10)
    staying.send_signal(signal.SIGSTOP)  # it must not come to the end meanwhile
    leaving.send_signal(signal.SIGINT)
    _, errors = leaving.communicate(timeout=60)
    assert leaving.returncode == 130, errors
    assert "FAIL" in [state for _, state in site.rows()]  # at once, not when a lease runs out
    assert [run.info.status for run in site.runs("search")] == ["RUNNING"]
    staying.send_signal(signal.SIGINT)
    staying.send_signal(signal.SIGCONT)
    _, errors = staying.communicate(timeout=60)
    assert staying.returncode == 130, errors
    assert [run.info.status for run in site.runs("search")] == ["KILLED"]  # nobody is left
    assert "RUNNING" not in [state for _, state in site.rows()]
    told = site.answer(site.start(*SEARCH))
    assert found(told) == alone
    check_runs(site, told)


@pytest.mark.live
@pytest.mark.parametrize("wrong", [{"password": "wrong"}, {"database": "nowhere"}])
def test_a_database_that_refuses_is_not_waited_for(server: postgres.Server, wrong: dict[str, Any]) -> None:
    address = make_url(server.url("refusing")).set(**wrong)
    with pytest.raises(UserError) as refused:
        open_storage(address.render_as_string(hide_password=False))
    assert not is_outage(refused.value)


@pytest.mark.slow
@pytest.mark.live
def test_a_database_that_goes_away(server: postgres.Server, site: Site, alone: Any) -> None:
    """The process says so, without the password. The same command goes on when the database is back."""
    worker = site.start(*SEARCH)
    site.wait(lambda: [state for _, state in site.rows()].count("COMPLETE") == 2)
    server.stop()
    try:
        _, errors = worker.communicate(timeout=60)
    finally:
        assert server.start()
    assert worker.returncode == 2
    assert "does not answer any more" in errors
    assert server.password not in errors
    told = site.answer(site.start(*SEARCH))
    assert found(told) == alone
    check_runs(site, told)
