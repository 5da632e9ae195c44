"""Runs the whole pipeline as a flow: it takes images and makes a registered model, which may become the champion."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TypeVar

from filelock import Timeout
from prefect import flow
from prefect.logging import get_run_logger
from prefect.runtime import flow_run

from aemodels.checkpoints.run_folder import RunFolder, claimed, finish_left, turn
from aemodels.data import DataConfig, PreparedData
from aemodels.settings import Settings
from aemodels.steps import finished_pipelines
from aemodels.steps import promote as gate
from aemodels.steps.finished_pipelines import Finished
from aemodels.steps.recording import Result
from aemodels.steps.train import Trained
from aemodels.steps.tune import Tuned, check
from flows import terminal
from flows.attempts import only_attempt
from flows.prepare import prepare_data
from flows.promote import pass_gate
from flows.tasks import looking_task, passed, started, step_task
from flows.train import train_model
from flows.tune import tune_model

R = TypeVar("R", bound=Result)


@looking_task("look for the same")
def done_before(settings: Settings, data: PreparedData) -> Finished | None:
    """Looks up what an earlier pipeline, on any machine, has made of the same images and settings."""
    return None if settings.registry.repeat else finished_pipelines.find(settings, data)


@step_task("keep")
def keep(settings: Settings, finished: Finished) -> None:
    finished_pipelines.keep(settings, finished)


@flow(name="pipeline")
def pipeline(settings: Settings, data: DataConfig | None = None) -> Finished:
    """Prepares the images, searches the settings, trains, evaluates and registers the best model; the gate decides.

    If an earlier pipeline had the same images and settings, nothing is searched or trained. `registry.repeat` lets it
    do all the same work again.

    Args:
        settings: Give the settings that differ from the defaults.
        data: Give images to use instead of those of the settings, such as old and new ones together after a drift.
    """
    if data is not None:
        settings = settings.override({"data": data.model_dump(mode="json")})
    settings = started(settings)
    passed(check, settings)
    passed(gate.check, settings)
    prepared = prepare_data(settings)
    identity, asker = f"pipeline-{settings.identity(prepared.digest)}", str(flow_run.id)
    with only_attempt(), ExitStack() as stack:
        if not settings.registry.repeat:
            stack.enter_context(_in_turn(identity))
        if (known := done_before(settings, prepared)) is not None:
            finish_left(identity, known.promotion.model_dump(mode="json"))
            return known if known.asked == asker else _tell(finished_pipelines.nothing_new(known))
        folder = stack.enter_context(claimed(identity, asker))
        group: str = folder.notes().get("group") or asker
        folder.note(group=group)
        tuned = _once(folder, "tuned", Tuned, lambda: tune_model(settings, prepared, group))
        best = settings.override(tuned.best)
        trained = _once(folder, "trained", Trained, lambda: train_model(best, prepared, group))
        promotion = pass_gate(best, prepared, trained.version)
        finished = Finished(data=prepared, tuned=tuned, trained=trained, promotion=promotion, asked=asker)
        keep(settings, finished)
        folder.finish(promotion.model_dump(mode="json"), asker)
    return finished


@contextmanager
def _in_turn(identity: str) -> Iterator[None]:
    """Lets pipelines of the same images and settings work one after the other on this machine.

    The next one finds the result of the one before, or goes on where that was killed.
    """
    lock = turn(identity)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        terminal.say("another pipeline works on the same images and settings; this one waits for its end")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _tell(finished: Finished) -> Finished:
    get_run_logger().info(finished.promotion.reason)
    return finished


def _once(folder: RunFolder, key: str, kind: type[R], work: Callable[[], R]) -> R:
    """Returns the result of a stage, which is noted in the folder, so that a killed pipeline does no stage twice."""
    known = folder.notes().get(key)
    if known is not None:
        return kind.model_validate(known)
    result = work()
    folder.note(**{key: result.model_dump(mode="json")})
    return result
