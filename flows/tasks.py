"""Runs steps as Prefect tasks: follows them, tries them again where that can help, and takes turns on a GPU."""

from __future__ import annotations

import platform
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from contextvars import copy_context
from pathlib import Path
from typing import Any, ParamSpec, TypeVar
from uuid import UUID

from prefect import Task, get_client, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.concurrency.sync import concurrency
from prefect.logging import get_run_logger
from prefect.runtime import flow_run
from prefect.settings import PREFECT_API_URL

from aemodels.config import SettingsError, UserError
from aemodels.runtime.devices import best_device
from aemodels.runtime.files import at_path
from aemodels.runtime.progress import Progress, Steps, finish
from aemodels.runtime.secrets import without_secrets
from aemodels.settings import Settings
from aemodels.steps.start import fixed, origin
from aemodels.tracking.outages import is_outage
from aemodels.tracking.references import is_folder
from aemodels.training.config import TrainingDivergedError
from flows import terminal
from flows.attempts import only_attempt
from flows.outages import is_away
from flows.pages import Published

P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S")
T = TypeVar("T")
DELAYS = [10.0, 60.0, 300.0] + 6 * [600.0]  # seconds before each retry: a server may be away for an hour
RETRIES = len(DELAYS)
RETRIES_OF_OTHERS = 2  # retries of a task that fails for another reason than a server that is away
SILENCE = 5.0  # seconds that a run waits for its turn before it says so
PATIENCE = 3600.0  # seconds that `alone` waits for others: what they do takes minutes
LEASE = 60.0  # seconds until Prefect frees a slot that a killed process has held; Prefect allows no fewer


def worth_retrying(_task: Task[..., Any], run: TaskRun, state: State[Any]) -> bool:
    """Tells whether a failed task is tried again: a server or disk may come back, a mistake or divergence stays."""
    error = state.result(raise_on_failure=False)
    if is_outage(error) or is_away(error):
        terminal.say(f"an outage, tried again up to {RETRIES} times within an hour: {without_secrets(str(error))}")
        return True
    return run.run_count <= RETRIES_OF_OTHERS and not isinstance(error, UserError | TrainingDivergedError)


def step_task(name: str) -> Callable[[Callable[P, R]], Task[P, R]]:
    """Makes a task of a function that runs a step: it is tried again where that can help, and its result is kept.

    A flow run that starts again takes the kept result.
    """
    return task(
        name=name,
        retries=RETRIES,
        retry_delay_seconds=DELAYS,
        retry_condition_fn=worth_retrying,
        persist_result=True,
    )


def looking_task(name: str) -> Callable[[Callable[P, R]], Task[P, R]]:
    """Makes a task of a function that looks something up: it is tried again where that can help, and never kept."""
    return task(
        name=name,
        retries=RETRIES,
        retry_delay_seconds=DELAYS,
        retry_condition_fn=worth_retrying,
        cache_policy=NO_CACHE,
    )


@looking_task("check")
def passed(check: Callable[[S], None], settings: S) -> None:
    """Runs a step's check as a task, since a server that is away at the scheduled hour may be back soon."""
    with at_path():
        check(settings)


@step_task("start")
def fix_start(settings: Settings) -> Settings:
    """Fixes the weights that a training starts from; a flow run that starts again takes the same ones."""
    with at_path():
        return fixed(settings)


def started(settings: Settings) -> Settings:
    """Returns the settings as they are, or with fixed weights if the training starts from a model.

    Raises:
        SettingsError: the model is given as a folder from here, and a worker starts anywhere.
    """
    start = settings.start_from
    if start is not None and is_folder(named := origin(start).reference) and not Path(named).is_absolute():
        raise SettingsError(
            f"start_from={start}: is a relative path, and a worker may start anywhere; give the whole path"
        )
    return settings if settings.start_from is None else fix_start(settings)


def follow(steps: Steps[T]) -> T:
    """Runs a step to its end, and shows its progress in the log, on Prefect's pages, and to a person who watches."""
    published = Published()
    drawn = terminal.current.get()

    def show(report: Progress) -> None:
        published.show(report)
        if drawn is not None:
            drawn.show(report)

    with at_path(), only_attempt():
        return finish(steps, show)


@contextmanager
def device_slot() -> Iterator[None]:
    """Gives the block the GPU of this process for itself, where `make deploy` has set up such a limit."""
    device = best_device()
    with nullcontext() if device.type == "cpu" else _held(gpu_limit(device.index or 0), None):
        yield


def gpu_limit(index: int) -> str:
    """Names the limit of one GPU of this machine; one name for all would let a fleet run one after the other."""
    return f"gpu-{platform.node()}-{index}"


@contextmanager
def alone(name: str) -> Iterator[None]:
    """Lets one block of that name at a time run, on all machines together.

    Where Prefect's server is away for a while in the middle of a block, another machine may begin all the same. So a
    block that decides something has to look once more at what it was decided on.

    Raises:
        UserError: the others did not come to an end.
    """
    if PREFECT_API_URL.value():
        with get_client(sync_client=True) as client:
            client.upsert_global_concurrency_limit_by_name(name, 1)
    with ExitStack() as stack:
        try:
            stack.enter_context(_held(name, PATIENCE))
        except TimeoutError:
            raise UserError(
                f"{name}: another run has held this limit for {PATIENCE / 60:g} minutes; if no run uses it, free it by "
                f"prefect gcl update {name} --active-slots 0"
            ) from None
        yield


@contextmanager
def _held(name: str, patience: float | None) -> Iterator[None]:
    """Takes a slot of one of Prefect's limits for the block, and says so if it has to wait for it.

    A server that Prefect starts for one command knows of no other machine, and forgets at its end who holds a limit.
    There only locks keep apart what runs on this machine.

    Args:
        patience: seconds to wait, or None for as long as it takes.
    """
    if not PREFECT_API_URL.value():
        yield
        return
    with ExitStack() as stack:
        told = threading.Timer(SILENCE, copy_context().run, [_tell_that_it_waits, name])
        told.start()
        try:
            stack.enter_context(concurrency(name, occupy=1, timeout_seconds=patience, lease_duration=LEASE))
        finally:
            told.cancel()
        yield


def _tell_that_it_waits(name: str) -> None:
    text = f"{name}: this run waits for its turn; what a killed run has held is freed after some two minutes"
    get_run_logger().info(text)
    terminal.say(text)


@looking_task("remember")
def remember(**parameters: Any) -> None:
    """Writes what a run found out into its parameters, so that it does the same when it is started again.

    It is started again after a crash or an approval.
    """
    with get_client(sync_client=True) as client:
        run = client.read_flow_run(UUID(flow_run.id))
        client.update_flow_run(run.id, parameters=run.parameters | parameters)
