"""Tests what Python programs use, on arrays, tensors, data sets, files and folders."""

from __future__ import annotations

import doctest
import os
import pty
import re
import shutil
import subprocess
import sys
import termios
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import call
from PIL import Image
from places import ROOT
from tracked import history, runs

import aemodels
from aemodels.checkpoints import training as saving
from aemodels.config import OwnWarning, SettingsError, section_kinds
from aemodels.data import prepared_before
from aemodels.experiment import Experiment
from aemodels.models.ae import AEConfig
from aemodels.nn.trunks import MLPConfig
from aemodels.tuning.events import Trial

QUICK = {"training__epochs": 1, "trunk": {"name": "mlp", "widths": [16]}, "latent_dim": 3}
UNSIZED = {key: value for key, value in QUICK.items() if key != "latent_dim"}
IMAGES = np.random.default_rng(0).random((60, 8, 8))
NEW = np.random.default_rng(1).random((30, 8, 8))  # images that no model is fitted to
LABELS = np.array(["cat", "dog"])[np.arange(60) % 2]
KINDS = tuple(section_kinds(Experiment.model_fields["model"]))


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Makes an empty folder the current one, and the cache free of other tests' work."""
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


def test_a_model_is_evaluated_reported_saved_and_loaded() -> None:
    model = aemodels.fit(IMAGES, "vae", **QUICK)
    found = model.evaluate(NEW)
    assert found["mse"] == pytest.approx(model.score((NEW * 255).round() / 255).mean(), rel=1e-3)
    assert "mse" in model.evaluate()  # of its own test images
    assert model.report("report.html").read_text().startswith("<!doctype html>")
    again = aemodels.load(model.save("kept"))
    np.testing.assert_array_equal(again.encode(IMAGES), model.encode(IMAGES))
    assert again.sample(2, prior="gaussian").shape == (2, 8, 8)
    assert model.save("kept") == again.folder  # the same model once more
    with pytest.raises(aemodels.UserError, match="holds a model already"):
        aemodels.fit(IMAGES, "vae", seed=1, **QUICK).save("kept")


def test_tracked_it_is_what_the_commands_do() -> None:
    model = aemodels.fit(IMAGES, "vae", track=True, registry={"name": "mine"}, **QUICK)
    assert model.name == model.title == "mine/1"
    np.testing.assert_array_equal(aemodels.load("mine/1").encode(IMAGES), model.encode(IMAGES))


def test_a_search_names_its_best_settings(elsewhere: Path) -> None:
    found = aemodels.search(IMAGES, "vae", trials=2, tuning__epochs=1, **UNSIZED)
    assert found.best.keys() == {"model.latent_dim", "model.beta"}
    assert found.settings.model.latent_dim == found.best["model.latent_dim"]
    assert [trial["state"] for trial in found.trials] == ["complete", "complete"]
    assert list(elsewhere.iterdir()) == []


def test_a_search_keeps_what_is_given_by_name() -> None:
    found = aemodels.search(IMAGES, "vae", trials=2, tuning__epochs=1, **QUICK)
    assert found.best.keys() == {"model.beta"}
    assert found.settings.model.latent_dim == 3
    sized = {"tuning__space": {"model.latent_dim": {"low": 2, "high": 3}}}
    assert "model.latent_dim" in aemodels.search(IMAGES, "vae", trials=2, tuning__epochs=1, **sized, **QUICK).best
    for model, given in (("ae", QUICK), (AEConfig(latent_dim=3), UNSIZED)):
        with pytest.raises(SettingsError, match=r"nothing varies, as model.latent_dim is given; name a setting"):
            aemodels.search(IMAGES, model, trials=2, **given)


def test_a_search_is_read_from_the_cache_or_begun_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    from aemodels.tuning.study import Study

    claimed: list[int] = []
    real = Study.claim

    def claim(study: Study, number: int) -> Trial | None:
        trial = real(study, number)
        claimed.extend([] if trial is None else [trial.index])
        return trial

    monkeypatch.setattr(Study, "claim", claim)
    search = partial(aemodels.search, IMAGES, "vae", trials=2, tuning__epochs=1, **QUICK)
    first = search()
    assert claimed == [0, 1]
    assert search() == first
    assert claimed == [0, 1]
    anew = search(resume=False)
    assert claimed == [0, 1, 0, 1]
    assert anew.best == first.best
    assert search() == anew


def test_a_search_finds_the_same_whether_it_is_tracked_or_not() -> None:
    search = partial(aemodels.search, IMAGES, "vae", trials=3, tuning__epochs=1, **UNSIZED)
    alone, tracked = search(), search(track=True, registry__name="mine")
    assert tracked.trials == alone.trials
    assert tracked.best == alone.best
    assert "mse" in tracked.trials[0]


def unprepared(*_: object) -> None:
    raise AssertionError("the images are prepared before the settings are checked")


NAMELESS = r"registry\.name: a model of your own images needs a name"


@pytest.mark.parametrize(
    ("work", "given", "says"),
    [
        (aemodels.fit, {"track": True}, NAMELESS),
        (aemodels.search, {"track": True}, NAMELESS),
        (aemodels.search, {"registry__margin": 0.5}, "registry.margin: has no effect without track=True"),
        *[
            (aemodels.search, {"tuning__space": {"model.depth": {"low": 1, "high": 2}}} | tracked, "model.depth")
            for tracked in ({}, {"track": True, "registry__name": "mine"})
        ],
        (
            aemodels.search,
            {"track": True, "registry__name": "mine", "resume": False},
            "resume=False: other machines may work on this search",
        ),
    ],
)
def test_what_is_wrong_is_said_before_the_work(
    work: Callable[..., object], given: dict[str, object], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aemodels.api.prepare", unprepared)
    if "resume" in given:
        monkeypatch.setenv("OPTUNA_STORAGE", "postgresql://nobody@nowhere.invalid/searches")
    with pytest.raises(aemodels.UserError, match=says):
        work(IMAGES, "vae", **given)


def test_all_is_checked_before_the_work_of_a_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aemodels.api.prepare", unprepared)
    np.save("kept.npy", IMAGES)
    nameless = aemodels.Settings().override({"data": {"name": "arrays", "path": str(Path("kept.npy").absolute())}})
    with pytest.raises(aemodels.SettingsError, match=NAMELESS):
        aemodels.train(nameless)
    monkeypatch.setenv("AEMODELS_DEVICE", "abacus")
    for work in (aemodels.fit, aemodels.search):
        with pytest.raises(aemodels.UserError, match="abacus"):
            work(IMAGES, "vae")


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


@pytest.mark.parametrize(
    ("images", "settings", "says"),
    [
        (IMAGES, {"latent_dm": 3}, "did you mean model.latent_dim"),
        (
            IMAGES,
            {"evaluation__nll_samples": 10, "likelihood": "bernoulli"},
            "evaluation.nll_samples=10: coin flips are no likelihood",
        ),
        (IMAGES, {"evaluation__primary": "knn_accuracy"}, "evaluation.primary=knn_accuracy: needs labels"),
        (IMAGES, {"training__epoch": 3}, "did you mean training.epochs"),
        (IMAGES * 300, {}, "float64 pixels run from 0 to 1"),
        (IMAGES[0], {}, r"images of shape \(8, 8\): give"),
        (np.full((9, 8, 8), np.nan), {}, "576 pixels that are NaN"),
        ("nowhere", {}, "nowhere"),
        (list(map(np.zeros, [(8, 8), (9, 9)])), {}, "one shape"),
        ((IMAGES * 255), {}, "divide them by 255"),
        ("nothing.npz", {}, "nothing.npz"),
    ],
)
def test_what_is_wrong_is_said_in_words(images: object, settings: dict[str, object], says: str) -> None:
    with pytest.raises(aemodels.UserError, match=says):
        aemodels.fit(images, "vae", **settings)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"start_from": 3}, "start_from=int: give a model"),
        ({"start_from": torch.nn.Linear(1, 1)}, "start_from=Linear: give a model"),
        ({"model": AEConfig}, "model=.*AEConfig.*: give a name"),
        ({"images": None}, "images of NoneType"),
        ({"images": {"images": IMAGES}}, "images of dict"),
        ({"images": torch.utils.data.DataLoader(IMAGES)}, "give the `dataset` of this DataLoader"),
        ({"images": [{"image": image} for image in IMAGES]}, "images of list"),
        ({"registry__name": "mine"}, "registry.name: has no effect without track=True"),
        ({"tuning__trials": 3, "track": True, "registry__name": "mine"}, "tuning.trials: has no effect in a fit"),
        ({"resume": "no"}, "resume='no': must be True or False"),
        ({"track": 1}, "track=1: must be True or False"),
    ],
)
def test_wrong_arguments_of_a_fit_are_named(given: dict[str, object], says: str) -> None:
    with pytest.raises(aemodels.UserError, match=says):
        aemodels.fit(**{"images": IMAGES, **given})


def test_wrong_questions_to_a_model_are_named() -> None:
    model = aemodels.fit(IMAGES, "cvae", labels=LABELS, **QUICK)
    with pytest.raises(aemodels.UserError, match="trained model; give start_from="):
        aemodels.fit(IMAGES, model)
    for images in (IMAGES[0], IMAGES[0][..., None]):
        with pytest.raises(aemodels.UserError, match=r"one image alone; give images\[None\]"):
            model.encode(images)
    with pytest.raises(aemodels.UserError, match=r"label=.*: give one class"):
        model.sample(2, label=["cat", "dog"])
    with pytest.raises(aemodels.UserError, match="images of dict"):
        aemodels.fit(type("Dicts", (Named,), {"__getitem__": lambda _, i: {"image": IMAGES[i]}})(), "ae")
    others = np.array(["fox", "wolf"])[np.arange(60) % 2]
    with pytest.warns(OwnWarning, match="what was cat there becomes fox"):
        aemodels.fit(IMAGES, labels=others, start_from=model, training__epochs=1)


def test_nothing_unknown_is_there() -> None:
    assert set(dir(aemodels)) >= set(aemodels.__all__)
    with pytest.raises(AttributeError, match="no attribute 'fitt'"):
        aemodels.fitt  # noqa: B018


EXAMPLES = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for path in sorted((ROOT / "aemodels").rglob("*.py"))
    if re.search(r">>> (?!.*\+SKIP)", path.read_text())
]


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_in_docstrings_run(name: str) -> None:
    ran = doctest.testmod(import_module(name))
    assert ran.attempted
    assert not ran.failed


@pytest.mark.slow
def test_no_bar_is_drawn_where_nobody_watches() -> None:
    code = "import numpy as np, aemodels; aemodels.fit(np.random.rand(60, 8, 8), 'ae', training__epochs=1)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")


# ---------------------------------------------------------------- what was found by reading and by use


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


def test_what_python_lacks_is_asked_for_in_the_words_of_python() -> None:
    with pytest.raises(SettingsError, match=r"own images needs a name; .*in Python registry__name='NAME'"):
        aemodels.fit(IMAGES, "ae", track=True, **QUICK)
    with pytest.raises(SettingsError, match=r"model\.name=cvae: needs images of several classes, .*in Python labels="):
        aemodels.fit(IMAGES, "cvae", **QUICK)
    with pytest.raises(aemodels.UserError, match=r"nope: no such registered model; .* a run's folder may be given too"):
        aemodels.load("nope")
    deep = (IMAGES * 65535).astype(np.uint16)
    with pytest.raises(aemodels.UserError, match=r"images of uint16 with pixels up to 6.*divide by .*such as 65535"):
        aemodels.fit(deep, "ae", **QUICK)
    model = aemodels.fit(IMAGES, "ae", **QUICK)
    with pytest.raises(aemodels.UserError, match=r"divide by .*such as 65535"):
        model.score(deep)
    with pytest.raises(aemodels.UserError, match="there is no folder /nowhere/else; make it, or give another path"):
        model.report("/nowhere/else/r.html")


def test_labels_of_an_evaluation_are_the_models_own() -> None:
    model = aemodels.fit(IMAGES, "cvae", labels=LABELS, **QUICK)
    named = model.evaluate(NEW, ["dog"] * 30)  # one class of two
    assert named == model.evaluate(NEW, np.ones(30, int))
    with pytest.raises(aemodels.UserError, match="labels: cow is no class of this model; it knows cat, dog"):
        model.evaluate(NEW[:2], ["cow", "dog"])
    assert "mse" in model.evaluate(NEW[:3], LABELS[:3])
    with pytest.raises(aemodels.UserError, match="labels: the model was trained on images without labels"):
        aemodels.fit(IMAGES, "vae", **QUICK).evaluate(NEW[:3], LABELS[:3])


def test_a_model_is_not_measured_on_what_it_was_trained_on() -> None:
    model = aemodels.fit(IMAGES, "vae", labels=LABELS, **QUICK)
    own = prepared_before(model.card.experiment.data, model.card.digest)
    assert own is not None
    with pytest.warns(OwnWarning, match="of 60 images 49 are among those that the model was trained or validated on"):
        found = model.evaluate(IMAGES, LABELS)
    # What it is measured beside is the same too: the feature network, the codes of training images, the linear code.
    expected = model.evaluate()
    for metric in ("mse", "knn_accuracy", "frechet_samples", "frechet_floor", "share_of_linear_code"):
        assert found[metric] == pytest.approx(expected[metric], rel=1e-4), metric
    with pytest.raises(aemodels.UserError, match="all 5 images are among those that the model was trained"):
        model.evaluate(own.split("train").images[:5, 0])


def test_without_the_images_of_its_training_a_model_is_measured_on_others(elsewhere: Path) -> None:
    model = aemodels.load(aemodels.fit(IMAGES, "vae", labels=LABELS, **QUICK).save("kept"))
    measured = model.evaluate(NEW, LABELS[:30])
    shutil.rmtree(elsewhere.parent / "cache")
    with pytest.warns(OwnWarning, match="the images of the model's training are gone from the cache"):
        found = model.evaluate(NEW, LABELS[:30])
    assert found == {key: pytest.approx(value) for key, value in measured.items() if key in found}
    assert {"mse", "rate"} <= found.keys()
    assert {"knn_accuracy", "frechet_samples", "share_of_linear_code"} <= measured.keys() - found.keys()


def test_integers_that_are_all_0_or_1_are_refused_everywhere() -> None:
    black_and_white = aemodels.fit(IMAGES > 0.5, "ae", **QUICK)
    for kind in (int, np.uint8):
        ones = (IMAGES > 0.5).astype(kind)
        np.save("ones.npy", ones)
        for use in (partial(aemodels.fit, model="ae"), black_and_white.encode, black_and_white.evaluate):
            with pytest.raises(
                aemodels.UserError, match=r"is 1 white, or nearly black.* multiply by 255, if 1 is white"
            ):
                use(ones)
        with pytest.raises(aemodels.UserError, match="is 1 white, or nearly black"):
            aemodels.fit("ones.npy", "ae", **QUICK)
    assert aemodels.fit(ones / 255, "ae", **QUICK).encode(ones / 255).shape == (60, 3)
    assert black_and_white.encode(IMAGES > 0.5).shape == (60, 3)


class Named(torch.utils.data.Dataset):
    """Holds pairs of an image and the name of its class."""

    def __len__(self) -> int:
        return len(IMAGES)

    def __getitem__(self, i: int) -> tuple[np.ndarray, str]:
        return IMAGES[i], LABELS[i]


def test_data_sets_of_other_forms() -> None:
    alone = torch.utils.data.TensorDataset(torch.from_numpy(IMAGES))
    assert aemodels.fit(alone, "ae", **QUICK).classes == ()
    named = [(image, name) for image, name in zip(IMAGES, LABELS, strict=True)]
    dataset = type(
        "Named", (torch.utils.data.Dataset,), {"__len__": lambda _: 60, "__getitem__": lambda _, i: named[i]}
    )
    assert aemodels.fit(dataset(), "ae", **QUICK).classes == ("cat", "dog")
    assert aemodels.fit(IMAGES, "ae", labels=LABELS.astype(object), **QUICK).classes == ("cat", "dog")


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        (["a", None] * 30, "labels: 30 of 60 are None"),
        (LABELS[:-1], r"labels of shape \(59,\)"),
        (np.ones((60, 2)), r"labels of shape \(60, 2\)"),
    ],
)
def test_labels_that_do_not_fit_are_named(labels: np.ndarray, says: str) -> None:
    with pytest.raises(aemodels.UserError, match=says):
        aemodels.fit(IMAGES, "ae", labels=labels, **QUICK)


@pytest.mark.parametrize(
    ("parts", "says"),
    [
        ({"images": IMAGES, "more": IMAGES}, "more is unknown"),
        ({"pictures": IMAGES}, "no `images`"),
        ({"images": IMAGES, "labels": np.arange(60) % 2, "test_images": IMAGES}, "test_labels"),
        ({"images": IMAGES, "test_images": IMAGES[:, :4]}, "give one shape"),
        ({"images": IMAGES, "labels": np.arange(60), "classes": ["a"]}, "from 0 to 0, of 1 classes"),
    ],
)
def test_files_that_do_not_fit_are_named(parts: dict[str, object], says: str) -> None:
    np.savez("given.npz", **parts)
    with pytest.raises(aemodels.UserError, match=says):
        aemodels.fit("given.npz", "ae", **QUICK)


def test_a_damaged_file_is_named() -> None:
    np.savez("given.npz", images=IMAGES)
    whole = Path("given.npz").read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", whole[:2000] + b"x" + whole[2001:]):
        Path("given.npz").write_bytes(damaged)
        with pytest.raises(aemodels.UserError, match=r"data\.path=.*given\.npz: cannot be read"):
            aemodels.fit("given.npz", "ae", **QUICK)


def test_folders_that_cannot_be_made_are_named(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = aemodels.fit(IMAGES, "ae", **QUICK)
    (elsewhere / "file").write_text("")
    for target in ("file", "file/below", "/proc/nothing"):
        with pytest.raises(aemodels.UserError, match=target):
            model.save(target)
    monkeypatch.setenv("AEMODELS_CACHE", "/proc/nothing")
    with pytest.raises(aemodels.UserError, match="/proc/nothing"):
        aemodels.fit(IMAGES, "ae", seed=1, **QUICK)


def test_the_callers_noise_stays_as_it_was() -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    model = aemodels.fit(IMAGES, "ae", **QUICK)
    aemodels.load(model.save("kept"))
    assert torch.equal(torch.rand(2), expected)


def test_a_tracked_model_of_arrays_needs_a_name() -> None:
    with pytest.raises(aemodels.SettingsError, match=r"registry\.name"):
        aemodels.fit(IMAGES, "ae", track=True, **QUICK)


def test_a_report_of_given_images_tells_of_them_alone() -> None:
    model = aemodels.fit(IMAGES, "ae", **QUICK)
    assert "20 that were given to be evaluated" in model.report("report.html", NEW[:20]).read_text()
    assert "for training" in model.report("report.html").read_text()


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


def test_numbers_of_classes_are_the_persons_own() -> None:
    model = aemodels.fit(IMAGES, "cvae", labels=np.arange(60) % 3 + 1, **QUICK)
    np.testing.assert_array_equal(model.sample(2, label=1), model.sample(2, label="1"))
    for unknown in (0, "0"):
        with pytest.raises(aemodels.UserError, match="label=0: unknown; choose one of 1, 2, 3"):
            model.sample(2, label=unknown)
    by_name = model.sample(64, label="2")
    done = call("generate", model.save("kept"), "--label", 2, "-n", 64, "-o", "two.png")
    assert done.code == 0, done.err
    drawn = np.asarray(Image.open("two.png")) / 255  # a grid of 8 x 8 images, each magnified to 64 pixels
    np.testing.assert_allclose(drawn[5:67:8, 5:67:8], by_name[0], atol=0.01)
    with pytest.raises(aemodels.UserError, match="at least two"):
        model.evaluate(NEW[:1])
    assert model.evaluate(NEW[:6], [1, 2, 3] * 2) == model.evaluate(NEW[:6], ["1", "2", "3"] * 2)


def test_wrong_arguments_are_named() -> None:
    model = aemodels.fit(torch.from_numpy(IMAGES).bfloat16(), "ae", **QUICK)
    for wrong, says in (
        (lambda: model.sample(1.5), "n=1.5"),
        (lambda: model.sample(True), "n=True, seed=0: give whole numbers"),
        (lambda: model.like(IMAGES, n=1.5), "n=1.5"),
        (lambda: model.like(IMAGES[:1]), r"one image is one code of ae 3 \(model.name=ae\), .*; give at least two"),
        (lambda: model.encode("photos"), "images=photos: a path"),
        (
            lambda: model.sample(2, label="cat"),
            r"label=cat: .* \(model\.name=ae\) cannot be asked for a class; leave the label out",
        ),
        (lambda: aemodels.train({"a": 1}), "settings="),
    ):
        with pytest.raises(aemodels.UserError, match=says):
            wrong()


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


def starts_of_trainings(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Lists after which epoch each training from now on starts."""
    real, states = saving.train, []

    def spied(*arguments: object, **named: object) -> object:
        states.append(named["resume"].epoch if named["resume"] else 0)  # as it is now, since it is trained on
        return real(*arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(saving, "train", spied)
    return states


def interrupted(*_: object) -> None:
    raise KeyboardInterrupt


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
def test_what_a_search_found_is_fitted() -> None:
    found = aemodels.search(IMAGES, "ae", trials=2, **UNSIZED)
    model = aemodels.fit(IMAGES, "ae", **QUICK | found.best)
    assert model.latent_dim == found.best["model.latent_dim"]


@pytest.mark.usefixtures("elsewhere")
def test_advice_is_that_of_the_commands(tmp_path: Path) -> None:
    dead = aemodels.fit(IMAGES, "vae", beta=1e6, trunk="mlp", training__epochs=2)
    (line,) = dead.advice()
    assert "No number of the code tells anything of an image" in line
    assert "No number of the code tells anything" in dead.report(tmp_path / "dead.html").read_text()
    (tracked,) = aemodels.fit(
        IMAGES, "vae", beta=1e6, trunk="mlp", training__epochs=2, track=True, registry__name="dead"
    ).advice()
    assert tracked == line


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
