"""The door: what Python programs use, on arrays, tensors, data sets, files and folders."""

from __future__ import annotations

import doctest
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import aemodels

QUICK = {"training__epochs": 1, "trunk": {"name": "mlp", "widths": [16]}, "latent_dim": 3}
IMAGES = np.random.default_rng(0).random((60, 8, 8))
LABELS = np.array(["cat", "dog"])[np.arange(60) % 2]
KINDS = ("ae", "vae", "cvae", "iwae", "vae_gan", "gan")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder is the current one, and nothing of another test is in the cache."""
    for name in ("cache", "store", "here"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("AEMODELS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("AEMODELS_STORE", str(tmp_path / "store"))
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


@pytest.mark.parametrize("kind", KINDS)
def test_every_model_is_fitted_and_answers(kind: str, elsewhere: Path) -> None:
    model = aemodels.fit(IMAGES, kind, labels=LABELS, **QUICK)
    drawn = model.sample(4)
    assert (drawn.shape, drawn.dtype) == ((4, 8, 8), np.float32)
    np.testing.assert_array_equal(drawn, model.sample(4))
    assert (model.sample(4, seed=1) != drawn).any()
    if kind != "gan":
        assert model.encode(IMAGES[:5]).shape == (5, 3)
        assert model.decode(model.encode(IMAGES[:5]), "cat" if kind == "cvae" else None).shape == (5, 8, 8)
        np.testing.assert_allclose(
            model.score(IMAGES[:5]), np.square(model.reconstruct(IMAGES[:5]) - IMAGES[:5]).mean((1, 2)), rtol=1e-4
        )
        assert model.denoise(IMAGES[:2]).shape == (2, 8, 8)
        assert model.like(IMAGES[:5], n=3).shape == (3, 8, 8)
    else:
        with pytest.raises(aemodels.UserError, match="no encoder"):
            model.encode(IMAGES)
    if kind == "cvae":
        np.testing.assert_array_equal(model.sample(2, label="dog"), model.sample(2, label=1))
        with pytest.raises(aemodels.UserError, match="label=cow: unknown; choose one of cat, dog"):
            model.sample(2, label="cow")
    assert list(elsewhere.iterdir()) == []


@pytest.mark.parametrize(
    "given",
    [
        (IMAGES * 255).astype(np.uint8),
        torch.from_numpy(IMAGES).float(),
        np.repeat(IMAGES[..., None], 3, -1),
        np.repeat(IMAGES[:, None], 3, 1),
        torch.utils.data.TensorDataset(torch.from_numpy(IMAGES), torch.arange(60) % 3),
    ],
    ids=["bytes", "tensor", "channels last", "channels first", "dataset"],
)
def test_images_are_taken_as_people_hold_them(given: object) -> None:
    model = aemodels.fit(given, "ae", **QUICK)
    colour = isinstance(given, np.ndarray) and given.ndim == 4
    assert model.sample(2).shape == ((2, 8, 8, 3) if colour else (2, 8, 8))
    if isinstance(given, torch.utils.data.Dataset):
        assert model.classes == ("0", "1", "2")
    else:
        assert model.encode(given[:4]).shape == (4, 3)


def test_folders_and_files_are_taken(elsewhere: Path) -> None:
    for i, image in enumerate((IMAGES * 255).astype(np.uint8)):
        folder = elsewhere / "photos" / "ab"[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{i}.png")
    assert aemodels.fit("photos", "ae", **QUICK).classes == ("a", "b")
    np.save("kept.npy", IMAGES)
    np.savez("kept.npz", images=IMAGES, labels=np.arange(60) % 2, classes=["no", "yes"])
    assert aemodels.fit("kept.npy", "ae", **QUICK).classes == ()
    assert aemodels.fit(Path("kept.npz"), "ae", **QUICK).classes == ("no", "yes")


def test_the_same_images_and_settings_give_the_same_model() -> None:
    first, again, other = (aemodels.fit(IMAGES, "vae", seed=seed, **QUICK) for seed in (0, 0, 1))
    assert first.folder == again.folder != other.folder
    anew = aemodels.fit(IMAGES, "vae", resume=False, **QUICK)
    np.testing.assert_array_equal(anew.encode(IMAGES), first.encode(IMAGES))


def test_a_fit_that_was_interrupted_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    api = import_module("aemodels.api")
    settings = QUICK | {"training__epochs": 3}
    whole = aemodels.fit(IMAGES, "vae", resume=False, **settings)
    seen: list[int] = []

    def interrupted(folder: Path, state: object) -> None:
        real(folder, state)
        seen.append(state.epoch)
        if len(seen) == 2:
            raise KeyboardInterrupt

    real = api.save_state
    monkeypatch.setattr(api, "save_state", interrupted)
    with pytest.raises(KeyboardInterrupt):
        aemodels.fit(IMAGES, "vae", resume=False, **settings)
    model = aemodels.fit(IMAGES, "vae", **settings)
    assert seen == [1, 2, 3]
    np.testing.assert_array_equal(model.encode(IMAGES), whole.encode(IMAGES))


def test_a_model_is_judged_reported_saved_and_loaded() -> None:
    model = aemodels.fit(IMAGES, "vae", **QUICK)
    found = model.evaluate(IMAGES)
    assert found["mse"] == pytest.approx(model.score((IMAGES * 255).round() / 255).mean(), rel=1e-3)
    assert "mse" in model.evaluate()  # of its own test images
    assert model.report("report.html").read_text().startswith("<!doctype html>")
    again = aemodels.load(model.save("kept"))
    np.testing.assert_array_equal(again.encode(IMAGES), model.encode(IMAGES))
    assert again.sample(2, prior="gaussian").shape == (2, 8, 8)
    with pytest.raises(aemodels.UserError, match="holds a model already"):
        model.save("kept")


def test_tracked_it_is_what_the_commands_do() -> None:
    model = aemodels.fit(IMAGES, "vae", track=True, registry={"name": "mine"}, **QUICK)
    assert model.name == "mine/1"
    np.testing.assert_array_equal(aemodels.load("mine/1").encode(IMAGES), model.encode(IMAGES))


def test_a_search_names_its_best_settings(elsewhere: Path) -> None:
    found = aemodels.search(IMAGES, "vae", trials=2, tuning__epochs=1, **QUICK)
    assert found.best.keys() == {"model.latent_dim", "model.beta"}
    assert found.settings.model.latent_dim == found.best["model.latent_dim"]
    assert [trial["state"] for trial in found.trials] == ["complete", "complete"]
    assert list(elsewhere.iterdir()) == []


@pytest.mark.parametrize(
    ("images", "settings", "says"),
    [
        (IMAGES, {"latent_dm": 3}, "did you mean model.latent_dim"),
        (IMAGES, {"training__epoch": 3}, "did you mean training.epochs"),
        (IMAGES * 300, {}, "float64 pixels run from 0 to 1"),
        (IMAGES[0], {}, r"images of shape \(8, 8\): give"),
        (np.full((9, 8, 8), np.nan), {}, "finite numbers"),
        ("nowhere", {}, "nowhere"),
        ("nothing.npz", {}, "nothing.npz"),
    ],
)
def test_what_is_wrong_is_said_in_words(images: object, settings: dict[str, object], says: str) -> None:
    with pytest.raises(aemodels.UserError, match=says):
        aemodels.fit(images, "vae", **settings)


def test_nothing_unknown_is_there() -> None:
    assert set(dir(aemodels)) == set(aemodels.__all__)
    with pytest.raises(AttributeError, match="no attribute 'fitt'"):
        aemodels.fitt  # noqa: B018


@pytest.mark.parametrize("name", ["aemodels", "aemodels.api", "aemodels.runtime.progress"])
def test_examples_in_docstrings_run(name: str) -> None:
    ran = doctest.testmod(import_module(name))
    assert ran.attempted
    assert not ran.failed


@pytest.mark.slow
def test_no_bar_is_drawn_where_nobody_watches() -> None:
    code = "import numpy as np, aemodels; aemodels.fit(np.eye(8)[None].repeat(60, 0), 'ae', training__epochs=1)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")
