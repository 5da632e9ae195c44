"""Runs a comparison as a flow: several systems on the same images, with the same seeds and budget."""

from __future__ import annotations

from prefect import flow
from prefect.artifacts import create_link_artifact, create_markdown_artifact

from aemodels.data import PreparedData
from aemodels.settings import ComparisonConfig
from aemodels.steps import compare as step
from aemodels.steps.compare import Compared
from flows.attempts import asker
from flows.pages import publish_picture
from flows.prepare import prepare_data
from flows.tasks import device_slot, follow, passed, step_task


@step_task("compare")
def compare_systems(comparison: ComparisonConfig, data: PreparedData, command: str, asker: str) -> Compared:
    """Trains and evaluates all systems in one task; a retry goes on with the system that was being trained."""
    with device_slot():
        compared = follow(step.compare(comparison, data, command, asker))
    create_markdown_artifact((compared.folder / "table.md").read_text(encoding="utf-8"), key="comparison-table")
    create_link_artifact(compared.url, key="comparison-mlflow", link_text="The run in MLflow")
    for picture in filter(None, (compared.picture, compared.curve)):
        publish_picture("comparison", picture)
    return compared


@flow(name="compare")
def compare(comparison: ComparisonConfig, command: str = "") -> Compared:
    """Trains and evaluates every system with every seed, and shows them in one table and one picture.

    Args:
        comparison: Give the systems, the settings that they share, and the number of seeds.
        command: Leave this empty. A command writes here what a person typed, which the table quotes.
    """
    passed(step.check, comparison)
    first = next(iter(comparison.settings.values()))
    return compare_systems(comparison, prepare_data(first), command, asker())
