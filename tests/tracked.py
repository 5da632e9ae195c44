"""Holds settings of a tiny model, and reads what a store has tracked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

TINY = ["model.trunk=mlp", "model.trunk.widths=[16]", "model.latent_dim=2", "training.images=200"]


def client(store: Path) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(f"sqlite:///{store / 'mlflow.db'}")


def runs(store: Path, kind: str) -> list[Any]:
    connected = client(store)
    places = [experiment.experiment_id for experiment in connected.search_experiments()]
    return connected.search_runs(places, f"tags.kind = '{kind}'", order_by=["attributes.start_time"])


def versions(store: Path) -> list[int]:
    return sorted(int(version.version) for version in client(store).search_model_versions())


def history(store: Path, run_id: str) -> dict[str, list[tuple[int, float]]]:
    """Returns (step, value) of all points of each metric, also of those that were tracked twice."""
    connected = client(store)
    names = connected.get_run(run_id).data.metrics
    return {name: sorted((m.step, m.value) for m in connected.get_metric_history(run_id, name)) for name in names}
