"""Tests which settings a check of new images proposes for a retraining."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from commands import save

from aemodels.evaluation.drift import MonitoringConfig
from aemodels.runtime.progress import finish
from aemodels.settings import Settings
from aemodels.steps.monitor import Monitored, monitor
from aemodels.steps.prepare import prepare
from aemodels.steps.train import train
from aemodels.tracking.registry import promote as crown
from aemodels.tracking.store import Store

TINY = {"model.trunk": {"name": "mlp", "widths": [16]}, "model.latent_dim": 3, "training.epochs": 1}


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Makes 100 black images, whose labels stand in a CSV file, and 100 white ones in a folder of new images."""
    rng = np.random.default_rng(0)
    for i in range(100):
        save(tmp_path / "own" / f"{i}.png", rng.integers(0, 100, (8, 8)))
        save(tmp_path / "new" / f"{i}.png", rng.integers(150, 250, (8, 8)))
    rows = [f"own/{i}.png,{'cat' if i % 2 else 'dog'}" for i in range(100)]
    (tmp_path / "labels.csv").write_text("\n".join(["file,label", *rows]))
    return tmp_path / "labels.csv"


def checked(model: str, table: Path, store: Store) -> Monitored:
    data = {"name": "folder", "path": str(table.parent / "own"), "labels": str(table), "test_fraction": 0.4}
    settings = Settings().override(TINY | {"data": data, "model.name": model, "registry.name": "photos"})
    trained = finish(train(settings, finish(prepare(settings)), group=""))
    crown(store, "photos", trained.version.version)
    return finish(monitor("photos", [table.parent / "new"], MonitoringConfig()))


@pytest.mark.slow
def test_new_images_without_labels_are_proposed_without_any(table: Path, store: Store) -> None:
    result = checked("vae", table, store)
    assert result.drift
    assert result.retraining is not None
    assert result.retraining["labels"] is None
    assert result.retraining["path"] == [str(table.parent / name) for name in ("own", "new")]
    Settings().override({"data": result.retraining})
    # A table that names the new images stays.
    table.write_text("\n".join([table.read_text(), *(f"new/{i}.png,cat" for i in range(100))]))
    named = finish(monitor("photos", [table.parent / "new"], MonitoringConfig())).retraining
    assert named is not None
    assert named["labels"] == str(table)


def test_a_model_that_needs_labels_is_proposed_none(table: Path, store: Store) -> None:
    result = checked("cvae", table, store)
    assert (result.drift, result.retraining) == (True, None)
