"""What tests share: a cache and a store of their own, and the prepared digits."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch is loaded: threads that spin starve each other


@pytest.fixture(scope="session", autouse=True)
def folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Nothing of the person's own store or cache is read or written."""
    root = tmp_path_factory.mktemp("aemodels")
    names = {"AEMODELS_CACHE": root / "cache", "AEMODELS_STORE": root / "store"}
    with pytest.MonkeyPatch.context() as patch:
        for name, path in names.items():
            patch.setenv(name, str(path))
        for name in ("AEMODELS_DATA", "MLFLOW_TRACKING_URI", "PREFECT_API_URL"):
            patch.delenv(name, raising=False)
        yield root


@pytest.fixture(scope="session")
def digits(folders: Path):
    """scikit-learn's digits, prepared."""
    from aemodels.data import prepare
    from aemodels.data.digits import DigitsConfig
    from aemodels.progress import finish

    return finish(prepare(DigitsConfig()))
