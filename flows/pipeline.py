"""The main job: images in, a registered and promoted model out."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from prefect import flow
from prefect.runtime import flow_run

from aemodels.data import DataConfig, PreparedData
from aemodels.runfolder import RunFolder, claimed
from aemodels.settings import Settings
from aemodels.steps import promote as gate
from aemodels.steps.promote import Promotion
from aemodels.steps.recording import Result
from aemodels.steps.train import Trained
from aemodels.steps.tune import Tuned, check
from flows.attempts import only_attempt
from flows.prepare import prepare_data
from flows.promote import pass_gate
from flows.running import passed
from flows.train import train_model
from flows.tune import tune_model

R = TypeVar("R", bound=Result)


class Finished(Result):
    """What the pipeline leaves."""

    data: PreparedData
    tuned: Tuned
    trained: Trained
    promotion: Promotion


@flow(name="pipeline")
def pipeline(settings: Settings, data: DataConfig | None = None) -> Finished:
    """Prepares the images, searches the settings, trains the best, judges and registers it; the gate decides.

    Args:
        data: other images than those of the settings: after a drift the old and the new ones together.
    """
    if data is not None:
        settings = settings.override({"data": data.model_dump(mode="json")})
    passed(check, settings)
    passed(gate.check, settings)
    prepared = prepare_data(settings)
    asker = str(flow_run.id)
    with only_attempt(), claimed(f"pipeline-{settings.identity(prepared.digest)}", asker) as folder:
        group: str = folder.notes().get("group") or asker
        folder.note(group=group)
        tuned = _once(folder, "tuned", Tuned, lambda: tune_model(settings, prepared, group))
        best = settings.override(tuned.best)
        trained = _once(folder, "trained", Trained, lambda: train_model(best, prepared, group))
        promotion = pass_gate(best, prepared, trained.version)
        folder.finish(promotion.model_dump(mode="json"), asker)
    return Finished(data=prepared, tuned=tuned, trained=trained, promotion=promotion)


def _once(folder: RunFolder, key: str, kind: type[R], work: Callable[[], R]) -> R:
    """The result of a stage; a pipeline that was killed after it finds it noted."""
    known = folder.notes().get(key)
    if known is not None:
        return kind.model_validate(known)
    result = work()
    folder.note(**{key: result.model_dump(mode="json")})
    return result
