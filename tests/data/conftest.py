"""Holds images on disk and folders that belong to one test."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(autouse=True)
def _own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AEMODELS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("AEMODELS_DATA", str(tmp_path / "data"))


@pytest.fixture
def make_images() -> Callable[..., Path]:
    """Returns a function (folder, count, shape, seed) that fills a folder with PNG images of noise."""

    def make(folder: Path, count: int, shape: tuple[int, ...] = (20, 20, 3), seed: int = 0) -> Path:
        folder.mkdir(parents=True)
        rng = np.random.default_rng(seed)
        for i in range(count):
            Image.fromarray(rng.integers(0, 255, shape, dtype=np.uint8)).save(folder / f"{i:03}.png")
        return folder

    return make


@pytest.fixture
def animals(tmp_path: Path, make_images: Callable[..., Path]) -> Path:
    """Makes 40 colour images in the class folders cat and dog."""
    make_images(tmp_path / "animals" / "cat", 24)
    make_images(tmp_path / "animals" / "dog", 16, seed=1)
    return tmp_path / "animals"


@pytest.fixture
def prepared_folders(tmp_path: Path) -> Callable[[], list[Path]]:
    """Lists what lies beside the lock files of the prepared data."""
    return lambda: [path for path in (tmp_path / "cache" / "prepared").glob("*") if path.suffix != ".lock"]
