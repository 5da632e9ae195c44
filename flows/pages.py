"""Shows on Prefect's pages what a flow does and finds, as artifacts and events."""

from __future__ import annotations

import base64
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
from prefect import get_client
from prefect.artifacts import (
    create_image_artifact,
    create_link_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.events import emit_event
from prefect.logging import get_run_logger
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings

from aemodels.config import UnreachableError
from aemodels.runtime.progress import Progress
from flows import terminal
from flows.attempts import for_show, stop_if_started_again

PUBLISH_SECONDS = 5.0  # between two updates of a progress artifact


class Published:
    """Shows progress on Prefect's pages: an artifact for each piece of work, which is updated every few seconds."""

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
        # without retries, so that the work goes on at once where the server is away
        with for_show(), temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}):
            stop_if_started_again()
            if report.work not in self.artifacts and not ended:
                self.artifacts[report.work] = create_progress_artifact(share, description=report.work)  # type: ignore[assignment]
            elif report.work in self.artifacts:
                update_progress_artifact(self.artifacts[report.work], share)


def publish_metrics(key: str, metrics: Mapping[str, float | str], url: str) -> None:
    """Shows a table of metrics, and a link to the run in MLflow."""
    rows = [{"metric": name, "value": terminal.text(value)} for name, value in metrics.items()]
    with for_show():
        create_table_artifact(rows, key=f"{key}-metrics")
        create_link_artifact(url, key=f"{key}-mlflow", link_text="The run in MLflow")


def publish_picture(key: str, picture: Path) -> None:
    """Shows a picture, which the artifact itself holds, so that no other server has to be reachable."""
    with for_show():
        create_image_artifact(picture_as_text(picture), key=f"{key}-{picture.stem}")


def announce(event: str, name: str, payload: dict[str, Any]) -> None:
    """Sends an event about a registered model, which can start deployments.

    Prefect's client says nothing when it drops events that it cannot send. So the server is asked first, and a task
    that fails here is tried again.

    Raises:
        UnreachableError: the server does not answer.
    """
    with get_client(sync_client=True) as client:
        try:
            client.api_version()
        except httpx.HTTPError as error:
            raise UnreachableError(f"Prefect's server does not take the event {event}: {error}") from error
    about = {"prefect.resource.id": f"aemodels.model.{name}", "prefect.resource.name": name}
    emit_event(event, about, payload=payload)


def picture_as_text(picture: Path) -> str:
    """Returns an address, data:image/png;base64,..., that holds the picture itself."""
    return f"data:image/png;base64,{base64.b64encode(picture.read_bytes()).decode()}"
