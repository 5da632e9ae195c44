"""Tests what a person is told about a model that is not good, and that a good one gets no advice."""

from __future__ import annotations

import math
from typing import Any

import pytest
from quick import first

from aemodels.config import section_kinds
from aemodels.data.prepared import PreparedData
from aemodels.evaluation.advice import Course, advise
from aemodels.evaluation.evaluate import EvaluationConfig, evaluate
from aemodels.evaluation.evidence import Evidence
from aemodels.experiment import Experiment
from aemodels.models import AEConfig, GANConfig, VAEConfig
from aemodels.training.config import TrainingConfig
from aemodels.training.models import best_model
from aemodels.training.train import train

GOOD = {"mse": 0.004, "mean_image_mse": 0.06, "linear_code_mse": 0.006, "active_units": 9.0}


def course(validation: list[float], best: int, training: TrainingConfig | None = None, **changes: Any) -> Course:
    """Returns a training whose loss on its own images falls for ever."""
    losses = [1 / (i + 1) for i in range(len(validation))]
    history = [{"val/objective": value, "train/loss": loss} for value, loss in zip(validation, losses, strict=True)]
    settled = (training or TrainingConfig(updates=2_500)).for_images(1_000)
    found = Course(VAEConfig(), settled, "objective", 1_000, history, best)
    return found._replace(**changes)


FLAT = [100 + 50 * math.exp(-i / 3) for i in range(25)]
FALLING = [200.0 - 4 * i for i in range(25)]
RISING = [100 + 50 * math.exp(-i / 3) + max(0, i - 9) for i in range(25)]


def test_a_good_model_gets_no_advice() -> None:
    assert advise(course(FLAT, 25), GOOD) == ()
    assert advise(course(FLAT, 25), {}) == (), "nothing is known of it"
    noisy = [value + (-1) ** i for i, value in enumerate(FLAT)]
    assert advise(course(noisy, 24), GOOD) == ()


def test_a_loss_that_still_falls() -> None:
    (constant,) = advise(course(FALLING, 25, TrainingConfig(updates=2_500, schedule="constant")), GOOD)
    assert "still falling at the end: train 2,500 more updates, with training.updates=5000." in constant
    (cosine,) = advise(course(FALLING, 25, TrainingConfig(updates=2_500, schedule="cosine")), GOOD)
    assert "give twice the updates, with training.updates=5000." in cosine
    (epochs,) = advise(course(FALLING, 25, TrainingConfig(epochs=25, batch_size=100)), GOOD)
    assert "train 250 more updates, with training.epochs=50." in epochs
    assert advise(course(FALLING[:20], 20), GOOD) == (), "it has stopped early"


def test_images_that_are_learned_by_heart() -> None:
    (line,) = advise(course(RISING, 10), GOOD)
    assert "Since update 1,000 the model has learned its training images by heart" in line
    assert "The weights of that update are kept." in line
    stuck = course(RISING, 10)
    worse = [{**epoch, "train/loss": 1.0} for epoch in stuck.history]
    assert advise(stuck._replace(history=worse), GOOD) == (), "it has learned nothing by heart"
    parts = [{**epoch, "train/loss": 1.0, "train/part/loss": -float(i)} for i, epoch in enumerate(stuck.history)]
    assert len(advise(stuck._replace(history=parts), GOOD)) == 1, "what its parts have learned counts together"


def test_a_training_that_stopped_early_as_it_learned_its_images_by_heart() -> None:
    """The validation loss of this one, of photos of objects, is too noisy to be sure that it rose."""
    noisy = [-1317.0, -1390.0, -1447.0, -1459.0, -1410.0, -1420.0, -1362.0, -1385.0, -1375.0]
    learned = [-1237.0, -1500.0, -1640.0, -1742.0, -1850.0, -1940.0, -2014.0, -2080.0, -2150.0]

    def told(losses: list[float]) -> tuple[str, ...]:
        history = [{"val/objective": v, "train/loss": t} for v, t in zip(noisy, losses, strict=True)]
        return advise(course(noisy, 4, TrainingConfig(updates=1_500), history=history), GOOD)

    (line,) = told(learned)
    assert "Since update 400 the model has learned its training images by heart" in line
    assert told([*learned[:4], *[-1745.0] * 5]) == (), "nothing more was learned"
    assert told([-1300.0, *noisy[1:4], *[value - 5 for value in noisy[4:]]]) == (), "there is no gap"
    assert told([-1900.0, -1850.0, -1800.0, -1700.0, *[-1720.0] * 5]) == (), "the loss rose as the rate came in"


def test_images_that_are_learned_by_heart_from_the_start() -> None:
    """A linear code of few images is a start that no update makes better."""
    as_good = GOOD | {"mse": 0.006}
    linear, heart = advise(course([150.0, 250.0], 0, TrainingConfig(updates=200)), as_good)
    assert "A linear code of as many numbers is as good" in linear
    assert linear.endswith("Give more images.")
    assert "No update made the model better than it was at its start" in heart
    assert "(the loss is 0.5 on them and 250 on validation images)" in heart
    assert "training.learning_rate=0.0001" in heart
    stuck = course([0.1, 0.2], 0, TrainingConfig(updates=200))  # training images are no better than others
    (longer,) = advise(stuck, as_good)
    assert "training.updates=400" in longer


def test_a_steep_rise_is_no_noise() -> None:
    """A VAE whose likelihood takes the best sigma has such a course: each epoch is far from the one before."""
    steep = [200.0, 100, 50, 150, 250, 350, 450, 550]
    (line,) = advise(course(steep, 3, TrainingConfig(updates=1_000)), GOOD)
    assert "that on validation images from 50 to 550 did not." in line
    assert advise(course([200.0, 300.0], 1, TrainingConfig(updates=200)), GOOD) == (), "two epochs show no noise"


def test_a_model_that_a_linear_code_beats() -> None:
    bad = GOOD | {"mse": 0.01}
    for trunk, wider in (("mlp", "widths=[800]"), ("conv", "channels=[64, 128]"), ("photo", "width=96")):
        model = VAEConfig.parse({"trunk": trunk})
        (line,) = advise(course(FLAT, 25, model=model), bad)
        assert "its squared error is 0.006, that of the model 0.01. Give training.updates=5000 and " in line
        assert f" and model.trunk.{wider}" in line
    (line,) = advise(course(FLAT, 25), GOOD | {"mse": 0.006000001})
    assert line.startswith("A linear code of as many numbers is as good: ")
    linear, by_heart = advise(course(RISING, 10), bad)
    assert linear.endswith("Give more images.")
    assert "by heart" in by_heart


def test_a_dead_model_is_told_of_that_alone() -> None:
    (line,) = advise(course(FALLING, 25), GOOD | {"active_units": 0.0})
    assert "all reconstructions are alike: give training.updates=5000." in line
    (line,) = advise(course(FLAT, 24), GOOD | {"active_units": 0.0, "mse": 0.06})
    assert "all reconstructions are alike: give model.beta=0.25 and model.beta_warmup_steps=1000." in line
    dead = {"mse": 0.07, "mean_image_mse": 0.06, "linear_code_mse": 0.006}
    (line,) = advise(course(FLAT, 0, model=AEConfig()), dead)
    assert "worse than the mean of the training images (squared error 0.07 against 0.06)" in line
    assert "give training.learning_rate=0.0003 and training.updates=5000." in line
    (line,) = advise(course(FLAT, 0, model=AEConfig()), dead | {"mse": 0.0599})
    assert "no better than the mean" in line


def test_an_adversarial_model_needs_more_updates() -> None:
    (line,) = advise(course(FLAT, 25, model=GANConfig(), selection=None), {})
    assert "some 5,000 updates before it draws shapes, and this one had 2,500: give training.updates=5000." in line
    enough = course(FLAT, 25, TrainingConfig(updates=5_000), model=GANConfig(), selection=None)
    assert advise(enough, {}) == ()
    epochs = TrainingConfig(epochs=80, batch_size=64)
    (line,) = advise(course(FLAT, 25, epochs, model=GANConfig(), selection=None), {})
    assert "had 1,280: give training.epochs=313." in line


SELECTED = [  # models whose best weights the validation selects
    name
    for name, model in section_kinds(Experiment.model_fields["model"]).items()
    if model().build((1, 8, 8), num_classes=2).selection is not None
]
REAL = {  # settings, and what the advice says
    "good": ({"training.schedule": "cosine"}, None),
    "by heart": ({"training.images": 60, "training.updates": 2_500, "training.schedule": "constant"}, "by heart"),
}


@pytest.mark.parametrize("case", REAL)
@pytest.mark.parametrize("model", first(2, SELECTED))
def test_real_trainings(model: str, case: str, digits: PreparedData) -> None:
    settings, expected = REAL[case]
    small = {"model": {"name": model, "latent_dim": 16, "trunk": {"name": "mlp", "widths": [64]}}}
    experiment = Experiment().override(small).override(settings).for_data(digits)
    *_, last = train(experiment.model, digits, experiment.training, experiment.seed)
    best = best_model(experiment.model, digits, experiment.training, experiment.seed, last.state)
    metrics = evaluate(Evidence(best, digits, None, EvaluationConfig(primary="mse")), only=("mse",)).metrics
    seen, state = experiment.seen(digits), last.state
    found = Course(experiment.model, experiment.training, best.selection, seen, state.history, state.best_epoch)
    lines = advise(found, metrics)
    assert [expected in line for line in lines] == ([] if expected is None else [True]), lines
