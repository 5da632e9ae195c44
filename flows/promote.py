"""Decides as flows which version is the champion: by the gate, by a person, or by a rollback."""

from __future__ import annotations

from contextlib import AbstractContextManager

from prefect import flow, pause_flow_run, suspend_flow_run
from prefect.artifacts import create_markdown_artifact
from prefect.input import RunInput
from prefect.runtime import deployment, flow_run, task_run
from pydantic import Field

from aemodels.data import PreparedData
from aemodels.evaluation.metrics import METRICS
from aemodels.reports.table import ARROWS
from aemodels.settings import Settings
from aemodels.steps import promote as step
from aemodels.steps.promote import Promotion, SideBySide
from aemodels.texts import in_markdown
from aemodels.tracking import catalog, registry
from aemodels.tracking.catalog import CHALLENGER, ModelVersion, get
from aemodels.tracking.gate import LONGEST_NAME, LONGEST_REASON, Review
from aemodels.tracking.registry import BY_GATE
from aemodels.tracking.store import open_store
from flows.pages import announce, picture_as_text, publish_metrics
from flows.prepare import prepare_data
from flows.tasks import alone, device_slot, follow, remember, step_task

PROMOTED, ROLLED_BACK = "aemodels.promoted", "aemodels.rolled-back"  # events; a deployment can be triggered by them
PREDECESSOR = "predecessor"  # stands for the version before the champion; it is no alias of the registry
UNASKED = "nobody is asked about a version that the gate declines"
PATIENCE = 7 * 24 * 3600  # seconds that a person has to decide


class Approval(RunInput):
    """An approval is the form on Prefect's page for a person who is to approve a promotion."""

    approve: bool
    # the lengths are those of `Review`, so that Prefect refuses other texts while the run still waits
    name: str = Field(min_length=1, max_length=LONGEST_NAME)
    reason: str = Field(min_length=1, max_length=LONGEST_REASON)


@step_task("promote")
def pass_gate(settings: Settings, data: PreparedData, version: ModelVersion, review: Review | None = None) -> Promotion:
    # The device, on which both models are measured, comes first, as a run may wait for it for hours.
    with device_slot(), _gate(version.name):
        promotion = follow(step.promote(settings, data, version, review))
    publish_metrics("gate", promotion.numbers, promotion.url)
    if promotion.promoted and (_repeated() or not promotion.already):
        _tell(PROMOTED, promotion.name, promotion.version, promotion.reason)
    return promotion


@step_task("show both models")
def show_both(settings: Settings, data: PreparedData, version: ModelVersion) -> SideBySide:
    with device_slot():
        both = follow(step.side_by_side(settings, data, version))
    create_markdown_artifact(_as_page(both), key="comparison", description="Challenger and champion")
    return both


@flow(name="promote", persist_result=True)
def promote(settings: Settings, version: int | None = None, approval: bool = False) -> Promotion:
    """Compares a version with the champion on the same images, and makes it the champion if it is surely better.

    Args:
        settings: Give the settings that differ from the defaults. They name the model, its images and the gate's rules.
        version: Give the number of the version. Without one the challenger is taken.
        approval: Choose whether a person has to approve what the gate allows. The person resumes the run on its page
            with a form that shows both models, as the artifact `comparison` does. What the gate declines, nobody is
            asked to approve.
    """
    asked = find_version(settings.registered_name, version or CHALLENGER)
    remember(version=asked.version)
    data = prepare_data(settings)
    if not approval:
        return pass_gate(settings, data, asked)
    both = show_both(settings, data, asked)
    if not both.promote:  # whatever happens meanwhile, nothing is promoted that no person has seen
        return pass_gate(settings, data, asked, Review(approve=False, name=BY_GATE, reason=UNASKED))
    form = Approval.with_initial_data(description=_as_page(both))
    wait = suspend_flow_run if deployment.id else pause_flow_run  # only a worker can start a suspended run again
    told = wait(wait_for_input=form, timeout=PATIENCE, key=f"approval-{asked.version}")
    review = Review(approve=told.approve, name=told.name, reason=told.reason, id=str(flow_run.id))
    return pass_gate(settings, data, asked, review)


@step_task("find")
def find_version(name: str, wanted: int | str) -> ModelVersion:
    """Looks up a version by its number, an alias, or PREDECESSOR, the one that a rollback goes back to."""
    store = open_store()
    return get(store, name, registry.predecessor(store, name) if wanted == PREDECESSOR else wanted).version


@step_task("crown")
def crown(version: ModelVersion, back: bool, reason: str, by: str) -> None:
    """Makes a version the champion because a person wants it, and sends an event if it was not the champion before."""
    store = open_store()
    with _gate(version.name):
        before = catalog.champion(store, version.name)
        decide, event = (registry.rollback, ROLLED_BACK) if back else (registry.promote, PROMOTED)
        chosen = decide(store, version.name, version.version, reason, by, str(flow_run.id))
    if _repeated() or before is None or before.version != chosen.version:
        _tell(event, version.name, version.version, chosen.tags[f"{registry.GATE}reason"])


@flow(name="choose")
def choose(name: str, version: int, reason: str = "", by: str = "") -> int:
    """Makes a version of a registered model the champion, without asking the gate, and returns its number.

    Args:
        name: Give the name of the registered model.
        version: Give the number of the version.
        reason: Give the reason, which is kept with the version.
        by: Give the name of the person who decides, if it is not the user of the worker.
    """
    crown(find_version(name, version), False, reason, by)  # one that is not there has no gate
    return version


@flow(name="rollback")
def rollback(name: str, version: int | None = None, reason: str = "", by: str = "") -> int:
    """Makes the previous champion, or the version that is given, the champion again, and returns its number.

    Args:
        name: Give the name of the registered model.
        version: Give the number of the version. Without one the previous champion is taken.
        reason: Give the reason, which is kept with the version.
        by: Give the name of the person who decides, if it is not the user of the worker.
    """
    target = find_version(name, version or PREDECESSOR)
    remember(version=target.version)
    crown(target, True, reason, by)
    return target.version


def _gate(name: str) -> AbstractContextManager[None]:
    """Lets one run at a time, on whatever machine, decide which version of a model is the champion."""
    return alone(f"gate-{name}")


def _repeated() -> bool:
    """Tells whether the flow or task was begun before, and may have been killed before it sent its event."""
    return bool(flow_run.run_count > 1 or task_run.run_count > 1)


def _tell(event: str, name: str, version: int, reason: str) -> None:
    announce(event, name, {"model": name, "version": version, "reason": reason})


def _as_page(both: SideBySide) -> str:
    """Returns samples of both models from the same noise, and the gate's numbers, as markdown for Prefect's form."""
    titles = {role: f"{role} {number}" for role, number in both.versions.items()}
    samples = [
        f"Samples, {titles[role]}:\n\n![{role}]({picture_as_text(picture)})" for role, picture in both.pictures.items()
    ]
    names = dict.fromkeys(name for metrics in both.metrics.values() for name in metrics)
    rows = [
        [
            f"{name}{ARROWS[METRICS[name].ranking]}",
            *(both.metrics.get(role, {}).get(name, "") for role in titles),
        ]
        for name in names
    ]
    lines = [["validation", *titles.values()], ["---"] * (1 + len(titles)), *rows]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    head = f"**{both.name}**. The gate says: {in_markdown(both.reason)}. [In MLflow]({both.url})"
    return "\n\n".join([head, *samples, table])
