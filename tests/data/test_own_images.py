"""Tests that a person who names the wrong source is told which one reads the images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from commands import call, picture_folder, refused

from aemodels.config import UserError, section_kinds
from aemodels.data import prepare
from aemodels.data.own_images import source_of
from aemodels.data.source import OwnImagesConfig
from aemodels.experiment import Experiment
from aemodels.runtime.progress import finish
from aemodels.settings import load_settings

SOURCES = section_kinds(Experiment.model_fields["data"])
OWN = [name for name, kind in SOURCES.items() if issubclass(kind, OwnImagesConfig)]


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """Returns images of each source by the source's name; what is in them is not read."""
    monkeypatch.chdir(tmp_path)
    picture_folder(tmp_path / "photos", 3)
    np.save(tmp_path / "a.npy", np.zeros((3, 8, 8), np.uint8))
    (tmp_path / "tables" / "data").mkdir(parents=True)
    (tmp_path / "tables" / "data" / "train.parquet").touch()
    (tmp_path / "tables" / "README.md").touch()
    picture_folder(tmp_path / "both", 1)
    (tmp_path / "both" / "more.parquet").touch()
    return {"folder": Path("photos"), "arrays": Path("a.npy"), "parquet": Path("tables")}


def test_these_are_all_sources_that_read_a_path() -> None:
    assert {name for name, kind in SOURCES.items() if "path" in kind.model_fields} == set(OWN) > {"folder"}


@pytest.mark.parametrize("there", OWN)
@pytest.mark.parametrize("given", OWN)
def test_the_source_that_reads_the_images_is_named(given: str, there: str, places: dict[str, Path]) -> None:
    assert source_of(places[there]) == there
    if given != there:
        assert source_of(Path("both")) == "folder"
        settings = load_settings({"data": {"name": given, "path": str(places[there].absolute())}})
        with pytest.raises(UserError, match=f"; or give data.name={there}$"):
            finish(prepare(settings.data))


@pytest.mark.parametrize("there", OWN)
def test_a_path_in_place_of_settings_is_answered_with_the_settings(there: str, places: dict[str, Path]) -> None:
    path = places[there]
    refused(call("prepare", path), f"'{path}' is not a setting: give data.name={there} data.path={path} for the images")
    refused(call("train", "seed=1", path), f"data.name={there} data.path={path}")
    refused(call("train", "elsewhere"), "'elsewhere' is not a setting: write key=value")


def test_a_folder_without_any_images_has_no_other_source(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"give the folder of the images$"):
        finish(prepare(load_settings({"data": {"name": "folder", "path": str(tmp_path)}}).data))
