"""Tests what the worker does about crashed runs. tests/live shows that one starts again once."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import anyio
import httpx
import pytest
from prefect import flow, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.exceptions import ObjectNotFound
from prefect.states import Crashed, Pending, Running, Scheduled
from prefect.workers.process import ProcessWorker, ProcessWorkerResult

from aemodels.runtime.environment import store_folder
from flows.deployment import worker
from flows.deployment.deploy import crashed_runs_start_again
from flows.deployment.worker import STARTED_AGAIN, TAG, Worker

pytestmark = [pytest.mark.flow, pytest.mark.usefixtures("prefect")]


@flow
def waits() -> None:
    """Lets the worker wait in place of running anything."""


@pytest.fixture
def deployment() -> Any:
    """Makes a deployment of a work pool of our type."""
    with get_client(sync_client=True) as client:
        pool = WorkPoolCreate(name="own", type=Worker.type, base_job_template=Worker.get_default_base_job_template())
        client.create_work_pool(pool, overwrite=True)
        flow_id = client.create_flow(waits)
        yield client.create_deployment(flow_id, name="waits", work_pool_name="own", tags=[TAG])


def crashed(deployment: Any, restarts: int = 0, tags: list[str] | None = None) -> Any:
    """Makes a flow run that was started again so many times, and has crashed once more."""
    with get_client(sync_client=True) as client:
        run = client.create_flow_run_from_deployment(deployment, tags=tags)
        for _ in range(restarts):
            client.set_flow_run_state(run.id, Running(), force=True)
            client.set_flow_run_state(run.id, Crashed(), force=True)
            client.set_flow_run_state(run.id, Scheduled(message=STARTED_AGAIN), force=True)
        client.set_flow_run_state(run.id, Running(), force=True)
        client.set_flow_run_state(run.id, Crashed(), force=True)
        return run.id


async def beat() -> None:
    """Lets a worker that runs nothing send one heartbeat."""
    async with Worker(work_pool_name="own") as one:
        await one.sync_with_backend()


def state(run: Any) -> str:
    with get_client(sync_client=True) as client:
        return str(client.read_flow_run(run).state.type.value)


def test_a_crash_that_the_server_has_missed_is_mended_by_a_worker(
    deployment: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the server restarts, its events reach no automation."""
    fresh = crashed(deployment)
    anyio.run(beat)
    assert state(fresh) == "CRASHED"  # the server may still do it
    monkeypatch.setattr(worker, "FORGOTTEN", timedelta(0))
    often, other = crashed(deployment, restarts=3), crashed(deployment)
    monkeypatch.setattr(worker, "TAG", "of somebody else")
    anyio.run(beat)
    assert state(fresh) == "CRASHED"  # not ours
    monkeypatch.setattr(worker, "TAG", TAG)
    anyio.run(beat)
    assert [state(run) for run in (fresh, often, other)] == ["SCHEDULED", "CRASHED", "SCHEDULED"]
    monkeypatch.setattr(worker, "ABANDONED", timedelta(0))
    old = crashed(deployment)
    anyio.run(beat)
    assert state(old) == "CRASHED"


@pytest.mark.usefixtures("deployment")
def test_relative_paths_in_the_environment_start_where_the_worker_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A flow run's process starts in a folder of its own, which is removed at its end."""
    monkeypatch.chdir(tmp_path)
    for variable, value in (("AEMODELS_STORE", "kept"), ("MLFLOW_TRACKING_URI", "sqlite:///kept/mlflow.db")):
        monkeypatch.setenv(variable, value)
    anyio.run(beat)
    assert os.environ["AEMODELS_STORE"] == str(tmp_path / "kept")
    assert os.environ["MLFLOW_TRACKING_URI"] == f"sqlite:///{tmp_path}/kept/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://localhost:5000")
    monkeypatch.delenv("AEMODELS_STORE")
    anyio.run(beat)
    assert os.environ["MLFLOW_TRACKING_URI"] == "http://localhost:5000"
    assert os.environ["AEMODELS_STORE"] == str(store_folder())  # the default, which may lie in the current folder


def test_of_two_workers_at_the_same_moment_one_starts_a_run_again(deployment: Any) -> None:
    """Both have seen the crash before either has done anything."""
    run = crashed(deployment)

    async def both() -> None:
        async with Worker(work_pool_name="own", name="a") as one, Worker(work_pool_name="own", name="b") as other:
            seen = await one.client.read_flow_run(run)
            for worker_ in (one, other):
                await worker_._schedule(run, seen.state.id)

    anyio.run(both)
    with get_client(sync_client=True) as client:
        messages = [one.message for one in client.read_flow_run_states(run)]
    assert messages.count(STARTED_AGAIN) == 1


@pytest.mark.parametrize("begins", [False, True])
def test_a_process_that_ends_before_its_run_begins_is_reported_when_the_server_is_back(
    deployment: Any, monkeypatch: pytest.MonkeyPatch, begins: bool
) -> None:
    """Prefect's own report of its end is lost while the server is away."""
    with get_client(sync_client=True) as client:
        run = client.create_flow_run_from_deployment(deployment)
        client.set_flow_run_state(run.id, Pending(), force=True)
    away = [httpx.ConnectError("refused")] * 2

    async def ends(worker_: Worker, *_: Any, **__: Any) -> ProcessWorkerResult:
        if begins:
            await worker_.client.set_flow_run_state(run.id, Running(), force=True)
        monkeypatch.setattr(worker_.client, "read_flow_run", reading(worker_.client.read_flow_run))
        return ProcessWorkerResult(identifier="1", status_code=1)

    def reading(real: Any) -> Any:
        async def read(run_id: UUID) -> Any:
            if away:
                raise away.pop()
            return await real(run_id)

        return read

    async def work() -> None:
        async with Worker(work_pool_name="own") as one:
            assert (await one.run(run, None)).status_code == 0

    monkeypatch.setattr(ProcessWorker, "run", ends)
    monkeypatch.setattr(worker, "SECONDS_BETWEEN", 0.01)
    anyio.run(work)
    assert away == []
    assert state(run.id) == ("RUNNING" if begins else "CRASHED")


def test_a_server_that_refuses_to_tell_is_not_asked_for_minutes(
    deployment: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with get_client(sync_client=True) as client:
        run = client.create_flow_run_from_deployment(deployment)
    refused = httpx.HTTPStatusError("401", request=httpx.Request("GET", "http://x"), response=httpx.Response(401))
    asked: list[UUID] = []

    async def refuses(run_id: UUID) -> Any:
        asked.append(run_id)
        raise refused

    async def ask() -> None:
        async with Worker(work_pool_name="own") as one:
            monkeypatch.setattr(one.client, "read_flow_run", refuses)
            assert await one._state_of(run, 600) is None

    anyio.run(ask)
    assert asked == [run.id]


def test_restarts_that_a_person_has_switched_off_stay_off(deployment: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "FORGOTTEN", timedelta(0))
    run = crashed(deployment)
    with get_client(sync_client=True) as client:
        made = client.create_automation(crashed_runs_start_again().model_copy(update={"enabled": False}))
        try:
            anyio.run(beat)
            assert state(run) == "CRASHED"
        finally:
            client.delete_automation(made)
    anyio.run(beat)
    assert state(run) == "SCHEDULED"


def test_two_workers_start_a_forgotten_run_once_and_one_that_was_deleted_ends_no_worker(
    deployment: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "FORGOTTEN", timedelta(0))
    runs = [crashed(deployment) for _ in range(3)]
    deleted = crashed(deployment)

    async def both() -> None:
        async with Worker(work_pool_name="own", name="a") as one, Worker(work_pool_name="own", name="b") as other:
            listed = await one.client.read_flow_run(deleted)
            await one.client.delete_flow_run(deleted)
            with pytest.raises(ObjectNotFound):
                await one._start_again(listed)
            async with anyio.create_task_group() as group:
                group.start_soon(one.sync_with_backend)
                group.start_soon(other.sync_with_backend)

    anyio.run(both)
    with get_client(sync_client=True) as client:
        for run in runs:
            messages = [one.message for one in client.read_flow_run_states(run)]
            assert messages.count(STARTED_AGAIN) == 1
