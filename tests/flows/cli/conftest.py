"""Holds a store with trained models."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from commands import TINY, Shop, call, save


@pytest.fixture(scope="session")
def shop(folders: Path, empty_database: Path, digits) -> Shop:
    store = folders / "shop"
    store.mkdir()
    shutil.copy(empty_database, store / "mlflow.db")
    pixels = digits.split("test").images
    images = [save(folders / "pictures" / f"{i}.png", pixels[i, 0]) for i in range(10)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AEMODELS_STORE", str(store))
        trained = [call("train", "--json", *TINY, f"seed={seed}").json for seed in (0, 1)]
        assert call("promote", "digits", 1).code == 0
    return Shop(store, trained, images)


@pytest.fixture
def in_shop(shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shop:
    """Returns the shop, used from another working directory."""
    monkeypatch.setenv("AEMODELS_STORE", str(shop.folder))
    monkeypatch.chdir(tmp_path)
    return shop


@pytest.fixture
def own_registry(shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Copies the shop's database, so that a test may move aliases."""
    (tmp_path / "store").mkdir()
    with (
        closing(sqlite3.connect(shop.folder / "mlflow.db")) as database,
        closing(sqlite3.connect(tmp_path / "store" / "mlflow.db")) as copy,
    ):
        database.backup(copy)  # with what is in the write-ahead log
    monkeypatch.setenv("AEMODELS_STORE", str(tmp_path / "store"))


@pytest.fixture(params=["champion", "folder"])
def reference(request: pytest.FixtureRequest, in_shop: Shop) -> str:
    """Returns each of two names of the same model."""
    return "digits@champion" if request.param == "champion" else in_shop.trained[0]["folder"]
