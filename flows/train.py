"""Runs a training as a flow: it trains a model, evaluates it and registers it as a challenger."""

from __future__ import annotations

from prefect import flow
from prefect.runtime import flow_run

from aemodels.data import PreparedData
from aemodels.settings import Settings
from aemodels.steps import train as step
from aemodels.steps.train import Trained
from flows.attempts import asker
from flows.pages import publish_metrics, publish_picture
from flows.prepare import prepare_data
from flows.tasks import device_slot, follow, passed, started, step_task

SHOWN = ("reconstructions", "samples")


@step_task("train")
def train_model(settings: Settings, data: PreparedData, group: str, asker: str = "") -> Trained:
    """Trains and evaluates the model in one task, with one GPU slot; a retry resumes from the checkpoint."""
    with device_slot():
        trained = follow(step.train(settings, data, group, asker))
    publish_metrics("training", trained.metrics, trained.url)
    for picture in trained.figures:
        if picture.stem in SHOWN:
            publish_picture("training", picture)
    return trained


@flow(name="train")
def train(settings: Settings) -> Trained:
    """Trains the model, evaluates it on the test images and registers it.

    Args:
        settings: Give the settings that differ from the defaults.
    """
    settings = started(settings)
    passed(step.check, settings)
    return train_model(settings, prepare_data(settings), group=str(flow_run.id), asker=asker())
