"""Tests which images a trained model of somebody's own images is evaluated on, and which settings are refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from commands import call, picture_folder, refused, save
from PIL import Image

import aemodels
from aemodels.checkpoints.checkpoint import ModelCard
from aemodels.data import prepared_before
from aemodels.data.encoded import EncodedConfig
from aemodels.experiment import Experiment
from aemodels.steps.evaluate import _asked

QUICK = {"training__epochs": 1, "trunk": {"name": "mlp", "widths": [8]}, "latent_dim": 3}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return picture_folder(tmp_path / "photos", 60, side=8)


@pytest.fixture
def reference(store: object, photos: Path, tmp_path: Path) -> str:
    """Returns the folder of a model of the photos."""
    del store
    return str(aemodels.fit(photos, "ae", **QUICK).save(tmp_path / "kept"))


def test_images_of_the_training_are_left_out_and_told(reference: str, photos: Path, tmp_path: Path) -> None:
    own = aemodels.load(reference)
    data = prepared_before(own.card.experiment.data, own.card.digest)
    assert data is not None
    copies = shutil.copytree(photos, tmp_path / "copies")
    save(copies / "new.png", np.full((8, 8), 7))
    left = data.sizes["test"] + 1
    told = call("evaluate", reference, f"data.path={copies}")
    assert told.code == 0, told.err
    assert f"61 files, {left} used; {61 - left} are among those that the model was trained or validated on" in told.err
    assert f"of 61 images {61 - left} are among those" in told.err
    shutil.copytree(photos, tmp_path / "again")
    for image in data.split("test").images:  # then nothing new is left
        for file in (tmp_path / "again").iterdir():
            if (np.asarray(Image.open(file)) == image[0]).all():
                file.unlink()
    refused(call("evaluate", reference, f"data.path={tmp_path / 'again'}"), "are among those", "give others")


def test_all_images_of_a_file_of_arrays_are_evaluated(reference: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "new.npz", images=np.random.default_rng(1).random((20, 8, 8)))
    told = call("evaluate", reference, "data.name=arrays", f"data.path={tmp_path / 'new.npz'}", "--json").json
    measured = aemodels.load(reference).evaluate(np.load(tmp_path / "new.npz")["images"])
    found = {name.removeprefix("test/"): value for name, value in told.items() if name.startswith("test/")}
    errors = {name: found.pop(name) for name in list(found) if name.endswith("_error")}
    assert errors["mse_error"] > 0
    assert found == {name: pytest.approx(measured[name], rel=1e-4) for name in found}
    report = Path(told["report"]).read_text()
    assert "20 that were given to be evaluated" in report
    assert "A model of photos, evaluated again" in report
    assert {"mse", "frechet_samples", "share_of_linear_code"} <= found.keys()
    np.savez(tmp_path / "colour.npz", images=np.random.default_rng(1).random((20, 8, 8, 3)))
    wrong = call("evaluate", reference, "data.name=arrays", f"data.path={tmp_path / 'colour.npz'}")
    refused(wrong, "colour images, the model takes grey ones")


@pytest.mark.parametrize(("given", "fit"), [({}, "crop"), ({"fit": "pad"}, "pad")])
def test_images_of_another_source_are_read_as_the_models_own_were(given: dict[str, str], fit: str) -> None:
    own = {"data.name": "folder", "data.path": "/photos", "data.fit": "crop", "data.levels": 4095}
    card = ModelCard(experiment=Experiment.parse(own), image_shape=(1, 8, 12), classes=(), digest="d" * 32)
    data = _asked(card, {"data": {"name": "parquet", "path": "/tables", **given}}).data
    assert isinstance(data, EncodedConfig)
    assert (data.fit, data.levels, data.image_size) == (fit, 4095, (8, 12))
    assert _asked(card, {"data": {"name": "arrays", "path": "/a.npy"}}).data.image_size == (8, 12)  # has no such fields


@pytest.mark.parametrize(
    ("setting", "remedy"),
    [
        ("data.split_seed=1", "leave it out"),
        ("data.test_fraction=0.3", "leave it out"),
        ("data.val_path=/nowhere", "give its images as data.path"),
        ("data.test_path=/nowhere", "give its images as data.path"),
        ("data.fit=crop", "leave it out, or give other images as data.path"),
        ("data.levels=200", "leave it out, or give other images as data.path"),
    ],
)
def test_settings_that_would_draw_other_test_images_are_refused(reference: str, setting: str, remedy: str) -> None:
    refused(call("evaluate", reference, setting), setting.split("=")[0], remedy)
