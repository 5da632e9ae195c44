"""Defines the worker that runs this project's deployments: Prefect's process worker, with one restart for one crash.

Prefect finds it as the type `aemodels` of a work pool, by the entry point `prefect.collections` in pyproject.toml.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, Self
from uuid import UUID, uuid5

import anyio
import httpx
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterEndTime,
    FlowRunFilterState,
    FlowRunFilterStateType,
    FlowRunFilterTags,
)
from prefect.client.schemas.objects import FlowRun, StateDetails, StateType
from prefect.exceptions import ObjectNotFound
from prefect.states import Scheduled, to_state_create
from prefect.workers.process import ProcessWorker, ProcessWorkerResult

from aemodels.runtime.environment import make_whole
from flows.outages import is_away

TAG = "aemodels"  # It is on every deployment of prefect.yaml, and so on its runs.
RESTARTS = 3  # of one run: a run whose process dies every time must not go on for ever
AUTOMATION = "aemodels: crashed runs start again"  # the server's automation, which starts them before a worker does
STARTED_AGAIN = "Started again after a crash"  # the message of the state, by which restarts are counted
FORGOTTEN = timedelta(minutes=2)  # by then the server's automation has started a crashed run again, if it ever will
ABANDONED = timedelta(hours=1)  # runs that crashed longer ago are left to people
SECONDS_TO_ASK = 10.0  # for a run's state before its process starts
SECONDS_AWAY = 600.0  # for a run's state when its process has ended: the server may be away so long
SECONDS_BETWEEN = 2.0  # between two questions to a server that is away


class Worker(ProcessWorker):
    """A worker reports a crash of its runs once, and starts them again even if the server has missed the crash."""

    type = "aemodels"
    _display_name = "aemodels"
    _description = "Runs the flows of aemodels as processes of this machine."

    async def __aenter__(self) -> Self:
        """Starts the worker, and makes relative paths in the environment absolute, as runs work in another folder."""
        make_whole()
        await super().__aenter__()
        return self

    async def run(self, flow_run: FlowRun, *arguments: Any, **named: Any) -> ProcessWorkerResult:
        """Runs a flow run's process to its end, and hides how it ended from the caller.

        Prefect's process worker reports a dead process at once. Its caller reports it a second time when this method
        returns, up to a minute later, and that report would end the attempt that has begun in the meantime.
        """
        submitted = await self._state_of(flow_run, SECONDS_TO_ASK)
        try:
            result = await super().run(flow_run, *arguments, **named)
        except Exception:
            await self._report_unbegun(flow_run, submitted)
            raise
        if result.status_code:
            await self._report_unbegun(flow_run, submitted)
        return ProcessWorkerResult(identifier=result.identifier, status_code=0)

    async def _report_unbegun(self, flow_run: FlowRun, submitted: UUID | None) -> None:
        """Reports the end of a process whose run has not begun, and waits for a server that is away.

        A run that has begun needs no report: the server sees that its heartbeats have stopped.
        """
        now = await self._state_of(flow_run, SECONDS_AWAY)
        if now is not None and now == submitted:
            await self._propose_crashed_state(flow_run, "Its process ended before the run began")

    async def _state_of(self, flow_run: FlowRun, seconds: float) -> UUID | None:
        """Returns the id of the run's state; None where the server does not tell it in so many seconds."""
        with anyio.move_on_after(seconds):
            while True:
                try:
                    state = (await self.client.read_flow_run(flow_run.id)).state
                except ObjectNotFound:  # it was deleted
                    return None
                except httpx.HTTPError as error:
                    if not is_away(error):  # such as a password that was changed meanwhile
                        return None
                    await anyio.sleep(SECONDS_BETWEEN)
                else:
                    return state.id if state else None
        return None

    async def sync_with_backend(self) -> None:
        """Sends the worker's heartbeat, then starts again the crashed runs that the server has forgotten."""
        await super().sync_with_backend()
        try:
            await self._start_forgotten_runs()
        except Exception as error:  # such as a run that was deleted meanwhile: no reason for a worker to end
            self._logger.warning("Crashed runs were not looked after this time: %r", error)

    async def _start_forgotten_runs(self) -> None:
        """Starts crashed runs again that the server has missed: its automations see no events while it restarts."""
        now = datetime.now(UTC)
        crashed = FlowRunFilter(
            state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.CRASHED])),
            tags=FlowRunFilterTags(all_=[TAG]),
            end_time=FlowRunFilterEndTime(after_=now - ABANDONED, before_=now - FORGOTTEN),
        )
        runs = await self.client.read_flow_runs(flow_run_filter=crashed)
        if not runs or await self._is_switched_off():
            return
        for run in runs:
            if run.deployment_id is not None and await self._restarts(run) < RESTARTS:
                self.get_flow_run_logger(run).warning("This run has crashed and was not started again: starting it")
                await self._start_again(run)

    async def _start_again(self, run: FlowRun) -> None:
        """Starts a run again, unless somebody else has done so since it was listed."""
        now = await self.client.read_flow_run(run.id)
        if run.state is not None and now.state is not None and now.state.id == run.state.id:
            await self._schedule(run.id, run.state.id)

    async def _schedule(self, run_id: UUID, crash: UUID) -> None:
        """Schedules a run after a crash; if two workers do so at once, the server refuses the second one.

        The server refuses it because both propose a transition of the same id. Prefect's own method would give each a
        new id.
        """
        details = StateDetails(flow_run_id=run_id, transition_id=uuid5(crash, STARTED_AGAIN))
        state = to_state_create(Scheduled(message=STARTED_AGAIN, state_details=details))
        body = {"state": state.model_dump(mode="json", serialize_as_any=True)}
        await self.client.request("POST", "/flow_runs/{id}/set_state", path_params={"id": run_id}, json=body)

    async def _is_switched_off(self) -> bool:
        """Tells whether a person has switched off the automation that starts crashed runs again."""
        automations = await self.client.read_automations_by_name(AUTOMATION)
        return bool(automations) and not any(one.enabled for one in automations)

    async def _restarts(self, run: FlowRun) -> int:
        states = await self.client.read_flow_run_states(run.id)
        return sum(state.message == STARTED_AGAIN for state in states)
