"""Registers versions of a model, and makes a gate's decisions on them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from aemodels.tracking.catalog import ModelVersion, list_models
from aemodels.tracking.gate import Decision
from aemodels.tracking.registry import register
from aemodels.tracking.run import start_run
from aemodels.tracking.store import Store

YES, NO = Decision(True, "better", {"mse": 0.01}), Decision(False, "worse", {"mse": 0.9})


def registered(store: Store, folder: Path, metrics: Mapping[str, float] | None = None) -> ModelVersion:
    """Registers a new version, by a run of its own."""
    with start_run(store, "tiny", "one") as run:
        found = metrics or {"mse": 0.02}
        run.metrics({f"test/{name}": value for name, value in found.items()})
        return register(run, folder, "tiny", found, "d" * 32, {"seed": 0})


def aliases(store: Store) -> dict[str, int]:
    return {alias: row.version.version for row in list_models(store) for alias in row.aliases}
