"""Runs the preparation as a flow: the images, and the classifier that tells what generated images show."""

from __future__ import annotations

from prefect import flow

from aemodels.data import PreparedData
from aemodels.settings import Settings
from aemodels.steps import prepare as step
from flows.tasks import device_slot, follow, step_task


@step_task("prepare")
def prepare_data(settings: Settings) -> PreparedData:
    with device_slot():
        return follow(step.prepare(settings))


@flow(name="prepare")
def prepare(settings: Settings) -> PreparedData:
    """Decodes the images once and splits them, unless the same images were prepared before with the same settings.

    Args:
        settings: Give the settings that differ from the defaults.
    """
    return prepare_data(settings)
