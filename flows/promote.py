"""Let the gate decide whether a challenger becomes the champion."""

from __future__ import annotations

from prefect import flow, task

from aemodels.data import PreparedData
from aemodels.registry import ModelVersion, get
from aemodels.settings import Settings
from aemodels.steps import promote as step
from aemodels.steps.promote import Promotion
from aemodels.store import open_store
from flows.prepare import prepare_data
from flows.running import device_slot, follow, publish_metrics, worth_retrying


@task(name="promote", retries=2, retry_delay_seconds=10, retry_condition_fn=worth_retrying, persist_result=True)
def pass_gate(settings: Settings, data: PreparedData, version: ModelVersion) -> Promotion:
    with device_slot():  # a champion that other images judged is measured again
        promotion = follow(step.promote(settings, data, version))
    publish_metrics("gate", promotion.numbers, promotion.url)
    return promotion


@flow(name="promote")
def promote(settings: Settings, version: int | None = None) -> Promotion:
    """Compares a version (the challenger, if none is given) with the champion on the same test images."""
    asked = get(open_store(), settings.registered_name, version or "challenger").version
    return pass_gate(settings, prepare_data(settings), asked)
