"""The main job: images in, a registered and promoted model out."""

from __future__ import annotations

from prefect import flow
from prefect.runtime import flow_run

from aemodels.config import Config
from aemodels.data import PreparedData
from aemodels.settings import Settings
from aemodels.steps.promote import Promotion
from aemodels.steps.train import Trained
from aemodels.steps.tune import Tuned, check
from flows.prepare import prepare_data
from flows.promote import pass_gate
from flows.train import train_model
from flows.tune import tune_model


class Finished(Config):
    """What the pipeline leaves."""

    data: PreparedData
    tuned: Tuned
    trained: Trained
    promotion: Promotion


@flow(name="pipeline")
def pipeline(settings: Settings) -> Finished:
    """Prepares the images, searches the settings, trains the best, judges and registers it; the gate decides."""
    check(settings)
    group = str(flow_run.id)
    data = prepare_data(settings)
    tuned = tune_model(settings, data, group)
    best = settings.override(tuned.best)
    trained = train_model(best, data, group)
    promotion = pass_gate(best, data, trained.version)
    return Finished(data=data, tuned=tuned, trained=trained, promotion=promotion)
