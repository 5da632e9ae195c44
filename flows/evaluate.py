"""Judge a model that is there already."""

from __future__ import annotations

from typing import Any

from prefect import flow

from aemodels.steps import evaluate as step
from aemodels.steps.evaluate import Evaluated
from flows.running import device_slot, follow, publish_metrics, step_task


@step_task("evaluate")
def evaluate_model(model: str, changes: dict[str, Any]) -> Evaluated:
    with device_slot():
        evaluated = follow(step.evaluate(model, changes))
    publish_metrics("evaluation", evaluated.metrics, evaluated.url)
    return evaluated


@flow(name="evaluate")
def evaluate(model: str, changes: dict[str, Any] | None = None) -> Evaluated:
    """Judges NAME@ALIAS, NAME/VERSION or a run's folder on the images it was made for, or on others."""
    return evaluate_model(model, changes or {})
