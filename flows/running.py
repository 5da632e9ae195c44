"""What every flow shares: following a step, when a retry can help, the GPU slot, and what Prefect's pages show."""

from __future__ import annotations

import base64
import platform
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

from prefect import Task, get_client
from prefect.artifacts import (
    create_image_artifact,
    create_link_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.client.schemas.objects import State, TaskRun
from prefect.concurrency.sync import concurrency
from prefect.logging import get_run_logger
from prefect.runtime import flow_run

from aemodels.config import UserError
from aemodels.progress import Progress, Steps, finish
from aemodels.store import UnreachableError
from aemodels.training import TrainingDivergedError, best_device
from flows import display

T = TypeVar("T")
PUBLISH_SECONDS = 5.0  # between two updates of a progress artifact


def worth_retrying(_task: Task[..., Any], _run: TaskRun, state: State[Any]) -> bool:
    """A server or disk may come back; what a person has to mend, and a training that diverged, will not."""
    error = state.result(raise_on_failure=False)
    return isinstance(error, UnreachableError) or not isinstance(error, UserError | TrainingDivergedError)


def follow(steps: Steps[T]) -> T:
    """Runs a step to its end: logged, published as a progress artifact, and drawn where a person watches."""
    published = _Published()
    drawn = display.current.get()

    def show(report: Progress) -> None:
        published.show(report)
        if drawn is not None:
            drawn.show(report)

    return finish(steps, show)


class _Published:
    """Progress on Prefect's pages: an artifact per piece of work, updated now and then."""

    def __init__(self) -> None:
        self.artifacts: dict[str, UUID] = {}
        self.last = 0.0

    def show(self, report: Progress) -> None:
        get_run_logger().info("%s: %d of %d %s", report.work, report.done, report.total, report.note)
        ended, now = report.done >= report.total, time.monotonic()
        if not ended and now - self.last < PUBLISH_SECONDS:
            return
        self.last = now
        share = 100 * report.done / report.total
        if report.work not in self.artifacts and not ended:
            self.artifacts[report.work] = create_progress_artifact(share, description=report.work)  # type: ignore[assignment]
        elif report.work in self.artifacts:
            update_progress_artifact(self.artifacts[report.work], share)


@contextmanager
def device_slot() -> Iterator[None]:
    """One of this machine's GPU slots, where `make deploy` has set up such a limit."""
    if best_device().type == "cpu":
        yield
        return
    with concurrency(gpu_limit(), occupy=1, strict=False):
        yield


def gpu_limit() -> str:
    """Of this machine alone: one name for all would let a fleet run one after the other."""
    return f"gpu-{platform.node()}"


@contextmanager
def alone(name: str) -> Iterator[None]:
    """What is done under that name, on whatever machine, is done one after the other."""
    with get_client(sync_client=True) as client:
        client.upsert_global_concurrency_limit_by_name(name, 1)
    with concurrency(name, occupy=1):
        yield


def remember(**parameters: Any) -> None:
    """Writes into a run's parameters what it found out: started again, after a crash or approval, it does the same."""
    with get_client(sync_client=True) as client:
        run = client.read_flow_run(UUID(flow_run.id))
        client.update_flow_run(run.id, parameters=run.parameters | parameters)


@contextmanager
def _optional() -> Iterator[None]:
    """What only adds to Prefect's pages must not make a finished training run again."""
    try:
        yield
    except Exception:
        get_run_logger().warning("not shown on Prefect's pages", exc_info=True)


def publish_metrics(key: str, metrics: Mapping[str, float], url: str) -> None:
    """A table of metrics and a link to the run in MLflow."""
    rows = [{"metric": name, "value": display.text(value)} for name, value in metrics.items()]
    with _optional():
        create_table_artifact(rows, key=f"{key}-metrics")
        create_link_artifact(url, key=f"{key}-mlflow", link_text="The run in MLflow")


def publish_picture(key: str, picture: Path) -> None:
    """A picture, carried by the artifact itself: no other server has to be reachable."""
    with _optional():
        create_image_artifact(picture_as_text(picture), key=f"{key}-{picture.stem}")


def model_resource(name: str) -> dict[str, str]:
    """What events about a registered model are about."""
    return {"prefect.resource.id": f"aemodels.model.{name}", "prefect.resource.name": name}


def picture_as_text(picture: Path) -> str:
    """An address that is the picture itself."""
    return f"data:image/png;base64,{base64.b64encode(picture.read_bytes()).decode()}"
