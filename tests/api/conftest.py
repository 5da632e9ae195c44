"""Gives every test of what Python programs use an empty folder, cache and store."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Makes an empty folder the current one, and the cache free of other tests' work."""
    for name in ("cache", "store", "here"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("AEMODELS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("AEMODELS_STORE", str(tmp_path / "store"))
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"
