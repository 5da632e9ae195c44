"""Tests what a fitted model does for a Python program."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from commands import call
from fits import IMAGES, LABELS, NEW, QUICK
from PIL import Image

import aemodels
from aemodels.config import OwnWarning
from aemodels.data import prepared_before


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
    # What it is measured beside is the same too: the classifier, the codes of training images, the linear code.
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


def test_a_report_of_given_images_tells_of_them_alone() -> None:
    model = aemodels.fit(IMAGES, "ae", **QUICK)
    assert "20 that were given to be evaluated" in model.report("report.html", NEW[:20]).read_text()
    assert "for training" in model.report("report.html").read_text()


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


@pytest.mark.slow
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
