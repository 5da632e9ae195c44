"""Tests flow runs that fail, are started again, are cancelled, or whose servers are away."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from flow_runs import TINY, once
from prefect import get_client
from quick import first

from aemodels.config import UserError
from aemodels.training.config import TrainingDivergedError

pytestmark = [pytest.mark.flow, pytest.mark.usefixtures("prefect")]


@pytest.mark.usefixtures("own_store")
def test_what_a_person_must_mend_is_not_retried() -> None:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import TaskRunFilter, TaskRunFilterName
    from prefect.states import State

    from aemodels.settings import Settings
    from flows.prepare import prepare

    missing = Settings().override({"data.name": "folder", "data.path": "/nowhere", "registry.name": "x"})
    state: State = prepare(missing, return_state=True)
    assert state.is_failed()
    with pytest.raises(UserError, match="/nowhere"):
        state.result()
    with get_client(sync_client=True) as client:
        runs = client.read_task_runs(task_run_filter=TaskRunFilter(name=TaskRunFilterName(like_="prepare")))
    failed = [run for run in runs if run.state is not None and run.state.is_failed()]
    assert [run.run_count for run in failed] == [1]


def test_a_run_that_was_started_again_ends_its_first_attempt(own_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After an outage, Prefect's server believes that the run is dead."""
    from filelock import FileLock
    from prefect import flow
    from prefect.exceptions import Abort
    from prefect.flow_engine import run_flow
    from prefect.runtime import flow_run
    from prefect.states import Running

    from aemodels.runtime.progress import Progress, Steps
    from flows import pages, tasks
    from flows.attempts import only_attempt

    monkeypatch.setattr(pages, "PUBLISH_SECONDS", 0.0)
    done: list[int] = []
    ended, seen = [], []
    begun, over = threading.Event(), threading.Event()

    def live(path: Path) -> None:
        """Pretends that an earlier attempt is alive."""
        with FileLock(path):
            begun.set()
            time.sleep(1)
            over.set()

    def work() -> Steps[None]:
        try:
            for i in range(4):
                done.append(i)
                if i == 2:  # the server begins another attempt
                    client.set_flow_run_state(seen[0], Running(), force=True)
                yield Progress("work", i, 4)
        finally:
            ended.append(True)

    @flow
    def working() -> None:
        seen.append(UUID(flow_run.id))
        (own_store / "attempts").mkdir()
        threading.Thread(target=live, args=[own_store / "attempts" / f"{flow_run.id}.lock"]).start()
        assert begun.wait(10)
        with only_attempt():
            assert over.is_set()
            tasks.follow(work())

    with get_client(sync_client=True) as client:
        deployed = client.create_deployment(client.create_flow(working), name="working")
        with pytest.raises(Abort, match="attempt 1 of this run ends: attempt 2 has begun"):
            run_flow(working, flow_run=client.create_flow_run_from_deployment(deployed))
        run = client.read_flow_run(seen[0])
    assert (done, ended) == ([0, 1, 2], [True])
    assert (run.state.name, run.run_count) == ("Running", 2)  # the other attempt's, untouched
    assert not list((own_store / "attempts").iterdir())


def test_a_run_that_is_being_cancelled_cannot_crash() -> None:
    """So a silent one is not started again. Prefect marks it as Cancelled after five minutes."""
    from prefect.settings import get_current_settings
    from prefect.states import Cancelling, Crashed, Running

    from flows.pipeline import pipeline

    with get_client(sync_client=True) as client:
        run = client.create_flow_run(pipeline)
        for state in (Running(), Cancelling()):
            client.set_flow_run_state(run.id, state, force=True)
        client.set_flow_run_state(run.id, Crashed())  # as the automation does
        assert client.read_flow_run(run.id).state.name == "Cancelling"
    assert get_current_settings().server.services.cancellation_cleanup.cancelling_timeout_seconds == 300


@pytest.mark.slow
@pytest.mark.usefixtures("own_store")
def test_a_server_that_is_away_at_the_beginning_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    import aemodels.steps.train as step
    import flows.train
    from aemodels.config import UnreachableError
    from aemodels.settings import Settings

    stumbled = once(monkeypatch, step, "open_store", UnreachableError("no answer"))
    monkeypatch.setattr(flows.train, "passed", flows.train.passed.with_options(retry_delay_seconds=0))
    assert flows.train.train(Settings().override({**TINY, "registry.name": "late"})).version.version == 1
    assert len(stumbled) == 3  # the check, the check again, the training


def test_an_outage_is_retried_for_an_hour_and_other_errors_twice() -> None:
    import httpx
    from prefect.client.schemas.objects import TaskRun
    from prefect.states import Failed

    from aemodels.config import UnreachableError
    from flows import tasks

    def of_prefect(status: int) -> Exception:
        request = httpx.Request("POST", "http://prefect/api")
        return httpx.HTTPStatusError("no", request=request, response=httpx.Response(status, request=request))

    def retries(error: Exception) -> int:
        tries = (TaskRun(task_key="x", dynamic_key="0", run_count=count) for count in range(1, 1 + tasks.RETRIES))
        worth: Any = tasks.worth_retrying
        return sum(worth(None, run, Failed(data=error)) for run in tries)

    assert retries(OSError("no space left")) == 2
    beneath = RuntimeError("no slot")
    beneath.__cause__ = httpx.ConnectError("refused")
    for outage in (UnreachableError("no answer"), httpx.ReadTimeout("slow"), beneath, of_prefect(503)):
        assert sum(tasks.DELAYS[: retries(outage)]) >= 3600
    assert retries(of_prefect(404)) == 2
    assert retries(UserError("a wrong setting")) == retries(TrainingDivergedError("nan")) == 0


@pytest.mark.usefixtures("own_store")
@pytest.mark.parametrize(("error", "calls"), first(1, [("person", 1), ("outage", 2), ("disk", 2), ("diverged", 1)]))
def test_what_is_retried(monkeypatch: pytest.MonkeyPatch, error: str, calls: int) -> None:
    from prefect import flow

    import aemodels.steps.train as step
    from aemodels.config import UnreachableError
    from aemodels.settings import Settings
    from aemodels.training.config import TrainingDivergedError
    from flows.prepare import prepare_data
    from flows.train import train_model

    errors = {
        "outage": UnreachableError("no answer"),
        "disk": OSError("no space left"),
        "person": UserError("mend me"),
        "diverged": TrainingDivergedError("nan"),
    }
    settings = Settings().override({**TINY, "registry.name": "retried"})
    stumbled = once(monkeypatch, step, "open_store", errors[error])
    at_once = train_model.with_options(retry_delay_seconds=0)

    @flow
    def training() -> int:
        return at_once(settings, prepare_data(settings), "").version.version

    if calls == 2:
        assert training() == 1
    else:
        with pytest.raises(type(errors[error])):
            training()
    assert len(stumbled) == calls


@pytest.mark.slow
def test_a_full_disk_is_waited_for_and_a_read_only_one_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A person makes room when the notice asks for it."""
    from disks import fill, read_only, small_disk
    from prefect import flow

    import aemodels.steps.train as step
    from aemodels.settings import Settings
    from flows import terminal
    from flows.prepare import prepare_data
    from flows.train import train_model

    at_once = train_model.with_options(retry_delay_seconds=0)
    opened, notices = [], []
    real = step.open_store
    monkeypatch.setattr(step, "open_store", lambda: opened.append(1) or real())

    @flow
    def training(seed: int) -> int:
        settings = Settings().override({**TINY, "registry.name": "kept", "seed": seed})
        return at_once(settings, prepare_data(settings), "").version.version

    with small_disk(tmp_path / "disk", 20_000) as disk:
        monkeypatch.setenv("AEMODELS_STORE", str(disk / "store"))
        filling = fill(disk, 1_500_000)  # the database has room, the training has not
        monkeypatch.setattr(terminal, "say", lambda notice: (notices.append(notice), filling.unlink()))
        assert training(0) == 1
        assert len(opened) == 2
        assert len(notices) == 1
        assert f"{disk}" in notices[0]
        assert "No space left on device; make room there" in notices[0]
        with read_only(disk), pytest.raises(UserError, match="Read-only file system; mount it for writing"):
            training(1)
        assert len(notices) == 1
        assert len(opened) <= 3


def test_an_event_waits_for_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prefect's client would silently drop the event. A task that fails is tried again."""
    from postgres import free_port
    from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

    from aemodels.tracking.outages import is_outage
    from flows import pages

    sent: list[str] = []
    monkeypatch.setattr(pages, "emit_event", lambda event, *_, **__: sent.append(event))
    away = {PREFECT_API_URL: f"http://127.0.0.1:{free_port()}/api", PREFECT_CLIENT_MAX_RETRIES: 0}
    with temporary_settings(away), pytest.raises(UserError, match=r"does not take the event aemodels\.drift") as error:
        pages.announce("aemodels.drift", "digits", {})
    assert is_outage(error.value)
    assert sent == []
    pages.announce("aemodels.drift", "digits", {})
    assert sent == ["aemodels.drift"]


def test_locks_of_killed_attempts_are_removed_and_those_of_others_kept(own_store: Path) -> None:
    from filelock import FileLock
    from prefect import flow

    from flows.attempts import only_attempt

    place = own_store / "attempts"
    place.mkdir()
    for name in ("killed", "alive"):
        (place / f"{name}.lock").touch()
    seen: list[str] = []

    @flow
    def attempt() -> None:
        with only_attempt():
            seen.extend(path.stem for path in place.iterdir())

    with FileLock(place / "alive.lock"):
        attempt()
    assert "alive" in seen
    assert "killed" not in seen
    assert [path.stem for path in place.iterdir()] == ["alive"]


@pytest.mark.usefixtures("own_store")
def test_the_tasks_of_a_killed_attempt_do_not_stay_running() -> None:
    from prefect import flow, task
    from prefect.flow_engine import run_flow
    from prefect.states import Running

    from flows.attempts import only_attempt

    @task
    def work() -> None:
        with only_attempt():
            pass

    @flow
    def attempt() -> None:
        work()

    with get_client(sync_client=True) as client:
        run = client.create_flow_run(attempt)
        client.set_flow_run_state(run.id, Running(), force=True)
        killed = client.create_task_run(work, flow_run_id=run.id, dynamic_key="killed", state=Running())
        run_flow(attempt, flow_run=client.read_flow_run(run.id))
        assert client.read_task_run(killed.id).state.is_crashed()
        assert client.read_flow_run(run.id).state.is_completed()


@pytest.mark.usefixtures("own_store")
def test_the_flow_run_of_a_killed_command_does_not_stay_running() -> None:
    """Only the next command can tell Prefect's server that the run is dead."""
    from prefect import flow, task
    from prefect.states import Running

    from aemodels.runtime.process_names import own_name
    from flows.attempts import PROCESS, run_here

    @task
    def work() -> None:
        pass

    @flow
    def command() -> None:
        pass

    place, number, begun = own_name().rsplit(":", 2)
    names = {"killed": f"{place}:{number}:{int(begun) - 3600}", "alive": own_name(), "elsewhere": f"x:{number}:{begun}"}
    with get_client(sync_client=True) as client:
        runs = {which: client.create_flow_run(command, tags=[f"{PROCESS}{name}"]) for which, name in names.items()}
        for run in runs.values():
            client.set_flow_run_state(run.id, Running(), force=True)
        at_work = client.create_task_run(work, flow_run_id=runs["killed"].id, dynamic_key="0", state=Running())
        run_here(command)
        ended = {which for which, run in runs.items() if client.read_flow_run(run.id).state.is_crashed()}
        assert ended == {"killed"}
        assert client.read_task_run(at_work.id).state.is_crashed()
