"""Tests the gate on a person's own images, which become more after a while."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from aemodels.config import UserError
from aemodels.runtime.progress import finish
from aemodels.settings import Settings
from aemodels.steps.prepare import prepare
from aemodels.steps.promote import IS_CHAMPION, Promotion, check, promote, side_by_side
from aemodels.steps.train import train
from aemodels.tracking.catalog import CHALLENGER, CHAMPION, get
from aemodels.tracking.store import open_store


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Makes two folders of scikit-learn's digits."""
    from sklearn.datasets import load_digits

    monkeypatch.setenv("AEMODELS_STORE", str(tmp_path / "store"))
    for i, image in enumerate((load_digits().images[:160] * 15.9).astype("uint8")):
        file = tmp_path / ("old" if i < 80 else "new") / f"{i}.png"
        file.parent.mkdir(exist_ok=True)
        Image.fromarray(image).save(file)
    return [tmp_path / "old", tmp_path / "new"]


def settings_of(folders: list[Path], epochs: int) -> Settings:
    data = {"name": "folder", "path": [str(folder) for folder in folders], "image_size": 8}
    model = {"name": "ae", "latent_dim": 8, "trunk": {"name": "mlp", "widths": [64]}}
    return Settings().override(
        {
            "data": data,
            "model": model,
            "training": {"epochs": epochs, "batch_size": 16, "learning_rate": 0.003},
            "evaluation.primary": "mse",
            "registry": {"name": "own", "tolerance": 100},  # which a linear code is better than
        }
    )


def asked(folders: list[Path], epochs: int) -> Promotion:
    """Trains on the folders' images, and asks the gate."""
    settings = settings_of(folders, epochs)
    prepared = finish(prepare(settings))
    finish(train(settings, prepared, group=""))
    return finish(promote(settings, prepared, get(open_store(), "own", CHALLENGER).version))


@pytest.mark.slow
def test_a_champion_of_more_images_is_not_judged_by_some_of_them(folders: list[Path]) -> None:
    assert asked(folders[:1], epochs=10).promoted
    grown = asked(folders, epochs=60)
    assert grown.promoted
    assert grown.reason.endswith("the champion was trained on other images, perhaps on some of these")
    fewer = asked(folders[:1], epochs=200)
    assert not fewer.promoted
    assert (
        f"the champion was trained on {folders[1]} too; add that to data.path, or `aemodels promote own 3`"
        in fewer.reason
    )
    assert fewer.champion == 2
    with pytest.raises(
        UserError, match=rf"data\.path: the champion of own was trained on the images of {folders[1]} too"
    ):
        check(settings_of(folders[:1], epochs=200))  # before a search and a training
    check(settings_of(folders, epochs=200))
    for file in folders[1].iterdir():
        file.rename(folders[0] / file.name)
    check(settings_of(folders[:1], epochs=200))  # nothing is forgotten


@pytest.mark.slow
def test_a_challenger_is_not_judged_by_what_it_may_have_been_trained_on(folders: list[Path]) -> None:
    assert asked(folders[:1], epochs=10).promoted
    both, few = settings_of(folders, epochs=60), settings_of(folders[:1], epochs=60)
    trained = finish(train(both, finish(prepare(both)), group=""))
    declined = finish(promote(few, finish(prepare(few)), trained.version))
    assert not declined.promoted
    assert declined.reason.startswith("it was trained on other images (by other data settings, or folders that")
    assert declined.champion == 1
    champion = get(open_store(), "own", CHAMPION)
    shown = finish(side_by_side(both, finish(prepare(both)), champion.version))
    assert shown.reason == IS_CHAMPION  # of whatever images
