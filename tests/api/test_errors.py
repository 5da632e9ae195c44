"""Tests that a Python program is told in words what is wrong, before any work."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from fits import IMAGES, LABELS, QUICK, Named

import aemodels
from aemodels.config import OwnWarning, SettingsError
from aemodels.models.ae import AEConfig


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
    ("target", "kind"),
    [
        (torch.zeros(40, dtype=torch.long), r"Tensor of shape \(40,\)"),  # CelebA's attributes
        ((1, "cat"), "tuple"),
        ((torch.zeros(2), torch.zeros(3)), "tuple"),
        ({"class": 1}, "dict"),
        (object(), "object"),
    ],
    ids=["attributes", "pair", "unlike tensors", "dictionary", "object"],
)
def test_data_sets_with_several_targets_are_refused(target: object, kind: str) -> None:
    dataset = Pairs(target)
    with pytest.raises(aemodels.UserError, match=f"labels of this data set are of type {kind}; give labels=.* alone"):
        aemodels.fit(dataset, "ae", **QUICK)
    assert aemodels.fit(dataset, "ae", labels=LABELS, **QUICK).classes == ("cat", "dog")


class Pairs(torch.utils.data.Dataset):
    """Holds pairs of an image and a target, which is the same for all."""

    def __init__(self, target: object) -> None:
        self.target = target

    def __len__(self) -> int:
        return len(IMAGES)

    def __getitem__(self, i: int) -> tuple[np.ndarray, object]:
        return IMAGES[i], self.target


@pytest.mark.parametrize(
    ("parts", "says"),
    [
        ({"images": IMAGES, "more": IMAGES}, "more is unknown"),
        ({"pictures": IMAGES}, "no `images`"),
        ({"images": IMAGES, "labels": np.arange(60) % 2, "test_images": IMAGES}, "test_labels"),
        ({"images": IMAGES, "test_images": IMAGES[:, :4]}, "give one shape"),
        (
            {"images": IMAGES, "labels": np.arange(61), "val_images": IMAGES[:9], "val_labels": np.arange(8)},
            r"60 images and labels of shape \(61,\); give one for each",
        ),
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


def test_a_tracked_model_of_arrays_needs_a_name() -> None:
    with pytest.raises(aemodels.SettingsError, match=r"registry\.name"):
        aemodels.fit(IMAGES, "ae", track=True, **QUICK)


def test_wrong_arguments_are_named() -> None:
    model = aemodels.fit(torch.from_numpy(IMAGES).bfloat16(), "ae", **QUICK)
    for wrong, says in (
        (lambda: model.sample(1.5), "n=1.5"),
        (lambda: model.sample(True), "n=True, seed=0: give whole numbers"),
        (lambda: model.like(IMAGES, n=1.5), "n=1.5"),
        (lambda: model.like(IMAGES[:1]), r"one image is one code of ae 3 \(model.name=ae\), .*; give at least two"),
        (lambda: model.encode("photos"), "images=photos: give an array of images; .*model.read"),
        (
            lambda: model.sample(2, label="cat"),
            r"label=cat: .* \(model\.name=ae\) cannot be asked for a class; leave the label out",
        ),
        (lambda: aemodels.train({"a": 1}), "settings="),
    ):
        with pytest.raises(aemodels.UserError, match=says):
            wrong()
