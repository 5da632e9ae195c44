"""Train a model, judge it and register it as a challenger."""

from __future__ import annotations

from prefect import flow, task

from aemodels.data import PreparedData
from aemodels.settings import Settings
from aemodels.steps import train as step
from aemodels.steps.train import Trained
from flows.prepare import prepare_data
from flows.running import DELAYS, RETRIES, device_slot, follow, passed, publish_metrics, publish_picture, worth_retrying

SHOWN = ("reconstructions", "samples")


@task(
    name="train",
    retries=RETRIES,
    retry_delay_seconds=DELAYS,
    retry_condition_fn=worth_retrying,
    persist_result=True,
)
def train_model(settings: Settings, data: PreparedData, group: str) -> Trained:
    """Training and its evaluation are one task: one process, one GPU slot; a retry resumes from the checkpoint."""
    with device_slot():
        trained = follow(step.train(settings, data, group))
    publish_metrics("training", trained.metrics, trained.url)
    for picture in trained.figures:
        if picture.stem in SHOWN:
            publish_picture("training", picture)
    return trained


@flow(name="train")
def train(settings: Settings) -> Trained:
    """Trains the model, judges it on the test images and registers it."""
    passed(step.check, settings)
    return train_model(settings, prepare_data(settings), group="")
