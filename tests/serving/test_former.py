"""Tests that a model registered before the modules were renamed still loads, answers and serves."""

from __future__ import annotations

import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest

from aemodels.tracking.store import Store

PACKED = Path(__file__).parent / "former" / "registered_before.tar.gz"  # as release 0.1.0 registered it
CHECKSUMS = "be660ca1eb9e6e8846fe85c4a85d896d5d88c086922ff89d529659c3e354d3a9"
IMAGES = np.random.default_rng(0).integers(0, 256, (3, 28, 28), np.uint8)


@pytest.fixture
def former(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Returns the name of the model in the registry."""
    with tarfile.open(PACKED) as packed:
        packed.extractall(tmp_path / "model", filter="data")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store.uri)
    client = store.client
    logged = client.create_logged_model(store.experiment("former"), "former")
    client.log_model_artifacts(logged.model_id, str(tmp_path / "model"))
    client.finalize_logged_model(logged.model_id, "READY")
    client.create_registered_model("former")
    client.create_model_version("former", f"models:/{logged.model_id}", tags={"model.sha256": CHECKSUMS})
    return "former/1"


def test_the_library_loads_it(former: str, store: Store) -> None:
    from aemodels.checkpoints.checkpoint import load_model
    from aemodels.serving.answers import Question, answer
    from aemodels.tracking.catalog import find

    model = load_model(find(former, store)).model
    assert answer(model, IMAGES, Question("embed")).shape == (3, 3)


def test_mlflow_loads_it_beside_the_present_library(former: str) -> None:
    """If `aemodels` is imported already, its modules win over those that the model brings."""
    from mlflow import pyfunc

    model = pyfunc.load_model(f"models:/{former}")
    assert model.predict(IMAGES, {"mode": "embed"}).shape == (3, 3)
    assert model.predict(IMAGES, {"mode": "generate", "n": 2}).shape == (2, 1, 28, 28)


@pytest.mark.slow
def test_mlflow_loads_it_with_the_library_that_it_brings(former: str, tmp_path: Path) -> None:
    code = f"""
import mlflow, numpy as np
model = mlflow.pyfunc.load_model("models:/{former}")
print(model.predict(np.zeros((2, 28, 28), np.uint8), {{"mode": "reconstruct"}}).shape)
import aemodels
print(aemodels.__file__)
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines()[0] == "(2, 1, 28, 28)"
    assert str(tmp_path) in ran.stdout
