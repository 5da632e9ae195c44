"""The gate on images of one's own, of which there are more after a while."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from aemodels.progress import finish
from aemodels.registry import CHALLENGER, get
from aemodels.settings import Settings
from aemodels.steps.prepare import prepare
from aemodels.steps.promote import Promotion, promote
from aemodels.steps.train import train
from aemodels.store import open_store


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Two folders of scikit-learn's digits."""
    from sklearn.datasets import load_digits

    monkeypatch.setenv("AEMODELS_STORE", str(tmp_path / "store"))
    for i, image in enumerate((load_digits().images[:160] * 15.9).astype("uint8")):
        file = tmp_path / ("old" if i < 80 else "new") / f"{i}.png"
        file.parent.mkdir(exist_ok=True)
        Image.fromarray(image).save(file)
    return [tmp_path / "old", tmp_path / "new"]


def asked(folders: list[Path], epochs: int) -> Promotion:
    """Trains on the folders' images, and asks the gate."""
    data = {"name": "folder", "path": [str(folder) for folder in folders], "image_size": 8}
    model = {"name": "ae", "latent_dim": 8, "trunk": {"name": "mlp", "widths": [64]}}
    settings = Settings().override(
        {
            "data": data,
            "model": model,
            "training": {"epochs": epochs, "batch_size": 16, "learning_rate": 0.003},
            "evaluation.primary": "mse",
            "registry.name": "own",
        }
    )
    prepared = finish(prepare(settings))
    finish(train(settings, prepared, group=""))
    return finish(promote(settings, prepared, get(open_store(), "own", CHALLENGER).version))


def test_a_champion_of_more_images_is_not_judged_by_some_of_them(folders: list[Path]) -> None:
    assert asked(folders[:1], epochs=1).promoted
    grown = asked(folders, epochs=30)
    assert grown.promoted
    assert grown.reason.endswith("the champion was trained on other images, some of these perhaps")
    fewer = asked(folders[:1], epochs=60)
    assert not fewer.promoted
    assert f"knows the images of {folders[1]} too; add that to data.path, or `aemodels promote own 3`" in fewer.reason
    assert fewer.champion == 2
