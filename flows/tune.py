"""Runs a search of the model's settings as a flow, alone or together with other machines."""

from __future__ import annotations

from prefect import flow
from prefect.runtime import flow_run

from aemodels.config import in_short
from aemodels.data import PreparedData
from aemodels.settings import Settings
from aemodels.steps import tune as step
from aemodels.steps.tune import Tuned
from flows.attempts import asker
from flows.pages import publish_metrics, publish_picture
from flows.prepare import prepare_data
from flows.tasks import device_slot, follow, passed, started, step_task


@step_task("tune")
def tune_model(settings: Settings, data: PreparedData, group: str, asker: str = "") -> Tuned:
    with device_slot():
        tuned = follow(step.tune(settings, data, group, asker))
    best = next(trial for trial in tuned.trials if trial.params == tuned.best)
    shown = {key: in_short(value) for key, value in best.params.items()}
    publish_metrics("search", {**shown, **best.values}, tuned.compare_url)
    for picture in tuned.figures:
        publish_picture("search", picture)
    return tuned


@flow(name="tune")
def tune(settings: Settings) -> Tuned:
    """Trains models with different settings, by default of latent size and KL weight, and ranks them.

    Args:
        settings: Give the settings that differ from the defaults.
    """
    settings = started(settings)
    passed(step.check, settings)
    return tune_model(settings, prepare_data(settings), group=str(flow_run.id), asker=asker())


@flow(name="search-worker")
def search_worker(settings: Settings) -> Tuned:
    """Joins the search of these settings, on which any number of machines can work, or begins it.

    If the others have ended it already, the flow returns what they found.

    Args:
        settings: Give the settings of the search. They have to be the same on all machines.
    """
    step.check_joining()
    settings = started(settings)
    passed(step.check, settings)
    return tune_model(settings, prepare_data(settings), group=str(flow_run.id), asker=asker())
