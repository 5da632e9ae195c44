"""Lets one attempt of a flow run work at a time, and ends killed runs on Prefect's pages."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar
from uuid import UUID

from filelock import FileLock
from prefect import Flow, get_client, tags
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterDeploymentId,
    FlowRunFilterId,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import State, StateType
from prefect.exceptions import Abort
from prefect.logging import get_run_logger
from prefect.runtime import deployment, flow_run, task_run
from prefect.states import Crashed

from aemodels.checkpoints.run_folder import COMMAND
from aemodels.runtime.process_names import is_gone, own_name
from flows.leftovers import attempts_folder, remove_unheld_locks

P = ParamSpec("P")
R = TypeVar("R")
PROCESS = "process:"  # the beginning of the tag that names the process of a command's flow run


def run_here(flow: Flow[P, R], *arguments: P.args, **named: P.kwargs) -> R:
    """Runs a flow in this process, after it has ended the runs on Prefect's pages whose processes were killed.

    Prefect's server notices the death of a worker's processes, and not that of a command.
    """
    try:
        _end_killed_runs()
    except Exception as error:  # then only the pages are wrong
        logging.getLogger(__name__).warning("killed runs on Prefect's pages were not ended: %r", error)
    with tags(f"{PROCESS}{own_name()}"):
        return flow(*arguments, **named)


def asker() -> str:
    """Returns who gets this flow run's result: the command that waits for it, or the same run when it starts again."""
    by_command = any(tag.startswith(PROCESS) for tag in flow_run.tags)
    return COMMAND if by_command else str(flow_run.id)


def _end_killed_runs() -> None:
    states = FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.PENDING, StateType.RUNNING]))
    by_commands = FlowRunFilter(state=states, deployment_id=FlowRunFilterDeploymentId(is_null_=True))
    with get_client(sync_client=True) as client:
        for run in client.read_flow_runs(flow_run_filter=by_commands):
            if any(is_gone(tag.removeprefix(PROCESS)) for tag in run.tags if tag.startswith(PROCESS)):
                client.set_flow_run_state(run.id, _killed(), force=True)
                _end_tasks(run.id)


@contextmanager
def only_attempt() -> Iterator[None]:
    """Lets one attempt of a flow run at a time work on this store.

    When Prefect's server was away for more than a minute, it takes runs that it has not heard of for dead, and starts
    them again. The new attempt waits here until the first one, which still lives, has noticed and ended; then it goes
    on from there.
    """
    place = attempts_folder()
    place.mkdir(parents=True, exist_ok=True)
    path = place / f"{flow_run.id}.lock"
    remove_unheld_locks(place, path)
    with FileLock(path, thread_local=False, is_singleton=True) as lock:  # a flow may hold it already around its steps
        with for_show():
            stop_if_started_again()
            if flow_run.run_count > 1:
                _end_tasks(UUID(flow_run.id), but=task_run.id)
        try:
            yield
        finally:
            if lock.lock_counter == 1:
                path.unlink(missing_ok=True)


def stop_if_started_again() -> None:
    """Ends this attempt if another one has begun; it raises `Abort`, on which Prefect changes no state."""
    if deployment.id is None:  # Prefect starts no such run again, and one that was paused has a higher count too
        return
    with get_client(sync_client=True) as client:
        begun = client.read_flow_run(UUID(flow_run.id)).run_count
    if begun > flow_run.run_count:
        raise Abort(f"attempt {flow_run.run_count} of this run ends: attempt {begun} has begun")


def _end_tasks(run_id: UUID, but: str | None = None) -> None:
    """Ends the tasks of a killed attempt, which nobody else does; only one task of a run works at a time.

    Args:
        but: the id of the task that works now, which goes on.
    """
    of_run = FlowRunFilter(id=FlowRunFilterId(any_=[run_id]))
    with get_client(sync_client=True) as client:
        for one in client.read_task_runs(flow_run_filter=of_run):
            if str(one.id) != but and (one.state is None or not one.state.is_final()):
                client.set_task_run_state(one.id, _killed(), force=True)


def _killed() -> State[Any]:
    return Crashed(message="Its process was killed; its work goes on elsewhere")


@contextmanager
def for_show() -> Iterator[None]:
    """Turns errors within the block into warnings, if all it does is add to Prefect's pages.

    Where Prefect's server is away, that must not end a training, nor make it run again.
    """
    try:
        yield
    except Exception as error:
        get_run_logger().warning("Prefect's server did not take what is shown on its pages: %r", error)
