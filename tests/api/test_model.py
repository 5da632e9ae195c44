"""Tests what a fitted model does for a Python program."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from commands import call
from fits import IMAGES, LABELS, QUICK
from PIL import Image

import aemodels


def test_a_model_is_evaluated_reported_saved_and_loaded() -> None:
    model = aemodels.fit(IMAGES, "vae", **QUICK)
    found = model.evaluate(IMAGES)
    assert found["mse"] == pytest.approx(model.score((IMAGES * 255).round() / 255).mean(), rel=1e-3)
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
    few = LABELS == "dog"
    named = model.evaluate(IMAGES[few], LABELS[few])  # one class of two
    assert named == model.evaluate(IMAGES[few], np.ones(few.sum(), int))
    with pytest.raises(aemodels.UserError, match="labels: cow is no class of this model; it knows cat, dog"):
        model.evaluate(IMAGES[:2], ["cow", "dog"])
    assert "mse" in model.evaluate(IMAGES[:3], LABELS[:3])


def test_a_report_of_given_images_tells_of_them_alone() -> None:
    model = aemodels.fit(IMAGES, "ae", **QUICK)
    assert "20 that were given to be evaluated" in model.report("report.html", IMAGES[:20]).read_text()
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
        model.evaluate(IMAGES[:1])
    assert model.evaluate(IMAGES[:6], [1, 2, 3] * 2) == model.evaluate(IMAGES[:6], ["1", "2", "3"] * 2)


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
