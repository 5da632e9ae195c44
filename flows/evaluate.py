"""Runs an evaluation as a flow: it evaluates a trained model again."""

from __future__ import annotations

import os
from typing import Annotated, Any

from prefect import flow
from prefect.runtime import flow_run
from pydantic import AfterValidator

from aemodels.steps import evaluate as step
from aemodels.steps.evaluate import Evaluated
from aemodels.tracking.references import is_folder
from flows.pages import publish_metrics
from flows.tasks import device_slot, follow, step_task


def _found_anywhere(model: str) -> str:
    if is_folder(model) and not os.path.isabs(os.path.expanduser(model)):
        raise ValueError(
            f"{model} is a relative path, and a worker may start anywhere; give NAME@ALIAS, NAME/VERSION, or the whole "
            "path of a run's folder, from /"
        )
    return model


Reference = Annotated[str, AfterValidator(_found_anywhere)]


@step_task("evaluate")
def evaluate_model(model: str, changes: dict[str, Any]) -> Evaluated:
    with device_slot():
        evaluated = follow(step.evaluate(model, changes, str(flow_run.id)))
    publish_metrics("evaluation", evaluated.metrics, evaluated.url)
    return evaluated


@flow(name="evaluate")
def evaluate(model: Reference, changes: dict[str, Any] | None = None) -> Evaluated:
    """Evaluates a trained model again, on the images that it was trained for or on others.

    Args:
        model: Name the model as NAME@ALIAS or NAME/VERSION, or give the whole path of its run's folder.
        changes: Give the settings of data and evaluation that differ from those of its training.
    """
    return evaluate_model(model, changes or {})
