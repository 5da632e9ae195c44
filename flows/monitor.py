"""Runs a check as a flow: whether new images are still like those that the champion was made for."""

from __future__ import annotations

from pathlib import Path

from prefect import flow
from prefect.logging import get_run_logger
from prefect.runtime import flow_run

from aemodels.data.image_files import has_images
from aemodels.evaluation.drift import MonitoringConfig
from aemodels.runtime.environment import data_root
from aemodels.steps import monitor as step
from aemodels.steps.monitor import Monitored
from flows.pages import announce, publish_metrics, publish_picture
from flows.tasks import device_slot, follow, step_task

DRIFT, RETRAIN = "aemodels.drift", "aemodels.retrain"  # events; the second starts the pipeline


@step_task("monitor")
def check_images(name: str, folders: list[Path], monitoring: MonitoringConfig) -> Monitored:
    with device_slot():
        monitored = follow(step.monitor(name, folders, monitoring, str(flow_run.id)))
    publish_metrics("check", monitored.numbers, monitored.url)
    for picture in monitored.figures:
        publish_picture("check", picture)
    return monitored


@flow(name="monitor")
def monitor(name: str, folders: list[Path], monitoring: MonitoringConfig | None = None) -> Monitored | None:
    """Checks whether new images are like the test images, as the champion sees them, and sends an event if not.

    Args:
        name: Give the name of a registered model.
        folders: Give the folders of the new images. A relative path starts from AEMODELS_DATA. Nothing is done while
            the folders are empty.
        monitoring: Give the settings of the check that differ from the defaults.
    """
    places = [data_root() / folder.expanduser() for folder in folders]
    filled = [path for path in places if has_images(path)]
    if not filled:
        get_run_logger().warning("there are no images in %s, so nothing was checked", ", ".join(map(str, places)))
        return None
    checked = check_images(name, filled, monitoring or MonitoringConfig())
    if checked.drift:
        raise_alarm(checked)
    return checked


@step_task("alarm")
def raise_alarm(monitored: Monitored) -> None:
    """Sends an event for the alarm, and a second one that starts a pipeline.

    Every check with an alarm sends the first one. The second one is sent once for a champion, and again only when
    there are twice as many images.
    """
    about = monitored.model_dump(mode="json", include={"model", "version", "images", "reasons", "url"})
    announce(DRIFT, monitored.model, about)
    if monitored.retraining is not None and not monitored.repeated:
        announce(RETRAIN, monitored.model, about | {"data": monitored.retraining})
        step.announced(monitored)
