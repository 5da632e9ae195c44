"""Holds what tests share: caches and stores of their own, prepared digits, a model, a Prefect server."""

from __future__ import annotations

import logging
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch is loaded: threads that spin starve each other
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts what runs in its background deaf to Ctrl-C


@pytest.fixture(scope="session", autouse=True)
def folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Keeps tests from reading or writing the person's own store and cache."""
    root = tmp_path_factory.mktemp("aemodels")
    names = {"AEMODELS_CACHE": root / "cache", "AEMODELS_STORE": root / "store"}
    with pytest.MonkeyPatch.context() as patch:
        for name, path in names.items():
            patch.setenv(name, str(path))
        for name in ("AEMODELS_DATA", "MLFLOW_TRACKING_URI", "PREFECT_API_URL", "OPTUNA_STORAGE", "AEMODELS_MLFLOW_UI"):
            patch.delenv(name, raising=False)
        yield root


class _Kept(logging.Handler):
    """Keeps records."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@pytest.fixture(autouse=True)
def mistakes(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[logging.LogRecord]]:
    """Fails a test if the code of a metric or figure has failed, which usually only leaves it out.

    A test that plants a mistake empties the list.
    """
    log, kept = logging.getLogger("aemodels.evaluation.leaving_out"), _Kept()
    monkeypatch.setattr(log, "level", logging.INFO)
    log.addHandler(kept)
    yield kept.records
    log.removeHandler(kept)
    assert not [logging.Formatter().format(record) for record in kept.records]


@pytest.fixture(scope="session")
def digits(folders: Path):  # noqa: ARG001  the cache is set there
    """Returns scikit-learn's digits, prepared."""
    from aemodels.data import prepare
    from aemodels.data.digits import DigitsConfig
    from aemodels.runtime.progress import finish

    return finish(prepare(DigitsConfig()))


@pytest.fixture(scope="session")
def empty_database(folders: Path) -> Path:
    """Returns a migrated MLflow database."""
    from aemodels.tracking.store import open_store

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AEMODELS_STORE", str(folders / "empty"))
        open_store()
    return folders / "empty" / "mlflow.db"


@pytest.fixture
def store(empty_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Makes an embedded store of the test's own; AEMODELS_STORE names its folder."""
    from aemodels.tracking.store import open_store

    (tmp_path / "store").mkdir()
    shutil.copy(empty_database, tmp_path / "store" / "mlflow.db")
    monkeypatch.setenv("AEMODELS_STORE", str(tmp_path / "store"))
    return open_store()


@pytest.fixture(scope="session")
def model_folder(folders: Path) -> Path:
    """Makes the folder of an untrained model of grey 8 x 8 images, with 3 latent units, as a finished run leaves it."""
    from untrained import finished_folder

    return finished_folder(folders / "model", (1, 8, 8))


@pytest.fixture(scope="module")
def model(model_folder: Path):
    """Returns the model in `model_folder`."""
    from aemodels.checkpoints.checkpoint import load_model

    return load_model(model_folder).model


@pytest.fixture(scope="module")
def features(digits):
    """Returns the features with the classifier of the digits."""
    import torch

    from aemodels.evaluation.features import features_of
    from aemodels.runtime.progress import finish

    return finish(features_of(digits, torch.device("cpu")))


@pytest.fixture(scope="module")
def colour(tmp_path_factory: pytest.TempPathFactory):
    """Returns sixty colour images of 12 x 12 pixels, with and without labels."""
    import numpy as np
    from PIL import Image

    from aemodels.data import prepare
    from aemodels.data.folder import FolderConfig
    from aemodels.runtime.progress import finish

    root, rng = tmp_path_factory.mktemp("colour"), np.random.default_rng(3)
    for label in ("bright", "dark"):
        (root / label).mkdir()
        for i in range(30):
            pixels = rng.integers(0, 128, (12, 12, 3)) + (127 if label == "bright" else 0)
            Image.fromarray(pixels.astype(np.uint8)).save(root / label / f"{i}.png")
    labelled = finish(prepare(FolderConfig(path=(root,))))
    plain = finish(prepare(FolderConfig(path=(root / "dark",))))
    assert plain.classes == ()
    return {"labelled": labelled, "plain": plain}


@pytest.fixture
def own_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Returns the folder of a store that is empty: not even the databases exist."""
    monkeypatch.setenv("AEMODELS_STORE", str(tmp_path))
    return tmp_path


@pytest.fixture(scope="session")
def prefect() -> Iterator[None]:
    """Runs one Prefect server for all tests of a process."""
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=120):
        yield


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets the trials of searches train nothing."""
    from searches import pretend, replace_trials

    replace_trials(monkeypatch, pretend)
