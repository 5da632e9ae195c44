"""Tests fits from Python: on arrays, tensors, data sets, files and folders, tracked, resumed and fine-tuned."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import termios
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from fits import IMAGES, LABELS, QUICK, starts_of_trainings
from PIL import Image
from tracked import history, runs

import aemodels
from aemodels.checkpoints import training as saving
from aemodels.config import OwnWarning, SettingsError, section_kinds
from aemodels.experiment import Experiment
from aemodels.models.ae import AEConfig
from aemodels.nn.trunks import MLPConfig

KINDS = tuple(section_kinds(Experiment.model_fields["model"]))


@pytest.mark.parametrize("kind", KINDS)
def test_every_model_is_fitted_and_answers(kind: str, elsewhere: Path) -> None:
    model = aemodels.fit(IMAGES, kind, labels=LABELS, **QUICK)
    drawn = model.sample(4)
    assert (drawn.shape, drawn.dtype) == ((4, 8, 8), np.float32)
    np.testing.assert_array_equal(drawn, model.sample(4))
    np.testing.assert_array_equal(drawn, model.sample(np.int64(4), seed=np.uint8(0)))  # type: ignore[arg-type]
    assert (model.sample(4, seed=1) != drawn).any()
    if kind != "gan":
        assert model.encode(IMAGES[:5]).shape == (5, 3)
        assert model.decode(model.encode(IMAGES[:5]), "cat" if kind == "cvae" else None).shape == (5, 8, 8)
        np.testing.assert_allclose(
            model.score(IMAGES[:5]), np.square(model.reconstruct(IMAGES[:5]) - IMAGES[:5]).mean((1, 2)), rtol=1e-4
        )
        with pytest.warns(OwnWarning, match="was not trained to denoise, so these are plain reconstructions"):
            assert model.denoise(IMAGES[:2]).shape == (2, 8, 8)
        assert model.like(IMAGES[:5], n=np.arange(4)[-1]).shape == (3, 8, 8)
    else:
        for look in (model.encode, model.reconstruct, model.score, model.denoise, model.like, model.classify):
            with pytest.raises(
                aemodels.UserError, match=r"gan 3: a gan has no .* without them \(in Python `sample`\)$"
            ):
                look(IMAGES)
        with pytest.raises(aemodels.UserError, match="no encoder"):
            model.decode(np.zeros((2, 3)))
    if kind == "cvae":
        np.testing.assert_array_equal(model.sample(2, label="dog"), model.sample(2, label=1))
        with pytest.raises(aemodels.UserError, match="label=cow: unknown; choose one of cat, dog"):
            model.sample(2, label="cow")
        np.testing.assert_array_equal(model.sample(2, label="1"), model.sample(2, label="dog"))
    if kind in ("cvae", "gan"):
        why = "is conditional, with a prior" if kind == "cvae" else "has no encoder and so no codes"
        with pytest.raises(aemodels.UserError, match=f"prior=flow: {kind} 3 {why}"):
            model.sample(2, prior="flow")
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
    model = aemodels.fit("photos", "ae", **QUICK)
    assert model.classes == ("a", "b")
    read, files = model.read("photos/a", elsewhere / "photos" / "b" / "1.png")
    assert (len(files), files[-1].name) == (31, "1.png")
    np.testing.assert_allclose(read[-1], IMAGES[1], atol=1 / 255)
    assert model.score(read).shape == (31,)
    with pytest.raises(aemodels.UserError, match=r"images, files = model\.read\(path\)"):
        model.score("photos")
    (elsewhere / "photos" / "a" / "broken.png").write_bytes(b"no image")
    with pytest.warns(UserWarning, match="1 file cannot be read and is left out"):
        assert len(model.read("photos/a")[1]) == 30
    (elsewhere / "photos" / "a" / "broken.png").unlink()
    assert aemodels.fit(["photos/a", Path("photos/b")], "ae", **QUICK).classes == ()
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
    settings = QUICK | {"training__epochs": 3}
    whole = aemodels.fit(IMAGES, "vae", resume=False, **settings)
    seen: list[int] = []

    def interrupted(folder: Path, state: object) -> None:
        real(folder, state)
        seen.append(state.epoch)
        if len(seen) == 2:
            raise KeyboardInterrupt

    real = saving.save_state
    monkeypatch.setattr(saving, "save_state", interrupted)
    with pytest.raises(KeyboardInterrupt):
        aemodels.fit(IMAGES, "vae", resume=False, **settings)
    model = aemodels.fit(IMAGES, "vae", **settings)
    assert seen == [1, 2, 3]
    np.testing.assert_array_equal(model.encode(IMAGES), whole.encode(IMAGES))


def test_tracked_it_is_what_the_commands_do() -> None:
    model = aemodels.fit(IMAGES, "vae", track=True, registry={"name": "mine"}, **QUICK)
    assert model.name == model.title == "mine/1"
    np.testing.assert_array_equal(aemodels.load("mine/1").encode(IMAGES), model.encode(IMAGES))


def test_what_another_release_has_kept_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    search = partial(aemodels.search, IMAGES, "vae", trials=2, tuning__epochs=1, **QUICK)
    first = aemodels.fit(IMAGES, "vae", **QUICK)
    search()
    monkeypatch.setattr("aemodels.checkpoints.result_keys.own_version", lambda: "9.9")
    states = starts_of_trainings(monkeypatch)
    again = aemodels.fit(IMAGES, "vae", **QUICK | {"training__epochs": 2})
    assert states == [0], "the state of a shorter training is another release's too"
    assert again.folder != first.folder
    assert aemodels.fit(IMAGES, "vae", **QUICK).folder != first.folder
    search()
    assert len(list((first.folder.parents[1] / "searches").glob("[0-9a-f]*.lock"))) == 2


@pytest.mark.slow
def test_no_bar_is_drawn_where_nobody_watches() -> None:
    code = "import numpy as np, aemodels; aemodels.fit(np.random.rand(60, 8, 8), 'ae', training__epochs=1)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")


def test_a_damaged_fit_of_the_cache_is_trained_again() -> None:
    first = aemodels.fit(IMAGES, "ae", **QUICK)
    codes = first.encode(IMAGES)
    (first.folder / "weights.safetensors").write_bytes(b"damaged")
    np.testing.assert_array_equal(aemodels.fit(IMAGES, "ae", **QUICK).encode(IMAGES), codes)


@pytest.mark.slow
@pytest.mark.parametrize("work", ["fit(x, 'vae', training__epochs=3)", "search(x, 'vae', trials=2, tuning__epochs=1)"])
def test_two_processes_that_do_the_same_at_once(work: str) -> None:
    code = f"import numpy as np, aemodels; x = np.random.default_rng(0).random((9000, 28, 28)); aemodels.{work}"
    both = [subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True) for _ in range(2)]
    assert [(process.communicate(timeout=300)[1], process.returncode) for process in both] == [("", 0), ("", 0)]


def test_data_sets_of_other_forms() -> None:
    alone = torch.utils.data.TensorDataset(torch.from_numpy(IMAGES))
    assert aemodels.fit(alone, "ae", **QUICK).classes == ()
    named = [(image, name) for image, name in zip(IMAGES, LABELS, strict=True)]
    dataset = type(
        "Named", (torch.utils.data.Dataset,), {"__len__": lambda _: 60, "__getitem__": lambda _, i: named[i]}
    )
    assert aemodels.fit(dataset(), "ae", **QUICK).classes == ("cat", "dog")
    assert aemodels.fit(IMAGES, "ae", labels=LABELS.astype(object), **QUICK).classes == ("cat", "dog")


def test_the_callers_noise_stays_as_it_was() -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    model = aemodels.fit(IMAGES, "ae", **QUICK)
    aemodels.load(model.save("kept"))
    assert torch.equal(torch.rand(2), expected)


def test_a_bar_is_drawn_where_a_person_watches() -> None:
    code = "import numpy as np, aemodels; aemodels.fit(np.random.rand(60, 8, 8), 'ae', training__epochs=2)"
    ours, its = pty.openpty()
    termios.tcsetwinsize(its, (24, 100))
    running = subprocess.Popen([sys.executable, "-c", code], stderr=its)
    os.close(its)
    seen = b""
    with suppress(OSError):  # its end closes the terminal
        while part := os.read(ours, 4096):
            seen += part
    assert running.wait() == 0
    assert b"training ae: 100%" in seen
    assert b"2/2" in seen


def test_threads_that_fit_the_same_images_do_not_disturb_each_other() -> None:
    with ThreadPoolExecutor(3) as pool:
        jobs = [pool.submit(aemodels.fit, IMAGES, "ae", **QUICK | {"latent_dim": size}) for size in (2, 2, 3)]
        assert [job.result().latent_dim for job in jobs] == [2, 2, 3]


def test_a_fit_starts_from_a_model_a_folder_or_a_registered_version(elsewhere: Path) -> None:
    parent = aemodels.fit(IMAGES, "ae", seed=1, **QUICK)
    others = IMAGES[:, ::-1]
    parent.save("kept")
    finer = aemodels.fit(others, start_from=parent, training__epochs=1)
    assert finer.card.experiment.model == parent.card.experiment.model
    again = aemodels.fit(others, start_from="kept", training__epochs=1)
    np.testing.assert_array_equal(finer.sample(3), again.sample(3))
    assert (aemodels.fit(others, "ae", **QUICK).sample(3) != finer.sample(3)).any()
    with pytest.raises(aemodels.SettingsError, match=r"model\.latent_dim is 3 there and 4 here"):
        aemodels.fit(others, "ae", start_from=parent, latent_dim=4)
    with pytest.raises(aemodels.SettingsError, match=r"give model\.name=ae"):
        aemodels.fit(others, "vae", start_from=parent)
    tracked = aemodels.fit(IMAGES, "ae", track=True, registry__name="mine", **QUICK)
    tuned = aemodels.fit(others, start_from=tracked, training__epochs=1)
    assert tuned.card.experiment.start_from.startswith("mine/1#")  # type: ignore[union-attr]
    assert {path.name for path in elsewhere.iterdir()} == {"kept"}


def interrupted(*_: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.slow
def test_begun_anew_a_tracked_fit_trains_from_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    states = starts_of_trainings(monkeypatch)
    fit = partial(aemodels.fit, IMAGES, "vae", **QUICK)
    track = {"track": True, "registry__name": "mine"}
    fit(**track)
    fit(**track, training__epochs=2, resume=False)
    assert states == [0, 0]
    with monkeypatch.context() as patch:
        patch.setattr("aemodels.steps.train.register", interrupted)
        with pytest.raises(KeyboardInterrupt):
            fit(**track, training__epochs=3)
    replaced = fit(**track, training__epochs=3, resume=False)
    whole = fit(training__epochs=3, resume=False)
    assert states == [0, 0, 2, 0, 0]
    np.testing.assert_array_equal(replaced.sample(4), whole.sample(4))
    store = Path(os.environ["AEMODELS_STORE"])
    *_, killed, last = runs(store, "training")
    assert [run.info.status for run in (killed, last)] == ["KILLED", "FINISHED"]
    assert [step for step, _ in history(store, last.info.run_id)["train/loss"]] == [1, 2, 3]
    assert Path(last.data.tags["folder"]) == Path(killed.data.tags["folder"]) == replaced.folder


def test_more_epochs_go_on_where_the_same_fit_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    states = starts_of_trainings(monkeypatch)
    aemodels.fit(IMAGES, "vae", **QUICK)
    longer = aemodels.fit(IMAGES, "vae", **QUICK | {"training__epochs": 3})
    whole = aemodels.fit(IMAGES, "vae", resume=False, **QUICK | {"training__epochs": 3})
    assert states == [0, 1, 0]
    np.testing.assert_array_equal(longer.sample(4), whole.sample(4))


@pytest.mark.usefixtures("elsewhere")
def test_settings_of_every_depth_and_kind() -> None:
    model = aemodels.fit(IMAGES, "ae", trunk="conv", trunk__channels=[8], training__epochs=2)
    assert model.card.experiment.model.trunk.channels == (8,)
    assert [sorted(epoch) for epoch in model.history] == [sorted(model.history[0])] * 2
    assert model.history[0]["train/loss"] > model.history[1]["train/loss"]
    model = aemodels.fit(IMAGES, AEConfig(latent_dim=5, trunk=MLPConfig(widths=(16,))), training__epochs=1)
    assert model.latent_dim == 5
    with pytest.raises(SettingsError, match="batch_size: is no setting of a model; give training__batch_size"):
        aemodels.fit(IMAGES, batch_size=64)
