"""Runs the work of a command as a flow where there is a Prefect server, else as steps in this process.

Each function below holds both ways, and imports only what the one that runs needs.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from aemodels.checkpoints.run_folder import COMMAND
from flows import terminal
from flows.cli.session import under_prefect

if TYPE_CHECKING:
    from aemodels.data import PreparedData
    from aemodels.runtime.progress import Steps
    from aemodels.settings import ComparisonConfig, Settings
    from aemodels.steps.compare import Compared
    from aemodels.steps.evaluate import Evaluated
    from aemodels.steps.monitor import Monitored
    from aemodels.steps.train import Trained
    from aemodels.steps.tune import Tuned
    from aemodels.tracking.catalog import Registered

T = TypeVar("T")


def _done(flow: Callable[[], T], steps: Callable[[], Steps[T]]) -> T:
    """Runs the flow or the steps, and draws their progress if a person watches."""
    with terminal.bars():
        return flow() if under_prefect() else terminal.follow(steps())


def prepare(settings: Settings) -> PreparedData:
    """Prepares the images."""

    def flow() -> PreparedData:
        from flows.attempts import run_here
        from flows.prepare import prepare

        return run_here(prepare, settings)

    def steps() -> Steps[PreparedData]:
        from aemodels.steps.prepare import prepare

        return prepare(settings)

    return _done(flow, steps)


def tune(settings: Settings) -> Tuned:
    """Searches the settings."""

    def flow() -> Tuned:
        from flows.attempts import run_here
        from flows.tune import tune

        return run_here(tune, settings)

    def steps() -> Steps[Tuned]:
        from aemodels.steps.prepare import prepare
        from aemodels.steps.tune import tune

        data = yield from prepare(settings)
        return (yield from tune(settings, data, group="", asker=COMMAND))

    return _done(flow, steps)


def train(settings: Settings) -> Trained:
    """Trains a model, evaluates it and registers it."""

    def flow() -> Trained:
        from flows.attempts import run_here
        from flows.train import train

        return run_here(train, settings)

    def steps() -> Steps[Trained]:
        from aemodels.steps.prepare import prepare
        from aemodels.steps.train import train

        data = yield from prepare(settings)
        return (yield from train(settings, data, group="", asker=COMMAND))

    return _done(flow, steps)


def evaluate(model: str, changes: dict[str, Any]) -> Evaluated:
    """Evaluates a model that was trained before; `changes` change the settings of its first evaluation."""

    def flow() -> Evaluated:
        from aemodels.tracking.references import whole_reference
        from flows.attempts import run_here
        from flows.evaluate import evaluate

        return run_here(evaluate, whole_reference(model), changes)

    def steps() -> Steps[Evaluated]:
        from aemodels.steps.evaluate import evaluate

        return evaluate(model, changes)

    return _done(flow, steps)


def compare(comparison: ComparisonConfig, command: str) -> Compared:
    """Trains and evaluates several systems on the same images; the table of results quotes `command`."""

    def flow() -> Compared:
        from flows.attempts import run_here
        from flows.compare import compare

        return run_here(compare, comparison, command)

    def steps() -> Steps[Compared]:
        from aemodels.steps.compare import compare
        from aemodels.steps.prepare import prepare

        data = yield from prepare(next(iter(comparison.settings.values())))
        return (yield from compare(comparison, data, command, asker=COMMAND))

    return _done(flow, steps)


def monitor(name: str, images: list[Path]) -> Monitored:
    """Compares new images with those of a champion."""

    def flow() -> Monitored:
        from flows.attempts import run_here
        from flows.monitor import monitor

        checked = run_here(monitor, name, images)
        assert checked is not None  # the flow returns None only if there are no images
        return checked

    def steps() -> Steps[Monitored]:
        from aemodels.evaluation.drift import MonitoringConfig
        from aemodels.steps.monitor import monitor

        return monitor(name, images, MonitoringConfig())

    return _done(flow, steps)


def promote(name: str, version: int, reason: str) -> Registered:
    """Makes a version the champion."""
    from aemodels.tracking import catalog, registry
    from aemodels.tracking.store import open_store

    if not under_prefect():
        return registry.promote(open_store(), name, version, reason)
    from flows.attempts import run_here
    from flows.promote import choose

    run_here(choose, name, version, reason)
    return catalog.get(open_store(), name, version)


def rollback(name: str, reason: str) -> Registered:
    """Makes the previous champion the champion again."""
    from aemodels.tracking import catalog, registry
    from aemodels.tracking.store import open_store

    if not under_prefect():
        return registry.rollback(open_store(), name, reason=reason)
    from flows.attempts import run_here
    from flows.promote import rollback

    return catalog.get(open_store(), name, run_here(rollback, name, reason=reason))
